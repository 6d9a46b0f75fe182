# SPDX-License-Identifier: Apache-2.0
"""Reading point clouds from files: types, axes, colours, counts, corrupt and malicious files."""

import dataclasses
import pickle
import sys

import numpy as np
import pytest
import small_shapes
import tiny_catalogue
import trimesh

from data_prep import shapes
from data_prep.geometry import clouds, formats, surface

RULES = clouds.Conventions(
    points=64, up_axis="z", from_y_up="rotate", normalisation="unit_sphere", colour_fill=0.25
)
SWAP = dataclasses.replace(RULES, from_y_up="swap")


# A triangle with coloured corners.
PLY = """ply
format ascii 1.0
element vertex 3
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
element face 1
property list uchar int vertex_indices
end_header
0 0 0 255 0 0
1 0 0 255 0 0
0 1 0 255 0 0
3 {}
"""


def points(count, seed=0):
    """Returns a cloud without any symmetry."""
    rng = np.random.default_rng(seed)
    xyz = rng.gamma(2.0, [1.0, 2.0, 3.0], (count, 3)) + [5, -7, 11]
    return xyz, rng.integers(0, 256, (count, 3), dtype=np.uint8)


def read(path, conventions=RULES, **options):
    return clouds.read_cloud(path, conventions=conventions, **options)


def assert_same(got, want):
    np.testing.assert_array_equal(got.xyz, want.xyz)
    np.testing.assert_array_equal(got.rgb, want.rgb)


def box(**colours):
    """Returns a box with one colour per face and unshared corners, which every type can store."""
    mesh = trimesh.creation.box(extents=(1, 2, 4))
    flat = np.asarray(mesh.vertices[mesh.faces]).reshape(-1, 3)
    mesh = trimesh.Trimesh(flat, np.arange(36).reshape(12, 3), process=False)
    if colours.get("coloured", True):
        rgba = np.random.default_rng(0).integers(0, 256, (12, 4), dtype=np.uint8)
        rgba[:, 3] = 255
        mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=np.repeat(rgba, 3, axis=0))
    return mesh


def export(mesh, folder, kind):
    """Writes a mesh, and for glTF its buffer in the same folder."""
    path = folder / f"mesh.{kind}"
    if kind == "gltf":
        file = small_shapes.gltf(mesh)
        path.write_bytes(file.gltf(uri="mesh.bin"))
        (folder / "mesh.bin").write_bytes(file.buffer)
    elif kind == "glb":
        path.write_bytes(small_shapes.gltf(mesh).glb())
    else:
        data = mesh.export(file_type=kind)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def test_a_cloud_is_the_same_in_all_array_files(tmp_path):
    xyz, rgb = points(200)
    unit = rgb / 255
    np.save(tmp_path / "a.npy", np.hstack([xyz, unit]))
    np.save(tmp_path / "f.npy", np.asfortranarray(np.hstack([xyz, unit])))
    np.savez(tmp_path / "b.npz", xyz=xyz, rgb=rgb)
    np.savez_compressed(tmp_path / "c.npz", points=xyz, colors=unit, label=np.array([{}], object))
    np.savez(tmp_path / "d.npz", np.hstack([xyz, unit]))
    want = read(tmp_path / "a.npy")
    for name in ("f.npy", "b.npz", "c.npz", "d.npz"):
        assert_same(read(tmp_path / name), want)


def test_a_large_cloud_is_sampled_without_replacement():
    xyz, rgb = points(200)
    cloud = clouds.prepare_cloud(xyz, rgb, conventions=RULES)
    assert cloud.xyz.dtype == cloud.rgb.dtype == np.float32
    # Colours identify the points; duplicates among 200 random colours are unlikely.
    table = {tuple(row): number for number, row in enumerate((rgb / 255).astype(np.float32))}
    kept = [table[tuple(row)] for row in cloud.rgb]
    assert len(set(kept)) == 64 and kept != sorted(kept)
    want = shapes.normalise(xyz[kept])
    np.testing.assert_array_equal(cloud.xyz, want)
    np.testing.assert_allclose(cloud.xyz.mean(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(cloud.xyz, axis=1).max() == pytest.approx(1)
    other = clouds.prepare_cloud(xyz, rgb, conventions=RULES, seed=1)
    assert not np.array_equal(other.rgb, cloud.rgb)


def test_a_small_cloud_repeats_all_points_equally_often_up_to_one():
    xyz, rgb = points(27)
    cloud = clouds.prepare_cloud(xyz, rgb, conventions=RULES)
    _, counts = np.unique(cloud.rgb, axis=0, return_counts=True)
    assert sorted(counts) == [2] * 17 + [3] * 10


def test_a_cloud_of_the_right_size_keeps_its_order():
    xyz, rgb = points(64)
    cloud = clouds.prepare_cloud(xyz, rgb, conventions=RULES)
    np.testing.assert_array_equal(cloud.rgb, (rgb / 255).astype(np.float32))
    np.testing.assert_array_equal(cloud.xyz, shapes.normalise(xyz))


def test_missing_colours_become_the_fill_colour():
    cloud = clouds.prepare_cloud(points(70)[0], conventions=RULES)
    assert set(np.unique(cloud.rgb)) == {np.float32(0.25)}


@pytest.mark.parametrize("kind", ["npy", "ply"])
@pytest.mark.parametrize("conventions", [RULES, SWAP], ids=["rotate", "swap"])
def test_copies_with_y_up_and_z_up_agree_if_the_axis_is_given(tmp_path, conventions, kind):
    xyz, rgb = points(200)
    # The copy with y up, written out.
    with_y_up = {"rotate": xyz[:, [0, 2, 1]] * [1, 1, -1], "swap": xyz[:, [0, 2, 1]]}
    for name, copy in {"z": xyz, "y": with_y_up[conventions.from_y_up]}.items():
        if kind == "npy":
            np.save(tmp_path / f"{name}.npy", np.hstack([copy, rgb / 255]))
        else:
            trimesh.PointCloud(copy.astype(np.float32), rgb).export(tmp_path / f"{name}.ply")
    upright = read(tmp_path / f"z.{kind}", conventions)
    assert_same(read(tmp_path / f"y.{kind}", conventions, up="y"), upright)
    wrong = read(tmp_path / f"y.{kind}", conventions)
    assert np.abs(wrong.xyz - upright.xyz).max() > 0.1


def test_rotate_is_the_quarter_turn_of_data_prep_and_swap_is_a_reflection():
    xyz, _ = points(64)
    rotated = clouds.prepare_cloud(xyz, conventions=RULES, up="y").xyz
    np.testing.assert_array_equal(rotated, shapes.normalise(xyz @ surface.Y_UP_TO_Z_UP.T))
    swapped = clouds.prepare_cloud(xyz, conventions=SWAP, up="y").xyz
    np.testing.assert_allclose(swapped, rotated * [1, -1, 1], atol=1e-6)


@pytest.mark.parametrize("kind", ["glb", "gltf", "obj", "ply"])
def test_meshes_are_sampled_on_their_surface_with_their_colours(tmp_path, kind):
    mesh = box()
    cloud = read(export(mesh, tmp_path, kind), up="z", seed=3)
    files = {"box.ply": mesh.export(file_type="ply")}
    found, _ = tiny_catalogue.surface(files, "box.ply", rotation=np.eye(3))
    xyz, rgb = surface.sample_points(found, points=64, rng=np.random.default_rng(3))
    np.testing.assert_allclose(cloud.xyz, shapes.normalise(xyz), atol=1e-6)
    np.testing.assert_array_equal(cloud.rgb, (rgb / 255).astype(np.float32))
    assert cloud.faults == ()


@pytest.mark.parametrize("kind", ["stl", "off", "obj", "ply"])
def test_meshes_without_colours_get_the_fill_colour(tmp_path, kind):
    cloud = read(export(box(coloured=False), tmp_path, kind))
    assert set(np.unique(cloud.rgb)) == {np.float32(np.float64(64) / 255)}  # the nearest byte


def test_gltf_without_colours_is_white_as_its_standard_says(tmp_path):
    assert (read(export(box(coloured=False), tmp_path, "glb")).rgb == 1).all()


@pytest.mark.parametrize("kind", ["glb", "gltf"])
def test_y_is_up_in_gltf_by_default(tmp_path, kind):
    path = export(box(), tmp_path, kind)
    # The box is 1 x 2 x 4; its longest side is along z of the file.
    longest = {up: np.ptp(read(path, up=up).xyz, axis=0).argmax() for up in (None, "y", "z")}
    assert longest == {None: 1, "y": 1, "z": 2}


def test_z_is_up_in_other_types_by_default(tmp_path):
    path = export(box(), tmp_path, "ply")
    longest = {up: np.ptp(read(path, up=up).xyz, axis=0).argmax() for up in (None, "y", "z")}
    assert longest == {None: 2, "y": 1, "z": 2}


@pytest.mark.parametrize("coloured", [True, False])
@pytest.mark.parametrize("kind", ["ply", "obj"])
def test_mesh_files_without_faces_are_clouds(tmp_path, kind, coloured):
    xyz, rgb = points(64)
    path = tmp_path / f"cloud.{kind}"
    if kind == "ply":
        trimesh.PointCloud(xyz.astype(np.float32), rgb if coloured else None).export(path)
    else:
        unit = [" {} {} {}".format(*row) if coloured else "" for row in rgb / 255]
        lines = ["v {} {} {}".format(*row) for row in xyz]
        path.write_text("".join(a + b + "\n" for a, b in zip(lines, unit, strict=True)))
    want = clouds.prepare_cloud(
        xyz.astype(np.float32), rgb if coloured else None, conventions=RULES
    )
    cloud = read(path, up="z")
    np.testing.assert_allclose(cloud.xyz, want.xyz, atol=1e-6)
    np.testing.assert_allclose(cloud.rgb, want.rgb, atol=1e-6)


def textured(folder, *, picture="../paint.png"):
    """Writes a folder with a mesh that refers to a texture."""
    folder.mkdir(parents=True)
    (folder / "square.obj").write_text(tiny_catalogue.SQUARE)
    (folder / "square.mtl").write_text(f"newmtl paint\nKd 0 0 1\nmap_Kd {picture}\n")
    return folder / "square.obj"


RED = tiny_catalogue.png([[(255, 0, 0)]])


def test_a_texture_below_the_folder_of_the_mesh_is_read(tmp_path):
    path = textured(tmp_path / "mesh", picture="wood/paint.png")
    (tmp_path / "mesh" / "wood").mkdir()
    (tmp_path / "mesh" / "wood" / "paint.png").write_bytes(RED)
    cloud = read(path)
    assert cloud.faults == ()
    assert (cloud.rgb == [1, 0, 0]).all()


def test_a_texture_in_the_folder_above_the_mesh_is_read_unless_a_root_is_stated(tmp_path):
    (tmp_path / "paint.png").write_bytes(RED)
    path = textured(tmp_path / "mesh")
    cloud = read(path)
    assert cloud.faults == () and (cloud.rgb == [1, 0, 0]).all()
    cloud = read(path, root=path.parent)
    assert cloud.faults == ("missing texture",) and (cloud.rgb == [0, 0, 1]).all()
    assert (read(path, root=tmp_path).rgb == [1, 0, 0]).all()


def test_files_outside_the_folder_of_the_mesh_are_not_read(tmp_path):
    (tmp_path / "paint.png").write_bytes(RED)
    (tmp_path / "paint.txt").write_bytes(RED)
    top = tmp_path / "models"
    climbing = textured(top / "climbing", picture="../../paint.png")
    absolute = textured(top / "absolute", picture=str(tmp_path / "paint.png"))
    linked = textured(top / "linked", picture="paint.png")
    (top / "linked" / "paint.png").symlink_to(tmp_path / "paint.png")
    other_type = textured(tmp_path / "other", picture="../paint.txt")
    for path in (climbing, absolute, linked, other_type):
        cloud = read(path)
        assert cloud.faults == ("missing texture",)
        assert (cloud.rgb == [0, 0, 1]).all()


def test_the_error_for_a_missing_buffer(tmp_path):
    path = export(box(), tmp_path, "gltf")
    (tmp_path / "mesh.bin").unlink()
    message = "^the file that holds the geometry was not found: mesh.bin; missing buffer$"
    with pytest.raises(clouds.CloudError, match=message):
        read(path)


class Exploit:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle ran')",))


def test_a_pickle_is_never_run_and_the_error_gives_the_remedy(tmp_path):
    np.save(tmp_path / "object.npy", np.array([Exploit()], object), allow_pickle=True)
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Exploit()))
    np.savez(tmp_path / "object.npz", xyz=np.array([Exploit()], object))
    for name in ("object.npy", "plain.npy", "object.npz"):
        with pytest.raises(clouds.CloudError, match="pickled objects.*numpy.savez"):
            read(tmp_path / name)


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"xyz": np.zeros((0, 3))}, "no points"),
        ({"xyz": np.ones((9, 3))}, "all points coincide"),
        ({"xyz": np.full((9, 3), np.inf)}, "non-finite coordinates"),
        ({"xyz": np.zeros((9, 4))}, r"float64 \[9, 4\]; expected numbers \[n, 3\]"),
        ({"xyz": np.zeros((9, 3), "U1")}, "<U1"),
        ({"xyz": np.eye(3), "points": np.eye(3)}, "expected xyz, and perhaps rgb"),
        ({"a": np.eye(3), "b": np.eye(3)}, r"\['a', 'b'\]; expected xyz"),
        ({"xyz": np.eye(3), "rgb": np.eye(3), "colors": np.eye(3)}, "expected xyz, and perhaps"),
        ({"xyz": np.eye(3), "rgb": np.ones((2, 3))}, r"colours are float64 \[2, 3\]"),
        ({"xyz": np.eye(3), "rgb": 256 * np.eye(3)}, "span 0.0 to 256.0; expected floats 0 to 1"),
        ({"xyz": np.eye(3), "rgb": np.full((3, 3), np.nan)}, "span nan"),
        ({"xyz": np.eye(3), "rgb": np.full((3, 3), -1)}, "span -1 to -1"),
    ],
)
def test_arrays_other_than_clouds_are_errors(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(clouds.CloudError, match=message):
        read(tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["npy", "npz", "glb", "obj", "ply", "stl", "off"])
@pytest.mark.parametrize("keep", [0, 40])
def test_a_truncated_file_is_an_error_with_a_reason(tmp_path, kind, keep):
    path = tmp_path / f"mesh.{kind}"
    if kind in ("npy", "npz"):
        {"npy": np.save, "npz": np.savez}[kind](path, points(20)[0])
    else:
        export(box(), tmp_path, kind)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(clouds.CloudError, match=r"\w"):
        read(path)


def test_a_corrupt_file_is_an_error_with_a_reason(tmp_path):
    def change(name, old, new):
        path = tmp_path / name
        path.write_bytes(path.read_bytes().replace(old, new))

    np.save(tmp_path / "x.npy", np.eye(3))
    change("x.npy", b"(3, 3)", b"((3, 3")  # numpy's header parser
    np.savez(tmp_path / "x.npz", np.eye(3))
    change("x.npz", b"arr_0.npy", b"arr_0.npz")
    directory = (tmp_path / "x.npz").read_bytes().index(b"PK\1\2")
    method = bytearray((tmp_path / "x.npz").read_bytes())
    method[directory + 10] = method[8] = 77  # no compression has this number
    (tmp_path / "x.npz").write_bytes(method)
    (tmp_path / "face.ply").write_text(PLY.format("0 1 9"))
    (tmp_path / "flat.obj").write_text("v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n")
    for name in ("x.npy", "x.npz", "face.ply", "flat.obj"):
        with pytest.raises(clouds.CloudError, match="corrupt|unreadable"):
            read(tmp_path / name)


def test_the_errors_for_missing_files_and_unknown_types(tmp_path):
    with pytest.raises(clouds.CloudError, match="cannot be read: No such file"):
        read(tmp_path / "absent.npy")
    with pytest.raises(clouds.CloudError, match="unknown type 'step'; expected one of glb"):
        read(tmp_path / "part.STEP")


def test_files_of_folders_are_sorted_and_named_files_keep_their_position(tmp_path):
    for name in ("b/two.PLY", "b/one.obj", "b/one.mtl", "b/c/deep.npz", "a.npy", "b/out.npz"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    named = [tmp_path / "z.txt", tmp_path / "b", tmp_path / "a.npy"]
    found = clouds.find_files(named, exclude=tmp_path / "b" / "out.npz")
    names = [str(path.relative_to(tmp_path)) for path in found]
    assert names == ["z.txt", "b/c/deep.npz", "b/one.obj", "b/two.PLY", "a.npy"]


def test_a_folder_without_meshes_or_clouds_is_an_error(tmp_path):
    (tmp_path / "readme.txt").touch()
    with pytest.raises(FileNotFoundError, match="holds no file of a known type: glb"):
        list(clouds.find_files([tmp_path]))


def test_without_trimesh_arrays_work_and_the_error_for_meshes_names_the_extra(
    tmp_path, monkeypatch
):
    np.save(tmp_path / "x.npy", points(64)[0])
    monkeypatch.setitem(sys.modules, "trimesh", None)
    monkeypatch.delitem(sys.modules, "data_prep.geometry.meshes")
    monkeypatch.delattr("data_prep.geometry.meshes")
    assert read(tmp_path / "x.npy").xyz.shape == (64, 3)
    clouds.check_readable([tmp_path / "x.npy"])
    with pytest.raises(formats.MissingPackageError, match=r'pip install "mrd_jax\[prep\]"'):
        clouds.check_readable([tmp_path / "x.npy", tmp_path / "x.glb"])


@pytest.mark.parametrize(
    "field, value", [("up_axis", "y"), ("from_y_up", "flip"), ("normalisation", "cube")]
)
def test_unsupported_conventions_are_errors(field, value):
    with pytest.raises(ValueError, match=f"{field} is '{value}'"):
        dataclasses.replace(RULES, **{field: value})
