# SPDX-License-Identifier: Apache-2.0
"""Every command reads a file alike: inspect, embed, the index, data_prep.build and the page.

They give the same error, the same notes, the same vertical axis and the same points and colours.
"""

import dataclasses
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import small_shapes
from small_shapes import box
from starlette import testclient
from tiny_encoder import DIM, tiny_card

from data_prep import build_flags, prepare, shapes
from data_prep.geometry import clouds
from mrd_jax.checkpoints import model_card
from mrd_jax.demo import web_app
from mrd_jax.search import inspection, queries, shape_index
from mrd_jax.tools import embed, inspect, search

POINTS = inspection.POINTS
IN_PROCESS = build_flags.Execution(workers=0)
# Faults that data_prep.build adds to those of the reader.
OF_BUILD = ("vertical axis not stated", "fewer points than asked for", "blank view")
# Six standard errors of a mean of 10,000 values of 0 to 1.
ERROR = 6 * 0.5 / 100
COLLADA = """<?xml version="1.0"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><up_axis>Z_UP</up_axis></asset>
<library_geometries><geometry id="g"><mesh>
<source id="p"><float_array id="a" count="12">0 0 0 1 0 0 0 3 0 0 0 9</float_array>
<technique_common><accessor source="#a" count="4" stride="3">
<param name="X" type="float"/><param name="Y" type="float"/><param name="Z" type="float"/>
</accessor></technique_common></source>
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<triangles count="4"><input semantic="VERTEX" source="#v" offset="0"/>
<p>0 1 2 0 1 3 0 2 3 1 2 3</p></triangles></mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="s"><node><instance_geometry url="#g"/></node>
</visual_scene></library_visual_scenes>
<scene><instance_visual_scene url="#s"/></scene>
</COLLADA>
"""
OBJ = "mtllib model.mtl\nusemtl m\n{}f 1/1 2/2 3/3\nf 1/1 3/3 4/4\n"
CORNERS = "v 0 0 0\nv 1 0 0\nv 1 4 0\nv 0 4 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"


def write_files(root):
    """Writes files of several kinds; returns {path: None, or a part of the error}."""
    small_shapes.write(root / "green.glb", box((1, 2, 4), (0, 255, 0)))
    small_shapes.write(root / "red.ply", box((1, 2, 4), (255, 0, 0)))
    small_shapes.write(root / "plain.stl", box((1, 2, 4)))
    (root / "stated.dae").write_text(COLLADA)
    (root / "rock" / "models").mkdir(parents=True)
    (root / "rock" / "images").mkdir()
    (root / "rock" / "images" / "a.png").write_bytes(small_shapes.picture((0, 0, 255)))
    (root / "rock" / "models" / "model.mtl").write_text("newmtl m\nmap_Kd ../images/a.png\n")
    (root / "rock" / "models" / "model.obj").write_text(OBJ.format(CORNERS))
    (root / "no_materials.obj").write_text(OBJ.format(CORNERS))
    rng = np.random.default_rng(0)
    xyz, rgb = rng.normal(size=(POINTS, 3)), rng.random((POINTS, 3))
    np.save(root / "cloud.npy", np.hstack([xyz, rgb]))
    xyz[:7] = np.nan
    np.savez(root / "nan.npz", xyz=xyz, rgb=rgb)
    np.save(root / "point.npy", np.ones((9, 3)))
    (root / "lfs.glb").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 1234\n"
    )
    (root / "page.ply").write_text("<!DOCTYPE html>\n<html>Access denied</html>")
    (root / "empty.stl").write_bytes(b"")
    (root / "cut.glb").write_bytes((root / "green.glb").read_bytes()[:200])
    triangle = struct.pack("<12fH", *([0.0] * 12), 0)
    (root / "flat.stl").write_bytes(bytes(80) + struct.pack("<I", 1) + triangle)
    flat = "mtllib gone.mtl\nusemtl m\nv 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n"
    (root / "flat.obj").write_text(flat)
    return {
        **dict.fromkeys(("green.glb", "red.ply", "plain.stl", "stated.dae", "cloud.npy")),
        **dict.fromkeys(("rock/models/model.obj", "no_materials.obj", "nan.npz")),
        "point.npy": "all points coincide",
        "lfs.glb": "Git LFS pointer",
        "page.ply": "HTML",
        "empty.stl": "empty file",
        "cut.glb": "truncated",
        "flat.stl": "no visible",
        "flat.obj": "; missing materials file",  # errors end with the notes
    }


@dataclasses.dataclass
class Recorder:
    """Encoder that records the point clouds that it gets."""

    card: model_card.ModelCard = dataclasses.field(
        default_factory=lambda: dataclasses.replace(tiny_card(), points=POINTS)
    )
    clouds: list = dataclasses.field(default_factory=list)

    def embed(self, given, *, batch_size=32):
        del batch_size
        before = len(self.clouds)
        self.clouds += given
        return np.full((len(self.clouds) - before, DIM), DIM**-0.5, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    folder.joinpath("in").mkdir()
    return folder / "in"


@pytest.fixture(scope="module")
def expected(folder):
    return write_files(folder)


@pytest.fixture(scope="module")
def inspected(folder, expected):
    """{file: facts} of the folder."""
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inspect, "print", lambda text, **_: lines.append(text), raising=False)
        assert inspect.main([str(folder), "--json"]) == 1
    facts = {os.path.relpath(fact["file"], folder): fact for fact in map(json.loads, lines)}
    assert facts.keys() == expected.keys()
    return facts


@pytest.fixture(scope="module")
def embedded(folder, expected, tmp_path_factory):
    """{file: Cloud}, {file: reason} and the npz file of the folder, and the printed lines."""
    output, recorder, lines = tmp_path_factory.mktemp("embedded") / "E.npz", Recorder(), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embed.mrd_jax.encoder, "load", lambda *args, **kwargs: recorder)
        patch.setattr(embed.fingerprinting, "checkpoint_fingerprint", lambda path: "hash")
        patch.setattr(embed.tqdm.tqdm, "write", lambda _, text, file: lines.append(text))
        command = ["--checkpoint", "none", "--output", str(output), str(folder)]
        assert embed.main(command) == 1
    with np.load(output) as arrays:
        files, skipped = arrays["files"], zip(arrays["skipped"], arrays["reasons"], strict=True)
        found = {
            os.path.relpath(file, folder): clouds.Cloud(*cloud)
            for file, cloud in zip(files, recorder.clouds, strict=True)
        }
        reasons = {os.path.relpath(file, folder): str(reason) for file, reason in skipped}
    assert found.keys() | reasons.keys() == expected.keys()
    return found, reasons, output, lines


@pytest.fixture(scope="module")
def index(embedded, tmp_path_factory):
    place = tmp_path_factory.mktemp("index") / "index"
    command = ["build", "--embeddings", str(embedded[2]), "--output", str(place)]
    assert search.main([*command, "--points", str(POINTS)]) == 0
    return shape_index.read(place)


@pytest.fixture(scope="module")
def prepared(folder, expected, tmp_path_factory):
    """{file: Shape} and {file: reason} of the source `folder`."""
    cache = tmp_path_factory.mktemp("prepared")
    prepare.prepare_shapes(
        "folder", folder, cache, points=POINTS, views=1, image_size=8, execution=IN_PROCESS
    )
    paths = prepare.shard_paths(cache)
    found = {shape.id: shape for path in paths for shape in shapes.load_shard(path)}
    reasons = {}
    for path in paths:
        reasons |= shapes.load_header(path)["skipped"]
    assert found.keys() | reasons.keys() == expected.keys()
    return found, reasons


@pytest.fixture(scope="module")
def client(index):
    recorder = Recorder()
    searcher = queries.Searcher(index, encoder=recorder)
    limits = web_app.Limits(read_seconds=60, hosts=("testserver",))
    with web_app.serving(searcher, limits) as app:
        yield testclient.TestClient(app), recorder


FILES = (
    *("green.glb", "red.ply", "plain.stl", "stated.dae", "cloud.npy", "rock/models/model.obj"),
    *("no_materials.obj", "nan.npz", "point.npy", "lfs.glb", "page.ply", "empty.stl", "cut.glb"),
    *("flat.stl", "flat.obj"),
)


@pytest.mark.parametrize("file", FILES)
def test_errors_have_the_same_sentence(
    folder, inspected, embedded, prepared, client, expected, file
):
    error = inspected[file]["error"]
    if expected[file] is None:
        assert error is None and file in embedded[0] and file in prepared[0]
        return
    assert expected[file] in error
    assert embedded[1][file] == error
    assert prepared[1][file] == error
    answer = upload(client, folder / file)
    assert answer.status_code == 422
    assert answer.json()["error"] == f"{Path(file).name} cannot be used: {error}"


@pytest.mark.parametrize("file", FILES)
def test_notes_are_the_same(folder, inspected, embedded, prepared, client, expected, file):
    if expected[file]:
        return  # notes are part of the sentence
    notes = inspected[file]["notes"]
    printed = f"note: {folder / file}: {', '.join(notes)}"
    assert [line for line in embedded[3] if f"{folder / file}: " in line] == [printed] * bool(notes)
    faults = [each for each in prepared[0][file].faults if not each.startswith(OF_BUILD)]
    assert faults == notes
    if "/" not in file:  # the page gets one file without its textures
        assert upload(client, folder / file).json()["faults"] == notes


def test_the_files_have_the_notes_that_they_should_have(inspected):
    noted = {file: facts["notes"] for file, facts in inspected.items() if facts["notes"]}
    assert noted.pop("no_materials.obj") == ["missing materials file"]
    (note,) = noted.pop("nan.npz")
    assert "not finite" in note and "7" in note
    assert not any(notes for file, notes in noted.items() if not inspected[file]["error"])


@pytest.mark.parametrize("file", FILES)
def test_points_and_colours_are_the_same(
    folder, inspected, embedded, prepared, client, index, expected, file
):
    if expected[file]:
        return
    facts, cloud = inspected[file], embedded[0][file]
    whole = inspection.inspect_file(folder / file, root=folder).cloud
    np.testing.assert_array_equal(cloud.xyz, whole.xyz)
    np.testing.assert_array_equal(cloud.rgb, whole.rgb)
    colour = facts["colour_mean"] or [255 * tiny_card().colour_fill] * 3
    # nan.npz has fewer points than asked for, of which some are repeated.
    np.testing.assert_allclose(255 * cloud.rgb.mean(axis=0), colour, atol=0.05)
    numbers = {item.id: number for number, item in enumerate(index.items)}
    number = numbers[str(folder / file)]
    order = np.random.default_rng(0).permutation(POINTS)
    np.testing.assert_allclose(index.xyz[number] / 32_767, cloud.xyz[order], atol=2e-5)
    np.testing.assert_array_equal(index.rgb[number], np.rint(255 * cloud.rgb[order]))
    # data_prep.build samples each mesh with random numbers of its own.
    shape = prepared[0][file]
    for found, wanted in ((shape.xyz, cloud.xyz), (shape.rgb / 255, cloud.rgb)):
        np.testing.assert_allclose(found.mean(axis=0), wanted.mean(axis=0), atol=ERROR)
        np.testing.assert_allclose(found.std(axis=0), wanted.std(axis=0), atol=ERROR)
    if "/" not in file:
        assert upload(client, folder / file).status_code == 200
        xyz, rgb = client[1].clouds[-1]
        np.testing.assert_array_equal(xyz, cloud.xyz)
        np.testing.assert_array_equal(rgb, cloud.rgb)


def test_the_axes_are_those_of_the_file_or_else_of_its_type(inspected, embedded):
    axes = {file: facts["up_axis"] for file, facts in inspected.items() if not facts["error"]}
    assert {file for file, axis in axes.items() if axis == "y"} == {
        *("green.glb", "rock/models/model.obj", "no_materials.obj")
    }
    # The longest side of the box lies along z of the file, that of the COLLADA file is upright.
    for file, longest in (("green.glb", 1), ("red.ply", 2), ("stated.dae", 2)):
        assert np.ptp(embedded[0][file].xyz, axis=0).argmax() == longest


@pytest.mark.parametrize(
    ("table", "flag", "longest"), [("", "", 2), ("", "y", 1), ("z", "y", 2), ("y", "", 1)]
)
def test_the_table_goes_before_the_flag_and_the_flag_before_the_file(
    tmp_path, monkeypatch, capsys, table, flag, longest
):
    (tmp_path / "a.dae").write_text(COLLADA)
    (tmp_path / "t.csv").write_text(f"path,up_axis\na.dae,{table}\n")
    recorder = Recorder()
    monkeypatch.setattr(embed.mrd_jax.encoder, "load", lambda *args, **kwargs: recorder)
    monkeypatch.setattr(embed.fingerprinting, "checkpoint_fingerprint", lambda path: "hash")
    options = [*(["--up", flag] if flag else []), str(tmp_path)]
    output = ["--checkpoint", "none", "--output", str(tmp_path / "out" / "E.npz")]
    assert embed.main([*output, *options]) == 0
    assert np.ptp(recorder.clouds[0][0], axis=0).argmax() == longest
    capsys.readouterr()
    assert inspect.main(["--json", *options]) == 0
    assert json.loads(capsys.readouterr().out)["up_axis"] == ("z" if longest == 2 else "y")
    if not flag:
        cache = tmp_path / "cache"
        prepare.prepare_shapes(
            "folder", tmp_path, cache, points=POINTS, views=0, execution=IN_PROCESS
        )
        (shape,) = shapes.load_shard(*prepare.shard_paths(cache))
        assert np.ptp(shape.xyz, axis=0).argmax() == longest
        assert not any("vertical axis" in fault for fault in shape.faults)


def upload(client, path):
    return client[0].post(
        "/api/uploads",
        params={"name": path.name},
        content=path.read_bytes(),
        headers={"content-type": "application/octet-stream"},
    )


def test_the_parametrised_files_are_all_files(expected):
    assert set(FILES) == set(expected)
