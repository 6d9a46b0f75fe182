# SPDX-License-Identifier: Apache-2.0
"""The search command, from files and data sets to results."""

import dataclasses
import io
import json
import os
import sys

import fake_data
import jax
import numpy as np
import PIL.Image
import pytest
import tiny_index
from tiny_encoder import random_clouds, tiny_card, tiny_variables

from data_prep.geometry import formats
from mrd_jax import encoder
from mrd_jax.data import dataset_metadata, picture_files, source
from mrd_jax.search import queries, shape_index
from mrd_jax.tools import embed, search

pytestmark = pytest.mark.usefixtures("fast_compile")
NAMES = ("oak_chair-2.npz", "b/0001.npz", "RedLamp.npz")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """Returns the working directory, with an encoder, embedded point clouds and their index."""
    folder = tmp_path_factory.mktemp("search")
    encoder.save(folder / "encoder", variables=tiny_variables(), card=tiny_card())
    for name, (xyz, rgb) in zip(NAMES, random_clouds(3), strict=True):
        (folder / "files" / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(folder / "files" / name, xyz=xyz[:, [0, 2, 1]] * [1, 1, -1], rgb=rgb)
    with pytest.MonkeyPatch.context() as patch:
        load, cache = encoder.load, {}

        def load_once(path, **_):
            """Caches the encoder, so that it is compiled once per module."""
            if str(path) not in cache:
                cache[str(path)] = load(path, devices=jax.local_devices()[:1])
            return cache[str(path)]

        patch.setattr(encoder, "load", load_once)
        patch.setattr(queries.teachers, "load_teacher", lambda *a, **k: tiny_index.FakeTeacher())
        patch.chdir(folder)
        arguments = ["--checkpoint", "encoder", "--output", "E.npz", "--up", "y", "files"]
        assert embed.main(arguments) == 0
        arguments = ["build", "--embeddings", "E.npz", "--output", "index", "--points", "50"]
        assert search.main(arguments) == 0
        yield folder


@pytest.fixture
def run(workspace, capsys):
    """Runs the command; returns (status, stdout, stderr)."""

    def call(*arguments):
        capsys.readouterr()
        return search.main([str(argument) for argument in arguments]), *capsys.readouterr()

    return call


def test_the_index_of_embedded_files_has_names_points_and_pictures(workspace):
    index = shape_index.read(workspace / "index")
    by_id = {item.id: (number, item) for number, item in enumerate(index.items)}
    assert set(by_id) == {f"files/{name}" for name in NAMES}
    assert [by_id[f"files/{name}"][1].name for name in NAMES] == ["oak chair", "", "Red Lamp"]
    assert index.teacher == shape_index.Teacher("fake/teacher", "", "fake/teacher")
    embedded = np.load(workspace / "E.npz")["embeddings"]
    np.testing.assert_allclose(index.rows, embedded, rtol=0, atol=1e-3)
    # The points are rotated to z up, as for the embedding, and coloured.
    xyz, rgb = random_clouds(3)[0]
    number = by_id["files/oak_chair-2.npz"][0]
    assert index.xyz.shape == (3, 50, 3)
    for point, colour in zip(index.xyz[number] / 32_767, index.rgb[number], strict=True):
        nearest = np.linalg.norm(xyz - point, axis=1).argmin()
        # Some of the few points are repeated more often than others, which shifts the mean.
        np.testing.assert_allclose(point, xyz[nearest], atol=2e-3)
        np.testing.assert_allclose(colour / 255, rgb[nearest], atol=1 / 255)
    with PIL.Image.open(io.BytesIO(index.picture(number))) as picture:
        assert picture.size == (128, 128)


def test_the_index_has_the_metadata_of_the_table(run, tmp_path):
    xyz, _ = random_clouds(1)[0]
    np.savez(tmp_path / "x.npz", xyz=xyz[:, [0, 2, 1]] * [1, 1, -1])
    lines = "path,name,up_axis,creator,licence\nx.npz,oak chair,y,Zoë,CC-BY-4.0\n"
    (tmp_path / "shapes.csv").write_text(lines, encoding="utf-8")
    arguments = ["--checkpoint", "encoder", "--output", str(tmp_path / "E.npz"), str(tmp_path)]
    assert embed.main(arguments) == 0
    output = tmp_path / "index"
    assert run("build", "--embeddings", tmp_path / "E.npz", "--output", output)[0] == 0
    index = shape_index.read(output)
    (item,) = index.items
    assert (item.name, item.creator, item.licence) == ("oak chair", "Zoë", "CC-BY-4.0")
    # Upright; the repetition of some points changes the scale slightly.
    extents = np.ptp(index.xyz[0] / 32_767, axis=0)
    np.testing.assert_allclose(extents, np.ptp(xyz, axis=0), rtol=0, atol=0.01)


def test_a_file_finds_itself_and_results_are_printed_as_a_table(run):
    mesh = "files/oak_chair-2.npz"
    status, out, _ = run(
        "find", "--index", "index", "--checkpoint", "encoder", "--up", "y", "--mesh", mesh
    )
    lines = [line.split() for line in out.splitlines()]
    assert status == 0 and len(lines) == 4
    assert lines[0] == ["rank", "score", "name", "id", "creator", "licence"]
    assert lines[1] == ["1", "1.000", "oak", "chair", mesh]


def test_parts_are_mixed_by_their_weights_in_order(run, workspace, tmp_path):
    PIL.Image.new("RGB", (3, 3), (0, 255, 0)).save(tmp_path / "green.png")
    searcher = queries.Searcher(
        shape_index.read(workspace / "index"), teacher=tiny_index.FakeTeacher()
    )
    parts = [searcher.embed_text("red"), tiny_index.row((0, 255, 0)), searcher.embed_text("blue")]
    rows = [queries.normalise(part) for part in parts]
    want = searcher.find(queries.mix(rows, [2, -1, 0.5]), count=2)
    status, out, _ = run(
        *("find", "--index", "index", "--text", "red", "--image", tmp_path / "green.png"),
        *("--text", "blue", "--weights", 2, -1, 0.5, "--format", "json", "--count", 2),
    )
    found = json.loads(out)
    assert status == 0 and [shape["rank"] for shape in found] == [1, 2]
    assert [shape["id"] for shape in found] == [searcher.index.items[n].id for n in want.numbers]
    np.testing.assert_allclose([shape["score"] for shape in found], want.scores, atol=1e-5)
    fields = {"rank", "score", "id", "name", "creator", "licence", "picture", "label"}
    assert set(found[0]) == fields


def test_a_contact_sheet_is_written(run, tmp_path):
    sheet = tmp_path / "found.png"
    status, out, _ = run(
        "find", "--index", "index", "--text", "red", "--format", "sheet", "--output", sheet
    )
    assert status == 0 and "wrote 3 shapes to" in out
    with PIL.Image.open(sheet) as picture:
        assert picture.format == "PNG" and picture.width == 3 * 216


def test_another_encoder_is_rejected(run, tmp_path):
    encoder.save(tmp_path / "e", variables=tiny_variables(), card=tiny_card(licence="another"))
    status, _, err = run(
        *("find", "--index", "index", "--mesh", "files/RedLamp.npz"),
        *("--checkpoint", tmp_path / "e"),
    )
    assert status == 2 and "was built with the encoder" in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["find", "--index", "nothing", "--text", "x"], "nothing is not an index"),
        (["find", "--index", "index", "--image", "x.png"], "cannot read x.png: No such file"),
        (
            ["build", "--embeddings", "E.npz", "--output", "index"],
            "index exists; choose another folder",
        ),
        (["build", "--embeddings", "files/RedLamp.npz", "--output", "i"], "lacks ['embeddings'"),
        (["build", "--embeddings", "E.npz", "--output", "i", "--ann"], "omit it"),
        (["build", "--data", "/x", "--checkpoint", "y", "--output", "i"], "no data set in '/x'"),
    ],
)
def test_an_unusable_input_is_reported_by_name(run, arguments, message):
    status, _, err = run(*arguments)
    assert status == 2 and message in err


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["find", "--index", "i"], "nothing to search for"),
        (
            ["find", "--index", "i", "--text", "x", "--weights", "1", "2"],
            "--weights has 2 values for 1 part",
        ),
        (["find", "--index", "i", "--mesh", "x.glb"], "--mesh needs --checkpoint"),
        (["find", "--index", "i", "--text", "x", "--format", "sheet"], "sheet needs --output"),
        (["find", "--index", "i", "--text", "x", "--count", "0"], "--count is 0"),
        (["build", "--output", "i"], "pass either --data or --embeddings"),
        (
            ["build", "--output", "i", "--data", "d"],
            "--data and --checkpoint must be passed together",
        ),
        (
            ["build", "--output", "i", "--embeddings", "e", "--splits", "test"],
            "--splits needs --data",
        ),
    ],
)
def test_inconsistent_options_are_rejected(arguments, message, capsys):
    with pytest.raises(SystemExit):
        search.main(arguments)
    assert message in capsys.readouterr().err


def test_a_data_set_is_indexed(made, tmp_path, monkeypatch, capsys):
    """The encoder uses fewer points than a record has; missing pictures are drawn."""

    class Encoder:
        card = dataclasses.replace(
            tiny_card(), points=7, teacher_dim=6, student=tiny_card().student | {"out_dim": 6}
        )

        def embed(self, clouds):
            rows = np.array([[*xyz.sum(axis=0), *rgb.sum(axis=0)] for xyz, rgb in clouds])
            return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    monkeypatch.setattr(search.encoder, "load", lambda path, **_: Encoder())
    monkeypatch.setattr(search.fingerprinting, "checkpoint_fingerprint", lambda path: "hash")
    monkeypatch.setattr(search.indexing, "_CHUNK", 10)  # the last chunk is smaller
    arguments = ["--data", str(made), "--checkpoint", "e", "--output", str(tmp_path / "index")]
    assert search.main(["build", *arguments, "--points", "5"]) == 0
    records = [record for split in ("train", "test") for record in source.open_split(made, split)]
    assert f"wrote {len(records)} shapes to" in capsys.readouterr().out
    index = shape_index.read(tmp_path / "index")
    assert [item.id for item in index.items] == [record["id"] for record in records]
    assert index.teacher == shape_index.Teacher("fake/teacher", "1", "fake/teacher")
    assert index.checkpoint == "hash" and index.xyz.shape == (len(records), 5, 3)
    for number, record in enumerate(records):
        item = index.items[number]
        assert (item.name, item.creator, item.licence) == (
            record["name"],
            record["creator"],
            record["licence"],
        )
        np.testing.assert_allclose(index.xyz[number] / 32_767, record["xyz"][:5], atol=1e-4)
        np.testing.assert_array_equal(index.rgb[number], record["rgb"][:5])
        cloud = np.float32(record["xyz"][:7]), record["rgb"][:7] / 255
        row = np.concatenate([part.sum(axis=0) for part in cloud])
        np.testing.assert_allclose(index.rows[number], row / np.linalg.norm(row), atol=1e-3)
        picture = made / "evaluation" / "pictures" / record["picture"]
        if record["picture"]:
            assert index.picture(number) == picture_files.read(picture)
        else:
            with PIL.Image.open(io.BytesIO(index.picture(number))) as drawn:
                assert drawn.size == (128, 128)
    assert [item.id for item in index.items].count("Thing #9/\u00fc") == 1
    assert fake_data.ITEMS - 1 == len(records)


def test_the_default_teacher_is_the_one_of_the_build(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    metadata = dataset_metadata.read(made)
    card = dataclasses.replace(tiny_card(), teacher=metadata["teacher"]["name"])

    def place(teacher):
        changed = metadata | {"build": metadata["build"] | {"teacher": teacher}}
        return search.indexing._find_teacher(
            card, changed, place="", data=made, output=tmp_path / "i"
        ).place

    (tmp_path / "mine").mkdir()
    assert place("mine") == "../mine"
    assert place("nowhere") == card.teacher


def test_a_single_split_is_indexed(made, tmp_path, monkeypatch):
    passed = {}

    def write(output, directory, **options):
        passed.update(options)
        tiny_index.write(output)

    monkeypatch.setattr(search.encoder, "load", lambda path, **_: None)
    monkeypatch.setattr(search.fingerprinting, "checkpoint_fingerprint", lambda path: "hash")
    monkeypatch.setattr(search.indexing, "index_data_set", write)
    arguments = ["--data", str(made), "--checkpoint", "e", "--output", str(tmp_path / "index")]
    assert search.main(["build", *arguments, "--splits", "test"]) == 0
    assert passed["splits"] == ["test"]


def test_the_index_records_the_place_of_the_teacher_or_the_command_warns(
    run, workspace, tmp_path, monkeypatch
):
    monkeypatch.chdir(workspace)
    (workspace / "mine").mkdir()
    status, _, err = run(
        *("build", "--embeddings", "E.npz", "--output", tmp_path / "a", "--teacher", "mine")
    )
    assert status == 0 and "will need --teacher" not in err
    assert "note: 1 shape without a name, such as files/b/0001.npz; use --label_from folder" in err
    place = shape_index.read(tmp_path / "a").teacher.place
    assert (tmp_path / "a" / place).resolve() == (workspace / "mine").resolve()
    status, _, err = run(
        *("build", "--embeddings", "E.npz", "--output", tmp_path / "b", "--teacher", "gone")
    )
    assert status == 0 and "will need --teacher" in err


def test_embeddings_by_another_head_than_that_of_searches_are_refused(run, workspace, tmp_path):
    arrays = dict(np.load(workspace / "E.npz"))
    assert arrays["head"] == "contrastive"
    np.savez(tmp_path / "mean.npz", **arrays | {"head": "mean"})
    status, _, err = run("build", "--embeddings", tmp_path / "mean.npz", "--output", tmp_path / "a")
    assert status == 2 and "has embeddings by --head mean, but searches embed with" in err


def test_an_index_of_an_earlier_reader_is_a_note(run, workspace, tmp_path):
    arrays = dict(np.load(workspace / "E.npz"))
    assert arrays["reader_version"] == formats.READER_VERSION
    for name in ("reader_version", "roots", "head"):
        del arrays[name]
    np.savez(tmp_path / "old.npz", **arrays)
    status, _, err = run("build", "--embeddings", tmp_path / "old.npz", "--output", tmp_path / "a")
    note = f"note: the shapes of {tmp_path / 'a'} were read by version 1 of the readers of files"
    assert status == 0 and note in err
    find = ["find", "--index", tmp_path / "a", "--mesh", f"files/{NAMES[0]}"]
    status, _, err = run(*find, "--mesh", f"files/{NAMES[2]}", "--checkpoint", "encoder")
    assert status == 0 and err.count(note) == 1
    status, _, err = run("find", "--index", tmp_path / "a", "--text", "red")
    assert status == 0 and "version" not in err
    info = json.loads((workspace / "index" / "index.json").read_text())
    assert info["reader_version"] == formats.READER_VERSION
    find[2] = "index"
    assert "version" not in run(*find, "--checkpoint", "encoder")[2]


def test_names_of_an_index_come_from_folders_if_the_user_says_so(run, workspace, tmp_path):
    xyz, rgb = random_clouds(1)[0]
    for name in ("red_chair/1a2b/model.npz", "red_chair/oak_chair.npz", "0001.npz"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        np.savez(tmp_path / "in" / name, xyz=xyz, rgb=rgb)
    arguments = ["--checkpoint", "encoder", "--output", str(tmp_path / "E.npz")]
    assert embed.main([*arguments, "--label_from", "folder", str(tmp_path / "in")]) == 0
    status, _, err = run(
        "build", "--embeddings", tmp_path / "E.npz", "--output", tmp_path / "index"
    )
    assert status == 0 and "note: 1 shape without a name" in err
    names = {item.id: item.name for item in shape_index.read(tmp_path / "index").items}
    assert names == {
        f"{tmp_path}/in/0001.npz": "",
        f"{tmp_path}/in/red_chair/1a2b/model.npz": "red chair",
        f"{tmp_path}/in/red_chair/oak_chair.npz": "oak chair",
    }
    assert embed.main([*arguments, "--label_from", "parent", str(tmp_path / "in")]) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="other systems accept UTF-8 only")
def test_names_that_are_not_utf8_are_indexed_and_found(run, tmp_path):
    xyz, rgb = random_clouds(1)[0]
    (tmp_path / "in").mkdir()
    np.savez(tmp_path / "x.npz", xyz=xyz, rgb=rgb)
    os.rename(tmp_path / "x.npz", os.fsencode(tmp_path / "in") + b"/caf\xe9\n.npz")
    arguments = ["--checkpoint", "encoder", "--output", str(tmp_path / "E.npz")]
    assert embed.main([*arguments, str(tmp_path / "in")]) == 0
    index = tmp_path / "index"
    assert run("build", "--embeddings", tmp_path / "E.npz", "--output", index)[0] == 0
    for kind in ("table", "json"):
        status, out, _ = run("find", "--index", index, "--text", "red", "--format", kind)
        assert status == 0 and out.encode() and "caf\\xe9\\n.npz" in out.replace("\\\\", "\\")
