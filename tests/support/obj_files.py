# SPDX-License-Identifier: Apache-2.0
"""Small OBJ files, and the colours that are read from them."""

import numpy as np
import tiny_catalogue
from loading import colours

from data_prep.geometry import surface as surfaces

# Two triangles of area 1 side by side: x from 0 to 1 and from 2 to 3.
CORNERS = "v 0 0 0\nv 1 0 0\nv 0 2 0\nv 2 0 0\nv 3 0 0\nv 2 2 0\n"
LEFT, RIGHT = "f 1 2 3\n", "f 4 5 6\n"
TWO = CORNERS + LEFT + RIGHT
TRIANGLE = "v 0 0 0\nv 1 0 0\nv 0 2 0\n"
UV = "vt 0 0\nvt 1 0\nvt 0 1\n"
RED, GREEN, BLUE, WHITE, GREY = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255,) * 3, (102,) * 3
MATERIALS = "newmtl red\nKd 1 0 0\nnewmtl green\nKd 0 1 0\nnewmtl wood\nKd 0 0 1\nmap_Kd w.png\n"
PICTURE = tiny_catalogue.png(np.full((2, 2, 3), (10, 20, 30)))
FILES = {"m.mtl": MATERIALS, "w.png": PICTURE}


def read(text, **files):
    """Loads an OBJ beside m.mtl and w.png; in names of more files, "_" stands for a dot."""
    named = {name.replace("_", "."): content for name, content in files.items()}
    return tiny_catalogue.content(FILES | named | {"a.obj": text}, "a.obj")


def rgb(content):
    """Returns the different colours of sampled points."""
    return set(map(tuple, colours(content).round().astype(int).tolist()))


def rgb_of(content, face):
    """Returns the colour at the centre of a face."""
    weights = np.full((1, 3), 1 / 3)
    return tuple(surfaces.colours_at(content.surface, np.array([face]), weights=weights)[0, :3])
