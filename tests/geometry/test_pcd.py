# SPDX-License-Identifier: Apache-2.0
"""Point clouds in PCD files of the Point Cloud Library."""

import struct

import numpy as np
import pytest
from loading import load

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers import lzf

XYZ = np.array([[0.5, 1, 2], [3, -4, 5.25], [6, 7, 8], [6, 7, 8.5]], np.float32)
RGB = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 255], [1, 2, 3]], np.uint8)
PACKED = (RGB.astype(np.uint32) * [1 << 16, 1 << 8, 1]).sum(axis=1).astype(np.uint32)


def header(fields, *, data, count=4, size=None):
    """Returns a header.

    Args:
      fields: name, size, type and count of each field.
    """
    names, sizes, kinds, counts = (" ".join(map(str, row)) for row in zip(*fields, strict=True))
    width, height = size or (count, 1)
    return (
        f"# .PCD v0.7 - Point Cloud Data file format\nVERSION 0.7\nFIELDS {names}\nSIZE {sizes}\n"
        f"TYPE {kinds}\nCOUNT {counts}\nWIDTH {width}\nHEIGHT {height}\n"
        f"VIEWPOINT 0 0 0 1 0 0 0\nPOINTS {count}\nDATA {data}\n"
    ).encode()


POSITIONS = [("x", 4, "F", 1), ("y", 4, "F", 1), ("z", 4, "F", 1)]
COLOURS = {
    "float": (("rgb", 4, "F", 1), PACKED.view(np.float32)),
    "unsigned": (("rgba", 4, "U", 1), PACKED | np.uint32(255 << 24)),
    "signed": (("rgb", 4, "I", 1), PACKED.view(np.int32)),
}


def literal(data):
    """Compresses by LZF with plain bytes only."""
    pieces = [data[i : i + 32] for i in range(0, len(data), 32)]
    return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)


@pytest.mark.parametrize("kind", COLOURS)
@pytest.mark.parametrize("data", ["ascii", "binary", "binary_compressed"])
def test_packed_colours_of_each_encoding(kind, data):
    field, packed = COLOURS[kind]
    columns = [*XYZ.T, packed]
    if data == "ascii":
        digits = [[repr(float(v)) if v.dtype.kind == "f" else str(v) for v in c] for c in columns]
        body = "\n".join(" ".join(row) for row in zip(*digits, strict=True)).encode()
    elif data == "binary":
        body = np.rec.fromarrays(columns).tobytes()
    else:
        plain = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
        packed_bytes = literal(plain)
        body = struct.pack("<II", len(packed_bytes), len(plain)) + packed_bytes
    content = load(header([*POSITIONS, field], data=data) + body, "pcd")
    np.testing.assert_array_equal(content.xyz, XYZ)
    np.testing.assert_array_equal(content.rgb, RGB)
    assert content.notes == ()


@pytest.mark.parametrize("names", [("r", "g", "b"), ("red", "green", "blue")])
@pytest.mark.parametrize(("size", "kind", "scale"), [(1, "U", 1), (2, "U", 257), (4, "F", 1 / 255)])
def test_colours_in_three_fields(names, size, kind, scale):
    code = {"U": "u", "F": "f"}[kind] + str(size)
    fields = [*POSITIONS, *((name, size, kind, 1) for name in names)]
    columns = [*XYZ.T, *(RGB * np.float64(scale)).T.astype(code)]
    content = load(header(fields, data="binary") + np.rec.fromarrays(columns).tobytes(), "pcd")
    scale = 1 if content.rgb.dtype == np.uint8 else 255
    np.testing.assert_allclose(content.rgb * np.float64(scale), RGB, atol=1e-3)


def test_padding_and_fields_of_several_values_are_skipped():
    fields = [*POSITIONS, ("_", 1, "U", 4), ("normal", 4, "F", 3), ("_", 1, "U", 2)]
    dtype = [
        (f"{name}{i}", f"{kind.lower()}{size}", (count,))
        for i, (name, size, kind, count) in enumerate(fields)
    ]
    table = np.zeros(len(XYZ), dtype)
    for i in range(3):
        table[f"{'xyz'[i]}{i}"][:, 0] = XYZ[:, i]
    content = load(header(fields, data="binary") + table.tobytes(), "pcd")
    np.testing.assert_array_equal(content.xyz, XYZ)
    assert content.rgb is None


def test_positions_of_64_bits_keep_their_precision():
    fields = [(axis, 8, "F", 1) for axis in "xyz"]
    utm = XYZ.astype(np.float64) + [455123.0625, 5411234.0625, 0]
    content = load(header(fields, data="binary") + utm.tobytes(), "pcd")
    np.testing.assert_array_equal(content.xyz, utm)


def test_nan_points_of_organised_clouds_are_dropped_and_counted():
    xyz = XYZ.copy()
    xyz[1] = np.nan
    content = load(header(POSITIONS, data="binary", size=(2, 2)) + xyz.tobytes(), "pcd")
    np.testing.assert_array_equal(content.xyz, XYZ[[0, 2, 3]])
    assert any("not finite" in note for note in content.notes)


def test_headers_without_points_use_width_and_height():
    head = header(POSITIONS, data="ascii", size=(2, 2)).replace(b"POINTS 4\n", b"")
    text = "\n".join(" ".join(map(repr, row)) for row in XYZ.tolist())
    np.testing.assert_array_equal(load(head + text.encode(), "pcd").xyz, XYZ)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(POSITIONS, data="binary") + XYZ.tobytes()[:-1], "truncated"),
        (header(POSITIONS, data="ascii") + b"1 2 3\n", "truncated"),
        (header(POSITIONS, data="ascii") + b"1 2\n" * 4, "rows of 2 numbers"),
        (header(POSITIONS[:2], data="ascii") + b"1 2\n" * 4, "no field z"),
        (header(POSITIONS, data="zipped") + b"1 2 3\n" * 4, "data is 'zipped'"),
        (header([("x", 3, "F", 1)], data="ascii"), "type F and size 3"),
        (header(POSITIONS, data="ascii", count=0), "no points"),
        (b"# .PCD v0.7\nFIELDS x y z\n", "without a line DATA"),
        (header(POSITIONS, data="binary_compressed") + struct.pack("<II", 99, 48), "truncated"),
    ],
)
def test_corrupt_files_are_refused_by_name(data, message):
    with pytest.raises(scene.MeshError, match=message):
        load(data, "pcd")


def test_declared_points_are_checked_before_they_take_memory():
    data = header(POSITIONS, data="binary", count=10**12)
    with pytest.raises(scene.MeshError, match=limits.POINTS.variable):
        load(data, "pcd")


@pytest.mark.parametrize(
    ("data", "plain"),
    [
        (b"\x02abc", b"abc"),
        (b"\x02abc\x20\x02", b"abcabc"),  # a copy of 3 bytes from distance 3
        (b"\x00a\x40\x00", b"aaaaa"),  # a copy of 4 bytes that overlaps itself
        (b"\x01ab\xe0\x05\x01", b"ab" * 8),  # a long copy: 7 + 5 + 2 bytes
    ],
)
def test_lzf_is_decompressed(data, plain):
    assert lzf.decompress(data, size=len(plain)) == plain


@pytest.mark.parametrize("data", [b"\x20\x00", b"\x02abc\xe0", b"\x02abcd", b"\x02ab"])
def test_corrupt_lzf_is_refused(data):
    with pytest.raises(scene.MeshError, match="compressed points"):
        lzf.decompress(data, size=5)
