# SPDX-License-Identifier: Apache-2.0
"""What a run does when machines, files or numbers fail, so that nothing is lost or silently wrong.

`checksums` and `manifest` notice damaged checkpoints, `stopping` ends a run that is asked to leave,
`bad_steps` keeps numbers that are not finite out of the state, `watchdog` speaks up when nothing
moves, and `whole_files` writes small files complete or not at all.
"""
