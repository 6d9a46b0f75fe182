# SPDX-License-Identifier: Apache-2.0
"""Point clouds in npy and npz files: names, shapes, ranges of colours, and refused content."""

import io
import pickle

import numpy as np
import pytest
from loading import colours, load

from data_prep.foreign import limits
from data_prep.geometry.scene import MeshError

RNG = np.random.default_rng(0)
XYZ = RNG.normal(size=(40, 3))
ORANGE = (255, 102, 51)
RGB = np.tile(np.uint8(ORANGE), (40, 1))
BEYOND = "columns beyond 6, ignored"
NOT_COLOURS = "columns 4 to 6 are not colours, ignored"
NORMALS = XYZ / np.linalg.norm(XYZ, axis=1, keepdims=True)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(save=np.savez, **arrays):
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def check(content, *, rgb=ORANGE, notes=(), xyz=XYZ):
    """Checks points, their colour (None for none) and the notes."""
    np.testing.assert_allclose(content.xyz, xyz, rtol=1e-6)
    if rgb is None:
        assert content.rgb is None
    else:
        np.testing.assert_allclose(colours(content), [rgb] * len(xyz), atol=0.51)
    assert content.notes == notes


# Names and shapes.


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "names",
    [
        ("coords", "R", "G", "B"),
        ("coords", "r", "g", "b"),
        ("xyz", "red", "green", "blue"),
        ("points", "Red", "Green", "Blue"),
    ],
)
@pytest.mark.parametrize("full", [1.0, 255.0])
def test_channels_of_point_e_and_cap3d(save, names, full):
    place, *channels = names
    arrays = {name: RGB[:, i] / 255 * full for i, name in enumerate(channels)}
    more = {"A": np.ones(40), "nx": np.zeros(40)}
    content = load(npz(save, **{place: XYZ.astype(np.float32)}, **arrays, **more), "npz")
    check(content)


@pytest.mark.parametrize("place", ["xyz", "points", "coords", "Pos", "VERTICES", "verts"])
@pytest.mark.parametrize("colour", ["rgb", "colors", "colours", "Color", "colour", "RGBs"])
def test_names_of_arrays(place, colour):
    check(load(npz(**{place: XYZ, colour: RGB, "faces_of_x": np.zeros(3)}), "npz"))


@pytest.mark.parametrize("place", ["xyzrgb", "xyz_rgb", "pc", "point_cloud", "pcd", "cloud", "a"])
def test_one_array_of_points_and_colours(place):
    check(load(npz(**{place: np.hstack([XYZ, RGB / 255])}), "npz"))


def test_one_array_of_any_name_is_the_points():
    check(load(npz(arr_0=XYZ), "npz"), rgb=None)


def test_faces_are_noted():
    content = load(npz(vertices=XYZ, faces=np.zeros((4, 3), int)), "npz")
    check(content, rgb=None, notes=("faces in an array file, ignored",))


@pytest.mark.parametrize(
    "dtype", ["float16", "float32", "float64", ">f4", ">f8", "int8", "int16", "int32", "uint8"]
)
def test_points_of_every_type(dtype):
    points = np.arange(12).reshape(4, 3).astype(dtype)
    check(load(npy(points), "npy"), rgb=None, xyz=points)


@pytest.mark.parametrize("shape", [(1, 40, 3), (1, 1, 40, 3)])
def test_leading_axes_of_size_1_are_left_out(shape):
    check(load(npy(XYZ.reshape(shape)), "npy"), rgb=None)
    check(load(npz(xyz=XYZ.reshape(shape), rgb=RGB.reshape(shape)), "npz"))


@pytest.mark.parametrize("name", ["npy", "npz"])
def test_the_content_tells_npy_and_npz_apart(name):
    check(load(npy(XYZ), name), rgb=None)
    check(load(npz(xyz=XYZ, rgb=RGB), name))


def test_arrays_in_the_order_of_fortran():
    check(load(npy(np.asfortranarray(np.hstack([XYZ, RGB / 255]))), "npy"))


@pytest.mark.parametrize("shape", [(3, 6), (2, 9), (9, 9), (20, 20), (70, 64)])
def test_few_points_and_many_columns_are_read(shape):
    array = np.linspace(0, 1, np.prod(shape)).reshape(shape)
    np.testing.assert_array_equal(load(npy(array), "npy").xyz, array[:, :3])


# Columns.

UNIT = RGB / 255


@pytest.mark.parametrize(
    ("columns", "rgb", "notes"),
    [
        ((XYZ, UNIT), ORANGE, ()),
        ((XYZ, RGB), ORANGE, ()),
        ((XYZ, RGB / 255 * 65535), ORANGE, ()),
        ((XYZ, UNIT, UNIT[:, :1]), ORANGE, (BEYOND,)),
        ((XYZ, UNIT, NORMALS), ORANGE, (BEYOND,)),
        ((XYZ, NORMALS), None, (NOT_COLOURS,)),
        ((XYZ, NORMALS, UNIT), ORANGE, (NOT_COLOURS,)),
        ((XYZ, NORMALS, RGB), ORANGE, (NOT_COLOURS,)),
        ((XYZ, NORMALS, XYZ), None, (NOT_COLOURS, BEYOND)),
        ((XYZ, NORMALS, UNIT[:, :1]), None, (NOT_COLOURS, BEYOND)),
    ],
    ids=[
        *("rgb", "rgb of 255", "rgb of 65535", "rgb and one more", "rgb and normals"),
        *("normals", "normals and rgb", "normals and rgb of 255", "normals and more", "curvature"),
    ],
)
def test_columns_behind_the_coordinates(columns, rgb, notes):
    check(load(npy(np.hstack(columns)), "npy"), rgb=rgb, notes=notes)


def test_normals_that_are_zero_or_missing_are_normals():
    normals = NORMALS.copy()
    normals[:3] = 0
    normals[3] = np.nan
    check(load(npy(np.hstack([XYZ, normals])), "npy"), rgb=None, notes=(NOT_COLOURS,))


def test_colours_of_their_own_array_beside_normals():
    content = load(npz(xyz=np.hstack([XYZ, NORMALS]), rgb=RGB), "npz")
    assert content.rgb is not None
    np.testing.assert_array_equal(content.xyz, XYZ)
    np.testing.assert_array_equal(content.rgb, RGB)


@pytest.mark.parametrize(
    "names",
    [
        ("x", "y", "z", "red", "green", "blue"),
        ("X", "Y", "Z", "R", "G", "B"),
        ("x", "y", "z", "diffuse_red", "diffuse_green", "diffuse_blue"),
    ],
)
@pytest.mark.parametrize(("kind", "full"), [("u1", 255), ("f4", 1), ("f4", 255), ("u2", 255)])
def test_named_fields(names, kind, full):
    table = np.zeros(40, [(n, "f8") for n in names[:3]] + [(n, kind) for n in names[3:]])
    for i, name in enumerate(names):
        table[name] = XYZ[:, i] if i < 3 else (UNIT if full == 1 else RGB)[:, i - 3]
    check(load(npy(table), "npy"))


# Ranges of colours.


@pytest.mark.parametrize(
    "values",
    [
        RGB,
        UNIT,
        UNIT.astype(np.float16),
        RGB.astype(np.float32),
        RGB.astype(np.int64),
        RGB.astype(np.uint16) * 257,
        (UNIT * 65535).astype(np.float32),
        np.hstack([RGB, RGB[:, :1]]),
        np.hstack([UNIT, UNIT[:, :1]]),
    ],
    ids=[
        *("uint8", "floats", "float16", "floats to 255", "int64", "uint16", "floats to 65535"),
        *("RGBA", "RGBA floats"),
    ],
)
def test_ranges_of_colours(values):
    check(load(npz(xyz=XYZ, rgb=values), "npz"))


def test_booleans_are_black_and_white():
    values = np.zeros((40, 3), bool)
    values[:, 0] = True
    check(load(npz(xyz=XYZ, rgb=values), "npz"), rgb=(255, 0, 0))


@pytest.mark.parametrize(
    ("rgb", "error"),
    [
        (UNIT[:39], r"colours are float64 \[39, 3\]; expected \[40, 3\]"),
        (UNIT[:, :2], r"colours are float64 \[40, 2\]; expected \[40, 3\]"),
        (UNIT[:, 0], r"colours are float64 \[40\]; expected \[40, 3\]"),
        (UNIT - 1, r"colours span -0\.8 to .*; expected floats 0 to 1 or integers 0 to 255"),
        (RGB.astype(np.float64) * 1e6, "colours span"),
        (np.full((40, 3), np.nan), "colours span nan to nan"),
        (RGB.astype(np.int64) - 200, "colours span"),
        (RGB.astype("U3"), r"colours are <U3 \[40, 3\]; expected numbers"),
    ],
)
def test_colours_that_are_none_are_an_error(rgb, error):
    with pytest.raises(MeshError, match=f"^{error}"):
        load(npz(xyz=XYZ, rgb=rgb), "npz")


def test_channels_of_different_sizes_are_an_error():
    with pytest.raises(MeshError, match=r"^channels of .* different sizes .*: \[40, 40, 39\]"):
        load(npz(coords=XYZ, R=UNIT[:, 0], G=UNIT[:, 1], B=UNIT[:39, 2]), "npz")


# Refused content.


@pytest.mark.parametrize(
    ("array", "error"),
    [
        (XYZ.T, r"points are float64 \[3, 40\]; .*; transpose the array"),
        (np.hstack([XYZ, RGB]).T, r"points are float64 \[6, 40\]; .*; transpose the array"),
        (np.tile(XYZ, (3, 1)).T[:, :100], r"points are float64 \[3, 100\]; .*; transpose"),
        (np.ones((9, 10)), r"points are float64 \[9, 10\]; .*; transpose the array"),
        (np.zeros((8, 40, 3)), r"points are float64 \[8, 40, 3\]; .*; save every cloud to a file"),
        (XYZ[:, :2], r"points are float64 \[40, 2\]"),
        (np.hstack([XYZ, UNIT[:, :1]]), r"points are float64 \[40, 4\]"),
        (XYZ[:, 0], r"points are float64 \[40\]"),
        (np.float64(3), r"points are float64 \[\]"),
        (XYZ.astype(complex), "points are complex128"),
        (XYZ.astype("U5"), "points are <U5"),
        (np.ones((40, 3), bool), "points are bool"),
        (np.zeros((0, 3)), "no points"),
        (np.full((4, 3), np.nan), "non-finite coordinates"),
        (np.zeros(4, [("x", "f4"), ("y", "f4")]), "element of the array has no property z"),
    ],
)
def test_arrays_that_are_no_cloud_are_an_error(array, error):
    with pytest.raises(MeshError, match=f"^{error}"):
        load(npy(array), "npy")


def test_points_that_are_not_finite_are_dropped_and_counted():
    xyz = XYZ.copy()
    xyz[3, 1], xyz[7, 0] = np.nan, np.inf
    content = load(npz(xyz=xyz, rgb=RGB), "npz")
    kept = np.delete(XYZ, [3, 7], axis=0)
    check(content, notes=("points that are not finite, dropped: 2",), xyz=kept)


@pytest.mark.parametrize(
    "arrays",
    [{"a": XYZ, "b": XYZ}, {"xyz": XYZ, "points": XYZ}, {"xyz": XYZ, "rgb": RGB, "color": RGB}, {}],
    ids=["unknown names", "two of points", "two of colours", "none"],
)
def test_an_archive_whose_names_do_not_tell_is_an_error(arrays):
    with pytest.raises(MeshError, match=r"^holds arrays \[.*\]; expected xyz, and perhaps rgb"):
        load(npz(**arrays), "npz")


class Bomb:
    def __reduce__(self):
        return (exec, ("raise AssertionError('a pickle was run')",))


@pytest.mark.parametrize(
    ("data", "file_type"),
    [
        (npy(np.array([Bomb()], object)), "npy"),
        (npz(xyz=np.array([Bomb()], object)), "npz"),
        (pickle.dumps(Bomb()), "npy"),
        (pickle.dumps({"xyz": XYZ}), "npz"),
    ],
    ids=["npy", "npz", "pickle", "pickle as npz"],
)
def test_pickles_are_refused_with_a_remedy(data, file_type):
    with pytest.raises(MeshError, match=r"^holds pickled objects, .* numpy\.savez\("):
        load(data, file_type)


@pytest.mark.parametrize("data", [npy(XYZ)[:-1], npz(xyz=XYZ)[:-30], b"\x93NUMPY", npy(XYZ)[:40]])
def test_damaged_files_are_an_error(data):
    with pytest.raises(MeshError):
        load(data, "npy")


def test_sizes_are_limited(monkeypatch):
    monkeypatch.setenv(limits.POINTS.variable, "39")
    with pytest.raises(MeshError, match="^too large: 40 points, at most 39"):
        load(npy(XYZ), "npy")
    monkeypatch.setenv(limits.ARRAY_BYTES.variable, "1200")
    with pytest.raises(MeshError, match="^too large: .* bytes of arrays, at most 1200 are read"):
        load(npz(np.savez_compressed, xyz=np.zeros((4000, 3))), "npz")
