# SPDX-License-Identifier: Apache-2.0
"""inspect, embed, data_prep.build and the page agree on every file: clouds, notes and errors."""

import json
from pathlib import Path

import gltf_files
import numpy as np
import pytest
import small_shapes
import tiny_encoder

from data_prep import shapes
from data_prep.geometry import clouds, surface
from data_prep.sources.folder import Folder
from mrd_jax.demo import worker
from mrd_jax.search import inspection, shape_files
from mrd_jax.tools import embed, inspect

CONVENTIONS = inspection.CONVENTIONS
SQUARE = "v 0 0 0\nv 2 0 0\nv 2 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
PLY = """ply
format ascii 1.0
element vertex 4
property float x
property float y
property float z
property uchar red
property uchar green
property uchar blue
end_header
0 0 0 9 0 0
1 0 0 9 0 0
0 1 0 9 0 0
nan 1 1 9 0 0
"""
GOOD = ("cube.glb", "chair/models/model.obj", "grey.obj", "points.ply", "box.stl", "cloud.npy")
BAD = ("pointer.glb", "short.stl", "empty.obj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    file = gltf_files.File()
    file.mesh(file.primitive(gltf_files.CORNERS, gltf_files.CUBE))
    (folder / "cube.glb").write_bytes(file.glb())
    for name in ("chair/models", "chair/images"):
        (folder / name).mkdir(parents=True)
    (folder / "chair/images/wood.png").write_bytes(small_shapes.picture((160, 80, 40)))
    (folder / "chair/models/model.mtl").write_text("newmtl a\nmap_Kd ../images/wood.png\n")
    obj = f"mtllib model.mtl\n{SQUARE}usemtl a\nf 1/1 2/2 3/3 4/4\n"
    (folder / "chair/models/model.obj").write_text(obj)
    (folder / "grey.obj").write_text(obj)  # without its materials
    (folder / "points.ply").write_text(PLY)
    small_shapes.write(folder / "box.stl", small_shapes.box())
    np.save(folder / "cloud.npy", np.random.default_rng(0).normal(size=(50, 3)))
    (folder / "pointer.glb").write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"
    )
    (folder / "short.stl").write_bytes((folder / "box.stl").read_bytes()[:300])
    (folder / "empty.obj").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def inspected(folder):
    """Returns {file: facts} of inspect."""
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda text="", **_: lines.append(text))
        assert inspect.main([str(folder), "--json"]) == 1
    facts = [json.loads(line) for line in lines if line.startswith("{")]
    return {str(Path(each["file"]).relative_to(folder)): each for each in facts}


class Recorder:
    """Encoder that records the point clouds that it gets."""

    def __init__(self):
        self.card = tiny_encoder.tiny_card(points=CONVENTIONS.points)
        self.clouds = []

    def embed(self, given, *, batch_size):
        del batch_size
        self.clouds += given
        return np.ones((len(self.clouds), tiny_encoder.DIM), np.float32)


def test_every_file_is_inspected_and_the_errors_are_as_expected(inspected):
    assert set(inspected) == {*GOOD, *BAD}
    assert {file for file, facts in inspected.items() if facts["error"]} == set(BAD)
    assert inspected["grey.obj"]["notes"] == ["missing materials file"]
    (note,) = inspected["points.ply"]["notes"]
    assert "not finite" in note
    assert inspected["chair/models/model.obj"]["colour_mean"] == [160, 80, 40]


def test_embed_agrees(folder, inspected, capsys):
    listing = shape_files.find([folder])
    recorder = Recorder()
    paths, roots = zip(*((file.path, file.root) for file in listing.files), strict=True)
    _, report = embed.embed_files(recorder, paths, roots=roots)
    read = {str(path.relative_to(folder)): cloud for path, cloud in
            zip(report.files, recorder.clouds, strict=True)}  # fmt: skip
    assert set(read) == set(GOOD)
    for path, reason in report.skipped:
        assert reason == inspected[str(path.relative_to(folder))]["error"]
    printed = capsys.readouterr().err
    for file in GOOD:
        for note in inspected[file]["notes"]:
            assert f"{folder / file}: {note}" in printed
        expected = inspection.inspect_file(folder / file, root=folder).cloud
        np.testing.assert_array_equal(read[file][0], expected.xyz)
        np.testing.assert_array_equal(read[file][1], expected.rgb)


def test_build_agrees(folder, inspected):
    source = Folder()
    for item in source.items(folder):
        facts = inspected[item.path]
        try:
            shape = source.prepare(item, points=500, views=0, image_size=8, seed=0)
        except shapes.SkipShape as skip:
            assert str(skip) == facts["error"]
            continue
        assert set(facts["notes"]) <= set(shape.faults)
        # Other random points of the same surface; a cloud is repeated.
        if facts["colour_mean"]:
            assert shape.rgb.mean(axis=0) == pytest.approx(facts["colour_mean"], abs=0.6)
        content = clouds.read_content(folder / item.path, fill=0.4, root=folder)
        if content.surface is not None:
            sides = np.ptp(content.surface.triangles.reshape(-1, 3), axis=0)
            upright = np.abs(surface.Y_UP_TO_Z_UP @ sides) if facts["up_axis"] == "y" else sides
            found = np.ptp(shape.xyz, axis=0)
            assert found / found.max() == pytest.approx(upright / upright.max(), abs=0.06)


@pytest.mark.parametrize("file", [*(f for f in GOOD if "/" not in f), *BAD])
def test_page_agrees(folder, inspected, tmp_path, file):
    """An upload is a file without others beside it."""
    upload = tmp_path / f"upload{Path(file).suffix}"
    upload.write_bytes((folder / file).read_bytes())
    answer = worker.read(upload, tmp_path / "out.npz", conventions=CONVENTIONS)
    assert answer.get("error") == inspected[file]["error"]
    if "error" not in answer:
        assert answer["faults"] == inspected[file]["notes"]
        with np.load(tmp_path / "out.npz") as arrays:
            expected = inspection.inspect_file(folder / file, root=folder).cloud
            np.testing.assert_array_equal(arrays["xyz"], expected.xyz)


def test_upload_reads_nothing_outside_of_its_folder(folder, tmp_path):
    shaped = tmp_path / "uploads"
    (tmp_path / "images").mkdir()
    shaped.mkdir()
    (tmp_path / "images/wood.png").write_bytes(small_shapes.picture((160, 80, 40)))
    for name in ("model.obj", "model.mtl"):
        (shaped / name).write_bytes((folder / "chair/models" / name).read_bytes())
    answer = worker.read(shaped / "model.obj", tmp_path / "out.npz", conventions=CONVENTIONS)
    assert answer["faults"] == ["missing texture"]
