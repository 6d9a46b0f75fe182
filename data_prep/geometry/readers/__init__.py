# SPDX-License-Identifier: Apache-2.0
"""Readers of mesh and point cloud files, one module per format.

A reader is a function `read(data, *, assets, file_type) -> scene.Scene`. It reads the
whole file or raises:

* `scene.MeshError` with one sentence that names the cause,
* `limits.LimitError` for a file that is too large.

What it ignores or replaces goes into `assets.notes`.
"""
