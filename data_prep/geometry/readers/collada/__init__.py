# SPDX-License-Identifier: Apache-2.0
"""COLLADA files.

`reader` finds the scene, `graph` its instances, `sources` the arrays, `primitives` the polygons,
`skins` the deformed positions and `materials` the colours.
"""

from data_prep.geometry.readers.collada.reader import read

__all__ = ["read"]
