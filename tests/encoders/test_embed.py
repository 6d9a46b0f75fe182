# SPDX-License-Identifier: Apache-2.0
"""The embed command, from mesh and point cloud files to the npz file."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import trimesh
from tiny_encoder import DIM, POINTS, tiny_card, tiny_variables

from data_prep.geometry import clouds, formats
from data_prep.sources import tables
from mrd_jax import encoder
from mrd_jax.checkpoints import fingerprinting, model_card
from mrd_jax.search import read_ahead, shape_files
from mrd_jax.tools import embed

pytestmark = pytest.mark.usefixtures("fast_compile")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    encoder.save(folder, variables=tiny_variables(), card=tiny_card())
    return folder


@pytest.fixture(scope="module", autouse=True)
def load_encoder_once():
    """Makes the commands of this module share one encoder, so that it is compiled once."""
    load, loaded = encoder.load, {}

    def load_once(path, **expected):
        key = (str(path), *expected.items())
        if key not in loaded:
            loaded[key] = load(path, **expected)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder, "load", load_once)
        yield


@pytest.fixture
def run(checkpoint, tmp_path, capsys):
    """Runs the command on files; returns (status, arrays, stdout, stderr)."""

    def call(*arguments):
        output = tmp_path / "out" / "E.npz"
        options = ["--checkpoint", checkpoint, "--output", output, "--batch_size", 8]
        status = embed.main([str(x) for x in (*options, *arguments)])
        arrays = dict(np.load(output)) if output.exists() else None
        return status, arrays, *capsys.readouterr()

    return call


def cloud(seed, count=POINTS):
    rng = np.random.default_rng(seed)
    xyz = rng.normal(size=(count, 3)) * rng.uniform(0.1, 1, 3)
    return xyz, rng.integers(0, 256, (count, 3), dtype=np.uint8)


def shape(number):
    """Returns one of four solids with a colour per face and without shared corners."""
    mesh = [
        trimesh.creation.box(extents=(1, 2, 4)),
        trimesh.creation.icosphere(subdivisions=2),
        trimesh.creation.torus(major_radius=1, minor_radius=0.2),
        trimesh.creation.cone(radius=1, height=3),
    ][number]
    flat = np.asarray(mesh.vertices[mesh.faces]).reshape(-1, 3)
    mesh = trimesh.Trimesh(flat, np.arange(len(flat)).reshape(-1, 3), process=False)
    rgba = np.random.default_rng(number).integers(0, 256, (len(mesh.faces), 4), dtype=np.uint8)
    rgba[:, 3] = 255
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=np.repeat(rgba, 3, axis=0))
    return mesh


def export_in_order(mesh, path, *, seed):
    """Writes a mesh, with its triangles shuffled unless the seed is None."""
    order = np.arange(len(mesh.faces))
    if seed is not None:
        order = np.random.default_rng(seed).permutation(order)
    corners = (3 * order[:, None] + np.arange(3)).reshape(-1)
    other = trimesh.Trimesh(
        mesh.vertices[corners], np.arange(len(corners)).reshape(-1, 3), process=False
    )
    colours = mesh.visual.vertex_colors[corners]
    other.visual = trimesh.visual.ColorVisuals(other, vertex_colors=colours)
    other.export(path)
    return path


def distances(one, other):
    return np.linalg.norm(one - other, axis=-1)


def three_types(number, folder, *, shuffle):
    """Writes a solid as glb, obj (both rotated to y up) and ply."""
    turn = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    files = []
    for seed, kind in enumerate(("glb", "obj", "ply")):
        mesh = shape(number)
        if kind != "ply":
            mesh.apply_transform(turn)
        path = folder / f"{number}.{kind}"
        files.append(export_in_order(mesh, path, seed=seed if shuffle else None))
    return files


def pairs(rows):
    """Returns the distances between all pairs of rows."""
    return distances(rows[:, None], rows)[np.triu_indices(len(rows), 1)]


@pytest.mark.parametrize("number", range(4))
def test_a_mesh_embeds_equally_as_glb_obj_and_ply(run, tmp_path, number):
    """The same triangles in the same order are sampled at the same points, up to rounding.

    The distances are compared with those between seeds of one file and between shapes.
    """
    files = three_types(number, tmp_path, shuffle=False)
    found = run(*files)[1]["embeddings"]
    seeds = np.concatenate([run(files[2], "--seed", seed)[1]["embeddings"] for seed in range(4)])
    others = [export_in_order(shape(n), tmp_path / f"other{n}.ply", seed=None) for n in range(4)]
    shapes = run(*others)[1]["embeddings"]
    assert pairs(found).max() < 0.01 * min(pairs(seeds).min(), pairs(shapes).min())


def test_another_order_of_triangles_changes_an_embedding_no_more_than_another_seed(run, tmp_path):
    """Every file is sampled at other points: 12 distances, against 4 x 28 between seeds."""
    types, seeds = [], []
    for number in range(4):
        files = three_types(number, tmp_path, shuffle=True)
        types.append(pairs(run(*files)[1]["embeddings"]))
        rows = [run(files[2], "--seed", seed)[1]["embeddings"] for seed in range(8)]
        seeds.append(pairs(np.concatenate(rows)))
    assert 0 < np.min(types)
    assert np.mean(types) < np.mean(seeds) + 2 * np.std(seeds) / np.sqrt(np.size(types))


def test_a_cloud_embeds_bitwise_equally_as_npy_and_npz(run, tmp_path):
    xyz, rgb = cloud(0, count=3 * POINTS)
    np.save(tmp_path / "a.npy", np.hstack([xyz, rgb / 255]))
    np.savez(tmp_path / "other_name.npz", xyz=xyz, rgb=rgb)
    _, arrays, *_ = run(tmp_path / "a.npy", tmp_path / "other_name.npz")
    np.testing.assert_array_equal(arrays["embeddings"][0], arrays["embeddings"][1])


def test_an_unreadable_file_is_reported_and_skipped_and_the_order_is_kept(run, tmp_path):
    names = [f"{name}.npy" for name in "zbma"]
    for seed, name in enumerate(names):
        np.save(tmp_path / name, cloud(seed)[0])
    (tmp_path / "m.npy").write_bytes(b"not an array")
    status, arrays, out, err = run(*[tmp_path / name for name in names])
    assert status == 1
    assert arrays["files"].tolist() == [str(tmp_path / f"{name}.npy") for name in "zba"]
    assert arrays["skipped"].tolist() == [str(tmp_path / "m.npy")]
    assert f"skipped {tmp_path / 'm.npy'}: {arrays['reasons'][0]}" in err
    assert "embedded 3 of 4 files" in out and "skipped 1" in out
    for row, name in zip(arrays["embeddings"], "zba", strict=True):
        alone = run(tmp_path / f"{name}.npy")[1]["embeddings"][0]
        np.testing.assert_allclose(row, alone, rtol=0, atol=1e-5)


def test_the_output_has_the_metadata_of_its_rows(run, checkpoint, tmp_path):
    np.savez(tmp_path / "x.npz", xyz=cloud(0)[0])
    status, arrays, *_ = run(tmp_path / "x.npz")
    assert status == 0
    assert set(arrays) == {
        *("embeddings", "files", "names", "creators", "licences", "up", "roots", "labels"),
        *("skipped", "reasons", "card", "checkpoint", "head", "reader_version"),
    }
    assert arrays["reader_version"] == formats.READER_VERSION
    assert arrays["embeddings"].dtype == np.float32 and arrays["embeddings"].shape == (1, DIM)
    np.testing.assert_allclose(np.linalg.norm(arrays["embeddings"], axis=1), 1, atol=1e-6)
    assert model_card.from_dict(json.loads(str(arrays["card"]))) == tiny_card()
    assert arrays["checkpoint"] == fingerprinting.checkpoint_fingerprint(checkpoint)
    for name in ("names", "creators", "licences", "up"):
        assert arrays[name].tolist() == [""]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["E.npz"]


def test_the_output_in_the_folder_itself_is_not_embedded(checkpoint, tmp_path, capsys):
    np.save(tmp_path / "x.npy", cloud(0)[0])
    options = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "E.npz")]
    for _ in range(2):
        assert embed.main([*options, str(tmp_path)]) == 0
        assert dict(np.load(tmp_path / "E.npz"))["files"].tolist() == [str(tmp_path / "x.npy")]


def test_y_up_and_z_up_copies_embed_equally_with_their_up_flags(run, tmp_path):
    xyz, rgb = cloud(0)
    np.savez(tmp_path / "z.npz", xyz=xyz, rgb=rgb)
    np.savez(tmp_path / "y.npz", xyz=xyz[:, [0, 2, 1]] * [1, 1, -1], rgb=rgb)
    upright = run(tmp_path / "z.npz", "--up", "z")[1]["embeddings"]
    np.testing.assert_array_equal(run(tmp_path / "y.npz", "--up", "y")[1]["embeddings"], upright)
    default = run(tmp_path / "y.npz")[1]["embeddings"]
    assert distances(default, upright).min() > 0.01


def write_table(folder, *lines):
    (folder / "shapes.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_the_table_of_a_folder_sets_files_and_metadata(run, tmp_path):
    xyz, rgb = cloud(0)
    upright = {"xyz": xyz, "rgb": rgb}
    lying = {"xyz": xyz[:, [0, 2, 1]] * [1, 1, -1], "rgb": rgb}
    (tmp_path / "own").mkdir()
    for name, arrays in (("z", upright), ("y", lying), ("by_flag", lying), ("other", upright)):
        np.savez(tmp_path / "own" / f"{name}.npz", **arrays)
    np.savez(tmp_path / "alone_1.npz", **lying)
    write_table(
        tmp_path / "own",
        "path,name,up_axis,creator,license,id",
        "y.npz,oak chair,y,Zoë,CC0,a",
        "z.npz,,z,,,b",
        "by_flag.npz,,,,,c",
    )
    status, arrays, _, err = run("--up", "y", tmp_path / "own", tmp_path / "alone_1.npz")
    assert status == 0
    listed = [tmp_path / "own" / f"{name}.npz" for name in ("y", "z", "by_flag")]
    assert arrays["files"].tolist() == [*map(str, listed), str(tmp_path / "alone_1.npz")]
    assert arrays["names"].tolist() == ["oak chair", "", "by flag", ""]
    assert arrays["creators"].tolist() == ["Zoë", "", "", ""]
    assert arrays["licences"].tolist() == ["CC0", "", "", ""]
    assert arrays["up"].tolist() == ["y", "z", "y", "y"]
    assert arrays["roots"].tolist() == [str(tmp_path / "own")] * 3 + [""]
    want = np.broadcast_to(arrays["embeddings"][1], arrays["embeddings"].shape)
    np.testing.assert_allclose(arrays["embeddings"], want, rtol=0, atol=1e-5)
    note = "skipped 1 files that the table of their folder does not list, such as"
    assert f"{note} {tmp_path / 'own' / 'other.npz'}" in err


def test_table_types_are_those_of_data_prep():
    assert shape_files.TABLES == tables.TYPES


def test_a_table_with_missing_files_is_an_error_before_any_file_is_read(run, tmp_path):
    np.savez(tmp_path / "here.npz", xyz=cloud(0)[0])
    write_table(tmp_path, "path", "here.npz", *(f"gone{number}.npz" for number in range(7)))
    status, arrays, _, err = run(tmp_path)
    assert status == 2 and arrays is None
    assert (
        f"the table of {tmp_path} lists missing files: gone0.npz, gone1.npz, gone2.npz, "
        "gone3.npz, gone4.npz and 2 more; correct their paths"
    ) in err


def test_a_table_with_other_columns_is_an_error_that_passing_files_avoids(run, tmp_path):
    np.savez(tmp_path / "x.npz", xyz=cloud(0)[0])
    write_table(tmp_path, "date,amount", "1,2")
    status, _, _, err = run(tmp_path)
    assert status == 2
    assert "shapes.csv, line 1: no column 'path'; found ['date', 'amount']" in err
    assert "Files that are passed one by one need no table" in err
    assert run(tmp_path / "x.npz")[0] == 0


def test_without_the_extra_prep_arrays_are_embedded_and_a_table_is_an_error(
    run, tmp_path, monkeypatch
):
    np.savez(tmp_path / "x.npz", xyz=cloud(0)[0])
    # As if trimesh were missing.
    for module in ("data_prep.sources", "data_prep.sources.folder"):
        monkeypatch.setitem(sys.modules, module, None)
    assert run(tmp_path)[0] == 0
    write_table(tmp_path, "path", "x.npz")
    status, _, _, err = run(tmp_path)
    assert status == 2 and 'needs it. Run pip install "mrd_jax[prep]", or pass the files' in err


def test_what_a_folder_holds_is_accounted_for(run, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    np.save(folder / "chair.npy", cloud(0)[0])
    np.save(folder / "._chair.npy", cloud(0)[0])
    np.save(tmp_path / "other.npy", cloud(0)[0])
    for name in ("sofa.fbx", "bed.skp", "b.glb.part", "licence.txt"):
        (folder / name).write_bytes(b"x")
    (folder / "more").symlink_to(tmp_path)
    status, arrays, out, err = run(folder)
    assert status == 0 and arrays["files"].tolist() == [str(folder / "chair.npy")]
    assert f"note: {folder}: 2 files of types that are not read: fbx, skp; fbx: " in err
    assert f"note: {folder}: 1 link to a folder, not followed: more\n" in err
    assert f"note: {folder}: 1 incomplete download, not read: b.glb.part\n" in err
    assert "embedded 1 of 1 files" in out
    (folder / "link.npy").symlink_to(tmp_path / "other.npy")
    status, arrays, out, err = run(folder)
    assert status == 1 and "embedded 1 of 2 files" in out
    assert arrays["skipped"].tolist() == [str(folder / "link.npy")]
    assert arrays["reasons"].tolist() == ["a link that leaves the folder"]
    assert f"skipped {folder / 'link.npy'}: a link that leaves the folder" in err


def test_a_file_that_is_given_twice_is_embedded_once_with_the_metadata_of_its_folder(run, tmp_path):
    for name in ("a", "b"):
        np.save(tmp_path / f"{name}.npy", cloud(0)[0])
    write_table(tmp_path, "path,name", "b.npy,oak chair")
    file = tmp_path / "b.npy"
    status, arrays, _, err = run(file, tmp_path, file, f"{tmp_path}/../{tmp_path.name}")
    assert status == 0 and arrays["names"].tolist() == ["oak chair"]
    assert "note: files that are given more than once, and read once: 3" in err


def test_columns_of_a_table_that_are_not_read_are_a_note(run, tmp_path):
    np.save(tmp_path / "a.npy", cloud(0)[0])
    write_table(tmp_path, "path,nmae", "a.npy,chair")
    status, _, _, err = run(tmp_path)
    assert status == 0 and "columns that are not read: nmae (did you mean name?)" in err


def test_a_swapped_copy_embeds_equally_under_swapped_axes(tmp_path):
    encoder.save(tmp_path / "e", variables=tiny_variables(), card=tiny_card(from_y_up="swap"))
    xyz, rgb = cloud(0)
    np.savez(tmp_path / "z.npz", xyz=xyz, rgb=rgb)
    np.savez(tmp_path / "y.npz", xyz=xyz[:, [0, 2, 1]], rgb=rgb)
    student = encoder.load(tmp_path / "e")
    upright, _ = embed.embed_files(student, [tmp_path / "z.npz"], up="z")
    turned, _ = embed.embed_files(student, [tmp_path / "y.npz"], up="y")
    np.testing.assert_array_equal(turned, upright)


def test_missing_materials_of_a_mesh_are_reported_without_failing(run, tmp_path):
    (tmp_path / "a.obj").write_text("mtllib gone.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n")
    status, arrays, _, err = run(tmp_path / "a.obj")
    assert status == 0 and len(arrays["files"]) == 1
    assert f"note: {tmp_path / 'a.obj'}: missing materials file" in err


def test_another_teacher_is_an_error_before_any_file_is_read(run, tmp_path):
    status, arrays, _, err = run(tmp_path / "absent.npy", "--teacher", "openai/clip")
    assert status == 2 and arrays is None
    assert "teacher: 'fake/teacher' on the card, 'openai/clip' expected" in err


def test_a_mistyped_checkpoint_and_an_empty_folder_are_errors(run, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, _, err = run(tmp_path / "empty")
    assert status == 2 and "holds no file of a known type" in err
    status, _, _, err = run(tmp_path / "x.npy", "--checkpoint", tmp_path / "nothing")
    assert status == 2 and "holds no encoder" in err


def test_missing_trimesh_is_an_error_before_the_encoder_is_loaded(run, tmp_path, monkeypatch):
    def unsupported(paths):
        raise formats.MissingPackageError('trimesh is missing: pip install "mrd_jax[prep]"')

    monkeypatch.setattr(clouds, "check_readable", unsupported)
    status, arrays, _, err = run(tmp_path / "x.glb")
    assert status == 2 and arrays is None and "mrd_jax[prep]" in err


def test_mapping_ahead_keeps_the_order_and_is_bounded():
    started, received = [], []
    for value in read_ahead.map_ahead(
        lambda item: started.append(item) or -item, range(20), count=3
    ):
        received.append(value)
        assert len(started) <= len(received) + 4
    assert received == [-item for item in range(20)]


def test_the_command_runs_as_a_module(checkpoint, tmp_path):
    np.save(tmp_path / "x.npy", cloud(0)[0])
    command = [sys.executable, "-m", "mrd_jax.tools.embed", "--checkpoint", str(checkpoint)]
    command += ["--output", str(tmp_path / "E.npz"), str(tmp_path / "x.npy"), "absent.glb"]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )
    assert done.returncode == 1, done.stderr
    assert "skipped absent.glb: cannot be read: No such file" in done.stderr
    assert "embedding: 100%" in done.stderr
    assert dict(np.load(tmp_path / "E.npz"))["embeddings"].shape == (1, DIM)
