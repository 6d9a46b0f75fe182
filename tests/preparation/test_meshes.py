# SPDX-License-Identifier: Apache-2.0
"""Meshes: colours, sampling, faults."""

import zlib

import numpy as np
import pytest
import tiny_catalogue
import trimesh

from data_prep.foreign import limits
from data_prep.geometry import images
from data_prep.geometry import surface as surfaces
from data_prep.geometry.scene import MeshError

RED, GREEN, BLUE, WHITE = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (255,) * 4
PAINTED = "newmtl paint\nKd 0 0 1\nmap_Kd my paint.png\n"
PLAIN = "newmtl paint\nKd 0 0 1\n"


def square(mtl=PAINTED, pixels=((RED, GREEN), (BLUE, WHITE)), obj=tiny_catalogue.SQUARE, **more):
    files = {"square.obj": obj, "square.mtl": mtl, "my paint.png": tiny_catalogue.png(pixels)}
    return tiny_catalogue.surface(files | more)


def sample(surface, points=2000, seed=0):
    xyz, rgb = surfaces.sample_points(surface, points=points, rng=np.random.default_rng(seed))
    return xyz + surface.origin, rgb


def test_y_up_becomes_z_up_by_a_proper_rotation():
    turn = surfaces.Y_UP_TO_Z_UP
    np.testing.assert_array_equal(turn @ [0, 1, 0], [0, 0, 1])
    np.testing.assert_array_equal(turn @ [1, 0, 0], [1, 0, 0])
    assert np.linalg.det(turn) == pytest.approx(1)


def test_points_have_the_colour_of_their_texel():
    surface, faults = square()
    xyz, rgb = sample(surface)
    # The rotated square has x and y in 0..1 and z = 0; the top row of the texture is y > 1/2.
    table = np.array([[BLUE, WHITE], [RED, GREEN]])[..., :3]
    want = table[(xyz[:, 1] > 0.5).astype(int), (xyz[:, 0] > 0.5).astype(int)]
    np.testing.assert_array_equal(rgb, want)
    np.testing.assert_array_equal(xyz[:, 2], 0)
    assert faults == []


def test_textures_repeat_outside_the_unit_square():
    shifted = tiny_catalogue.SQUARE.replace("vt 0", "vt -3").replace("vt 1", "vt -2")
    np.testing.assert_array_equal(sample(square(obj=shifted)[0])[1], sample(square()[0])[1])


def test_no_point_lies_in_a_hole_of_the_texture():
    hole = ((RED, (9, 9, 9, 0)), ((9, 9, 9, 100), RED))
    xyz, rgb = sample(square(pixels=hole)[0])
    assert len(xyz) == 2000
    assert ((xyz[:, 0] > 0.5) != (xyz[:, 1] > 0.5)).all()
    assert (rgb == RED[:3]).all()


def test_fully_transparent_surface_is_taken_as_opaque():
    surface, notes = square(pixels=[[(255, 0, 0, 0)]])
    assert notes == ["everything is invisible, taken as opaque"]
    assert (sample(surface)[1] == RED[:3]).all()


def test_missing_texture_is_a_fault_and_the_diffuse_colour_is_used():
    mtl = PAINTED.replace("my paint.png", "C:\\Users\\me\\wood.png")
    surface, faults = square(mtl=mtl)
    assert faults == ["missing texture"]
    assert (sample(surface)[1] == BLUE[:3]).all()


def test_texture_with_an_absolute_path_is_found_in_the_folder_of_the_mesh():
    mtl = PAINTED.replace("my paint.png", "C:\\Users\\me\\my paint.png")
    surface, faults = square(mtl=mtl)
    assert faults == []
    np.testing.assert_array_equal(sample(surface)[1], sample(square()[0])[1])


@pytest.mark.parametrize("cut", [0, 60], ids=["not an image", "truncated"])
def test_corrupt_texture_is_a_fault_and_the_diffuse_colour_is_used(cut):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3))
    corrupt = tiny_catalogue.png(noise)[:cut]
    surface, faults = square(**{"my paint.png": corrupt})
    assert faults == ["unreadable texture"]
    assert (sample(surface)[1] == BLUE[:3]).all()


def test_image_with_billions_of_declared_pixels_is_not_decoded():
    whole = tiny_catalogue.png([[RED]])

    def with_side(side):
        header = whole[12:16] + side.to_bytes(4, "big") * 2 + whole[24:29]
        return whole[:12] + header + zlib.crc32(header).to_bytes(4, "big") + whole[33:]

    assert with_side(1) == whole
    assert images.open_image(with_side(8_192)).size == (8_192, 8_192)
    with pytest.raises(limits.LimitError, match="67125249 pixels, at most 67108864 are read"):
        images.open_image(with_side(8_193))
    with pytest.raises(ValueError, match="unreadable picture: .*1600000000 pixels"):
        images.open_image(with_side(40_000))


def test_second_texture_coordinate_is_0_by_default():
    surface, notes = square(obj=tiny_catalogue.SQUARE.replace("vt 0 0", "vt 0"))
    assert notes == []
    np.testing.assert_array_equal(sample(surface)[1], sample(square()[0])[1])


def test_large_texture_is_reduced_to_its_mean_colours():
    pixels = np.zeros((8, 2048, 3), np.uint8)
    pixels[:, ::2] = 200
    surface, _ = square(pixels=pixels)
    assert surface.texels.shape == (512 * 2, 4)
    assert set(np.unique(surface.texels[:, :3])) == {100}


def test_missing_materials_file_is_a_fault_and_the_part_is_grey():
    surface, faults = square(obj=tiny_catalogue.SQUARE.replace("square.mtl", "gone.mtl"))
    assert faults == ["missing materials file"]
    assert (sample(surface)[1] == 102).all()


def test_mesh_without_materials_is_grey():
    surface, faults = square(obj="v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    assert faults == []
    assert (sample(surface)[1] == 102).all()


@pytest.mark.parametrize(
    ("line", "want"), [("d 0.25", 0.25), ("Tr 0.25", 0.75), ("", 1), ("d x", 1)]
)
def test_opacity_is_d_or_one_minus_tr(line, want):
    surface, _ = square(mtl=PLAIN + line + "\n")
    assert surface.opacity[0] == pytest.approx(want)


def test_invisible_parts_are_not_sampled():
    obj = tiny_catalogue.boxes(((1, 1, 1), (5, 0, 0), "ghost"), ((1, 1, 1), (0, 0, 0), "paint"))
    mtl = PLAIN + "newmtl ghost\nKd 1 0 0\nd 0\n"
    surface, _ = square(obj=obj, **{"box.mtl": mtl})
    xyz, rgb = sample(surface)
    assert xyz[:, 0].max() <= 0.5
    assert (rgb == BLUE[:3]).all()


def test_face_colours_of_ply_are_kept():
    mesh = trimesh.creation.box()
    mesh.visual = trimesh.visual.ColorVisuals(mesh, face_colors=np.arange(48).reshape(12, 4) + 200)
    ply = mesh.export(file_type="ply")
    surface, _ = tiny_catalogue.surface({"box.ply": ply}, "box.ply", rotation=np.eye(3))
    centres = np.full((12, 3), 1 / 3)
    got = surfaces.colours_at(surface, np.arange(12), weights=centres)
    np.testing.assert_array_equal(got, mesh.visual.face_colors)


def test_parts_follow_the_transforms_of_the_scene():
    scene = trimesh.Scene()
    place = trimesh.transformations.translation_matrix([0, 10, 0])
    scene.add_geometry(trimesh.creation.box(), transform=place)
    glb = scene.export(file_type="glb")
    surface, _ = tiny_catalogue.surface({"box.glb": glb}, "box.glb")
    centre = surface.triangles.mean(axis=(0, 1)) + surface.origin
    np.testing.assert_allclose(centre, [0, 0, 10], atol=1e-5)


def test_points_are_uniform_by_area():
    corners = "v 0 0 0\nv 4 0 0\nv 0 1 0\nv 10 0 0\nv 11 0 0\nv 10 1 0\n"
    surface, _ = square(obj=corners + "f 1 2 3\nf 4 5 6\n")
    xyz, _ = sample(surface, points=20_000)
    first = xyz[:, 0] < 5
    assert first.mean() == pytest.approx(0.8, abs=0.01)
    # The mean of a uniform triangle is its centroid, here (4/3, 1/3) with z up.
    np.testing.assert_allclose(xyz[first].mean(axis=0), [4 / 3, 0, 1 / 3], atol=0.02)


def test_points_depend_on_the_seed_only():
    surface, _ = square()
    np.testing.assert_array_equal(sample(surface)[0], sample(surface)[0])
    assert not np.array_equal(sample(surface)[0], sample(surface, seed=1)[0])


@pytest.mark.parametrize(
    ("obj", "reason"),
    [
        ("", "empty file"),
        ("v 0 0 0\nv 1 0 0\nv nan 1 0\nf 1 2 3\n", "non-finite coordinates"),
        ("v 0 0 0\nv 1 0 0\nv 1e39 1 0\nf 1 2 3\n", "non-finite coordinates"),
        (
            "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 99\n",
            "a face names a vertex that does not exist: 99 of 3",
        ),
    ],
)
def test_unusable_mesh_is_rejected_with_a_reason(obj, reason):
    with pytest.raises(MeshError, match=f"^{reason}$"):
        square(obj=obj)


def test_mesh_without_area_is_rejected():
    surface, _ = square(obj="v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    with pytest.raises(MeshError, match="no visible area"):
        sample(surface)
