# SPDX-License-Identifier: Apache-2.0
"""npy and npz files of point clouds, as data sets publish them."""

import io

import numpy as np
import pytest
from loading import load

from data_prep.geometry.scene import MeshError

RNG = np.random.default_rng(0)
XYZ = RNG.normal(size=(20, 3)) * [1, 2, 3]
RGB = np.tile([200, 10, 30], (20, 1))
NORMALS = XYZ / np.linalg.norm(XYZ, axis=1, keepdims=True)


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npy(XYZ),
        npy(XYZ.astype(np.float32)),
        npy(XYZ[None]),
        npz(xyz=XYZ),
        npz(points=XYZ, label=np.int64(3)),
        npz(XYZ=XYZ, normals=NORMALS),
        npz(arr_0=XYZ),
        npz(vertices=XYZ),
    ],
)
def test_points_without_colours(data):
    content = load(data, "npz")
    np.testing.assert_allclose(content.xyz, XYZ, rtol=1e-6)
    assert content.rgb is None and content.notes == ()


@pytest.mark.parametrize(
    "data",
    [
        npy(np.concatenate([XYZ, RGB], axis=1)),
        npy(np.concatenate([XYZ, RGB / 255], axis=1)),
        npz(xyz=XYZ, rgb=RGB.astype(np.uint8)),
        npz(xyz=XYZ, colors=RGB / 255),
        npz(points=XYZ, colours=RGB.astype(np.float32)),
        npz(coords=XYZ, **dict(zip("RGB", (RGB / 255).T, strict=True))),  # Point-E and Cap3D
        npz(coords=XYZ, R=RGB[:, 0], G=RGB[:, 1], B=RGB[:, 2]),
    ],
)
def test_colours_in_every_form(data):
    content = load(data, "npz")
    scale = 1 if content.rgb.dtype == np.uint8 else 255
    np.testing.assert_allclose(content.xyz, XYZ, rtol=1e-6)
    np.testing.assert_allclose(content.rgb * np.float64(scale), RGB, atol=0.51)
    assert content.notes == ()


def test_normals_behind_the_coordinates_are_no_colours():
    """ModelNet's arrays have six columns: points and normals."""
    content = load(npy(np.concatenate([XYZ, NORMALS], axis=1)), "npy")
    assert content.rgb is None
    assert content.notes == ("columns 4 to 6 are not colours, ignored",)


def test_columns_beyond_the_colours_are_noted():
    content = load(npy(np.concatenate([XYZ, RGB, XYZ], axis=1)), "npy")
    assert content.notes == ("columns beyond 6, ignored",)
    np.testing.assert_allclose(content.rgb * 255, RGB, atol=0.51)


def test_points_that_are_not_finite_take_their_colours_with_them():
    xyz = XYZ.copy()
    xyz[3] = np.nan
    content = load(npz(xyz=xyz, rgb=np.arange(60, dtype=np.uint8).reshape(20, 3)), "npz")
    assert content.rgb[:, 0].tolist() == [0, 3, 6, *range(12, 60, 3)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (npy(np.tile(XYZ, (10, 1)).T), "transpose the array"),
        (npy(np.stack([XYZ] * 2)), "save every cloud to a file of its own"),
        (npy(XYZ[:, :2]), r"expected numbers \[n, 3\]"),
        (npy(np.zeros((0, 3))), "no points"),
        (npy(np.array([{"a": 1}], dtype=object)), "pickled objects"),
        (npz(xyz=XYZ, rgb=RGB[:7]), "colours"),
        (npz(a=XYZ, b=XYZ), r"holds arrays \['a', 'b'\]; expected xyz"),
        (npy(np.full((4, 3), np.nan)), "non-finite coordinates"),
    ],
)
def test_other_arrays_are_errors(data, message):
    with pytest.raises(MeshError, match=message):
        load(data, "npz")
