# SPDX-License-Identifier: Apache-2.0
"""Checks of this installation on this device: values against plain loops, resumption, and speed.

`suite.CHECKS` lists the checks; each is a function of a `results.Context` that yields results.
`python -m mrd_jax.tools.selfcheck` runs them.
"""
