# SPDX-License-Identifier: Apache-2.0
"""Writer of small PLY files in all three formats."""

import struct

import numpy as np

CODES = {
    **{"char": "b", "uchar": "B", "int8": "b", "uint8": "B", "short": "h", "ushort": "H"},
    **{"int16": "h", "uint16": "H", "int": "i", "uint": "I", "int32": "i", "uint32": "I"},
    **{"float": "f", "float32": "f", "double": "d", "float64": "d"},
}
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
XYZ = (("float", "x"), ("float", "y"), ("float", "z"))
FACES = (("uchar", "int", "vertex_indices"),)
# A pyramid of a square and four triangles, 2 x 2 x 3: faces of mixed sizes.
CORNERS = [(0, 0, 0), (2, 0, 0), (2, 2, 0), (0, 2, 0), (1, 1, 3)]
SIDES = [([0, 3, 2, 1],), ([0, 1, 4],), ([1, 2, 4],), ([2, 3, 4],), ([3, 0, 4],)]


def ply(*elements, form="ascii", comments=(), newline="\n"):
    """Returns the bytes of a PLY file.

    Args:
      elements: (name, properties, rows); a property is (type, name), or (type of the length, type,
        name) for a list; a row has a number or a list per property.
      form: one of FORMATS.
      comments: lines of the header behind the format.
      newline: line break of the header, and of the body of a text file.
    """
    lines = ["ply", f"format {form} 1.0", *comments]
    for name, properties, rows in elements:
        lines.append(f"element {name} {len(rows)}")
        for item in properties:
            lines.append("property " + ("list " if len(item) == 3 else "") + " ".join(item))
    head = newline.join([*lines, "end_header", ""]).encode("ascii")
    write = _text if form == "ascii" else _binary
    return head + b"".join(
        write(properties, row, order=FORMATS[form], newline=newline)
        for _, properties, rows in elements
        for row in rows
    )


def _text(properties, row, *, order, newline):
    words = []
    for item, value in zip(properties, row, strict=True):
        words += [len(value), *value] if len(item) == 3 else [value]
    return (" ".join(map(str, words)) + newline).encode("ascii")


def _binary(properties, row, *, order, newline):
    data = b""
    for item, value in zip(properties, row, strict=True):
        if len(item) == 3:
            data += struct.pack(order + CODES[item[0]], len(value))
            data += struct.pack(order + CODES[item[1]] * len(value), *value)
        else:
            data += struct.pack(order + CODES[item[0]], value)
    return data


def cloud(colours, *, corners=None, form="binary_little_endian", comments=()):
    """Returns a PLY file of points of one colour.

    Args:
      colours: (type, name, value) of further columns; a value may be a list of one per point.
      corners: points; None for eight random ones.
      form: one of FORMATS.
      comments: lines of the header.
    """
    xyz = np.random.default_rng(0).random((8, 3)) if corners is None else corners
    columns = [np.broadcast_to(value, len(xyz)).tolist() for _, _, value in colours]
    rows = [(*map(float, p), *(c[i] for c in columns)) for i, p in enumerate(xyz)]
    properties = (*XYZ, *((kind, name) for kind, name, _ in colours))
    return ply(("vertex", properties, rows), form=form, comments=comments)
