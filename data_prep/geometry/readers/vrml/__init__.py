# SPDX-License-Identifier: Apache-2.0
"""VRML 1.0 and 2.0 (VRML97), and X3D as text and as XML.

`text` and `xml` parse files into `nodes`; `scene_graph` (VRML97 and X3D) and `state_graph` (VRML
1.0) walk through them; `faces` and `solids` make triangles.
"""

from data_prep.geometry.readers.vrml.reader import read

__all__ = ["read"]
