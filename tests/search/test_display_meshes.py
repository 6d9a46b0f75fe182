# SPDX-License-Identifier: Apache-2.0
"""Reduced meshes for the page, read by trimesh, which is independent of the writer."""

import io

import numpy as np
import pytest
import small_shapes
import trimesh
from painted_square import FOUR, content

from data_prep.geometry import clouds
from data_prep.geometry.conventions import Conventions
from mrd_jax.search import display_meshes

CONVENTIONS = Conventions(
    points=64, up_axis="z", from_y_up="rotate", normalisation="unit_sphere", colour_fill=0.4
)


def reduced(path, *, max_faces=6_000, up="y"):
    """Returns the reduced mesh of a file as trimesh reads it, with y up as in glTF."""
    content = clouds.read_content(path, fill=0.4)
    data = display_meshes.of_content(content, up=up, conventions=CONVENTIONS, max_faces=max_faces)
    assert len(data) % 4 == 0
    (mesh,) = trimesh.load(io.BytesIO(data), file_type="glb").geometry.values()
    return mesh


def saved(folder, mesh):
    path = folder / "mesh.glb"
    path.write_bytes(mesh.export(file_type="glb"))
    return path


def test_a_small_mesh_keeps_its_faces_size_colour_and_upright_direction(tmp_path):
    path = saved(tmp_path, small_shapes.box((1, 2, 4), (255, 0, 0)))
    mesh = reduced(path)
    assert len(mesh.faces) == 12
    radius = np.linalg.norm([0.5, 1, 2])
    np.testing.assert_allclose(mesh.extents, np.array([1, 2, 4]) / radius, rtol=1e-5)
    np.testing.assert_array_equal(np.unique(vertex_colours(mesh), axis=0), [[255, 0, 0, 255]])
    # z of a file with z up becomes y, the vertical axis of glTF.
    turned = reduced(path, up="z")
    np.testing.assert_allclose(turned.extents, np.array([1, 4, 2]) / radius, rtol=1e-5)


def test_a_large_mesh_is_reduced_and_stays_close_to_its_surface(tmp_path):
    path = saved(tmp_path, trimesh.creation.icosphere(subdivisions=4))  # 5,120 faces
    mesh = reduced(path, max_faces=800)
    assert 400 < len(mesh.faces) <= 800
    assert mesh.is_watertight
    np.testing.assert_allclose(np.linalg.norm(mesh.vertices, axis=1), 1, atol=0.02)
    assert mesh.volume == pytest.approx(4 / 3 * np.pi, rel=0.05)


def test_the_pattern_of_a_texture_is_kept_by_colours_of_vertices():
    data = display_meshes.of_content(
        content("map_Kd four.png", files={"four.png": FOUR}),
        up="z",
        conventions=CONVENTIONS,
        max_faces=2_000,
    )
    (mesh,) = trimesh.load(io.BytesIO(data), file_type="glb").geometry.values()
    assert 500 < len(mesh.faces) <= 2_000
    # The square has z = 0, so that -z of glTF is its y.
    x, y = mesh.vertices[:, 0], -mesh.vertices[:, 2]
    colours = vertex_colours(mesh)
    for right, up, colour in ((-1, 1, (255, 0, 0)), (1, 1, (0, 255, 0)), (-1, -1, (0, 0, 255))):
        quarter = (x * right > 0.1) & (y * up > 0.1)
        assert quarter.sum() > 50
        np.testing.assert_array_equal(np.unique(colours[quarter, :3], axis=0), [colour])


def test_faces_that_are_drawn_twice_are_kept_once(tmp_path):
    box = small_shapes.box()
    both = trimesh.util.concatenate([box, trimesh.Trimesh(box.vertices, box.faces[:, ::-1])])
    assert len(reduced(saved(tmp_path, both)).faces) == 12


def test_a_point_cloud_and_zero_faces_give_no_mesh(tmp_path):
    path = saved(tmp_path, small_shapes.box())
    found = clouds.read_content(path, fill=0.4)
    options = {"up": "y", "conventions": CONVENTIONS}
    assert display_meshes.of_content(found, max_faces=0, **options) == b""
    np.save(tmp_path / "points.npy", np.random.default_rng(0).normal(size=(50, 3)))
    points = clouds.read_content(tmp_path / "points.npy", fill=0.4)
    assert display_meshes.of_content(points, max_faces=100, **options) == b""


def test_points_are_written_with_their_colours():
    xyz = np.array([[0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]])
    data = display_meshes.of_points(
        xyz, np.array([[255, 0, 0], [0, 128, 0], [0, 0, 255]], np.uint8)
    )
    (cloud,) = trimesh.load(io.BytesIO(data), file_type="glb").geometry.values()
    np.testing.assert_allclose(cloud.vertices, [[0.5, 0, 0], [0, 0, -0.5], [0, 0.5, 0]], atol=1e-7)
    # The colours are the last array of the file; sRGB 128 is linear 0.21586.
    rgba = np.frombuffer(data[-24:], "<u2").reshape(3, 4) / 65_535
    want = [[1, 0, 0, 1], [0, 0.21586, 0, 1], [0, 0, 1, 1]]
    np.testing.assert_allclose(rgba, want, rtol=0, atol=2e-5)


def vertex_colours(mesh):
    """Returns the colours of a mesh as levels of 8 bits, uint8 [vertices, 4]."""
    return np.asarray(mesh.visual.vertex_attributes["color"] / 257).round().astype(np.uint8)
