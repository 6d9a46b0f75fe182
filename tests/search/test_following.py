# SPDX-License-Identifier: Apache-2.0
"""An index follows folders: only what has changed is embedded."""

import json
import os
import shutil

import numpy as np
import pytest
import small_shapes
import tiny_index
from tiny_encoder import DIM, tiny_card

from mrd_jax import encoder
from mrd_jax.checkpoints import fingerprinting
from mrd_jax.cli.command import INTERRUPTED
from mrd_jax.search import changes, index_writer, shape_index
from mrd_jax.tools import index, search

BUILD = ["my_shapes", "--encoder", "encoder", "--output", "index", "--points", "20"]


class Recorder:
    """Embeds a cloud as the random row of its mean colour, and counts the clouds."""

    card = tiny_card()

    def __init__(self):
        self.clouds = 0

    def embed(self, clouds, *, batch_size=32):
        rows = [row_of(rgb) for _, rgb in clouds]
        self.clouds += len(rows)
        return np.array(rows, np.float32).reshape(-1, DIM)


def row_of(rgb):
    row = tiny_index.row(255 * rgb.mean(axis=0))
    return row / np.linalg.norm(row)


@pytest.fixture
def student(tmp_path, monkeypatch):
    """A working folder with three boxes; returns the encoder, which counts what it embeds."""
    recorder = Recorder()
    monkeypatch.setattr(encoder, "load", lambda path, **_: recorder)
    monkeypatch.setattr(fingerprinting, "checkpoint_fingerprint", lambda path: f"of {path.name}")
    monkeypatch.setattr(changes, "SETTLE_SECONDS", 0)
    monkeypatch.chdir(tmp_path)
    for name, colour in (("red_box", "red"), ("sub/green_box", "green"), ("blue_box", "blue")):
        write(name, colour)
    os.mkdir("encoder")
    return recorder


def write(name, colour, folder="my_shapes"):
    box = small_shapes.box(colour=small_shapes.rgb(colour))
    path = os.path.join(folder, f"{name}.ply")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    box.export(path)


def items():
    return {item.id: item for item in shape_index.read("index").items}


def update(*arguments):
    return search.main(["update", "--index", "index", "--checkpoint", "encoder", *arguments])


def test_a_folder_is_indexed_and_only_what_changed_is_embedded_again(student, capsys):
    assert index.main(BUILD) == 0
    assert "index has 3 shapes: 3 added" in capsys.readouterr().out
    assert {name: item.name for name, item in items().items()} == {
        "my_shapes/blue_box.ply": "blue box",
        "my_shapes/red_box.ply": "red box",
        "my_shapes/sub/green_box.ply": "green box",
    }
    assert student.clouds == 3
    write("red_box", "yellow")
    write("new_box", "red")
    os.remove("my_shapes/blue_box.ply")
    os.utime("my_shapes/sub/green_box.ply")  # the content is the same
    assert update() == 0
    assert "1 added, 1 changed, 0 with new metadata, 1 removed, 1 un" in capsys.readouterr().out
    assert student.clouds == 5
    opened = shape_index.read("index")
    number = opened.number(items()["my_shapes/red_box.ply"].key)
    want = row_of(np.array([small_shapes.rgb("yellow")]) / 255)
    np.testing.assert_allclose(opened.rows[number], want, atol=2e-3)
    assert opened.picture(number)[:2] == b"\xff\xd8"
    assert items().keys() == {f"my_shapes/{n}.ply" for n in ("new_box", "red_box", "sub/green_box")}
    version = opened.version
    assert update() == 0 and index.main(BUILD) == 0
    assert shape_index.read("index").version == version and student.clouds == 5


def test_a_changed_texture_and_one_that_was_missing_are_noticed(student):
    os.mkdir("meshes")
    obj = "mtllib a.mtl\nusemtl a\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
    with open("meshes/a.obj", "w") as file:
        file.write(obj)
    arguments = ["meshes", *BUILD[1:]]
    assert index.main(arguments) == 0 and index.main(arguments) == 0
    assert student.clouds == 1
    with open("meshes/a.mtl", "w") as file:
        file.write("newmtl a\nKd 1 0 0\n")
    assert index.main(arguments) == 0
    red = np.float32(shape_index.read("index").rows[0])
    with open("meshes/a.mtl", "w") as file:
        file.write("newmtl a\nKd 0 1 0\n")
    embedded = student.clouds
    assert index.main(arguments) == 0 and index.main(arguments) == 0
    assert student.clouds == embedded + 1
    green = np.float32(shape_index.read("index").rows[0])
    assert red[0] > 0.5 > red[1] and green[1] > 0.5 > green[0]


def test_new_metadata_in_a_table_needs_no_embedding(student):
    table = "path,name,creator,licence,label\nred_box.ply,{},Zoë,CC0,box\n"
    with open("my_shapes/table.csv", "w", encoding="utf-8") as file:
        file.write(table.format("a red box"))
    assert index.main(BUILD) == 0
    with open("my_shapes/table.csv", "w", encoding="utf-8") as file:
        file.write(table.format("a crimson box"))
    before = np.asarray(shape_index.read("index").xyz)
    assert update() == 0
    (item,) = items().values()
    assert (item.name, item.creator, item.label) == ("a crimson box", "Zoë", "box")
    np.testing.assert_array_equal(shape_index.read("index").xyz, before)
    assert student.clouds == 1


def test_an_interrupted_command_continues_where_it_stopped(student, monkeypatch):
    monkeypatch.setattr(index_writer, "STAGE", 1)
    embed = student.embed

    def stop(clouds, **options):
        if student.clouds == 2:
            raise KeyboardInterrupt
        return embed(clouds, **options)

    monkeypatch.setattr(student, "embed", stop)
    assert index.main(BUILD) == INTERRUPTED
    assert len(shape_index.read("index")) == 0 and student.clouds == 2
    monkeypatch.setattr(student, "embed", embed)
    assert index.main(BUILD) == 0
    assert len(items()) == 3 and student.clouds == 3


def test_a_file_that_is_being_written_is_read_the_next_time(student, monkeypatch, capsys):
    read = changes.clouds.read_content

    def grow(path, **options):
        content = read(path, **options)
        if path.name == "red_box.ply":
            with open(path, "ab") as file:
                file.write(b"\n")
        return content

    with monkeypatch.context() as patch:
        patch.setattr(changes.clouds, "read_content", grow)
        assert index.main(BUILD) == 1
    assert "red_box.ply: is being written; it is read the next time" in capsys.readouterr().err
    assert len(items()) == 2
    assert update() == 0 and len(items()) == 3


def test_shapes_stay_when_their_file_or_folder_cannot_be_read(student, capsys):
    assert index.main(BUILD) == 0
    with open("my_shapes/red_box.ply", "wb") as file:
        file.write(b"ply garbage")
    assert update() == 1
    assert "skipped" in capsys.readouterr().err and len(items()) == 3
    os.rename("my_shapes", "elsewhere")
    assert update() == 2
    assert "my_shapes is missing at" in capsys.readouterr().err and len(items()) == 3
    assert search.main(["remove", "--index", "index", "--source", "my_shapes"]) == 0
    assert items() == {}


def test_an_index_of_another_encoder_is_refused(student, capsys):
    assert index.main(BUILD) == 0
    os.mkdir("other")
    assert update("--checkpoint", "other") == 2
    assert "was built with the encoder of encoder" in capsys.readouterr().err
    arguments = ["my_shapes", "--encoder", "other", *BUILD[3:]]
    assert index.main(arguments) == 2


def test_an_option_that_differs_from_the_index_is_refused_before_anything_is_loaded(
    student, monkeypatch, capsys
):
    assert index.main(BUILD) == 0
    monkeypatch.setattr(encoder, "load", None)
    for option, message in (
        (["--points", "30"], "--points is 30, but"),
        (["--teacher", "other/model"], "--teacher is other/model, but"),
        (["--ann"], "--ann is True, but"),
    ):
        assert index.main([*BUILD[:-2], *option]) == 2
        assert message in capsys.readouterr().err
    assert index.main(["nowhere", *BUILD[1:]]) == 2
    assert "nowhere does not exist" in capsys.readouterr().err
    assert index.main(["my_shapes", "--encoder", "encoder", "--output", "my_shapes"]) == 2
    assert "my_shapes exists, and is not an index" in capsys.readouterr().err


def test_an_index_and_its_folders_can_be_moved_together(student):
    assert index.main(BUILD) == 0
    os.mkdir("moved")
    for name in ("index", "my_shapes", "encoder"):
        shutil.move(name, "moved")
    assert search.main(["update", "--index", "moved/index"]) == 0  # the index knows its encoder
    assert student.clouds == 3


def test_folders_are_added_and_shapes_are_removed_by_id(student, tmp_path, capsys):
    assert index.main(BUILD) == 0
    write("box", "teal", folder="more")
    add = ["add", "--index", "index", "--checkpoint", "encoder"]
    assert search.main([*add, "more"]) == 0
    assert set(items()) > {"more/box.ply"} and student.clouds == 4
    assert search.main([*add, "more/box.ply"]) == 2
    assert "lies in more, which the index follows already" in capsys.readouterr().err
    (tmp_path / "ids.txt").write_text("more/box.ply\nmy_shapes/red_box.ply\n")
    assert search.main(["remove", "--index", "index", "--ids_from", "ids.txt"]) == 0
    assert len(items()) == 2
    assert search.main(["remove", "--index", "index", "unknown"]) == 2
    assert "no shape 'unknown'; nothing was removed" in capsys.readouterr().err


def test_a_folder_has_one_name_however_it_is_written(student, tmp_path, monkeypatch, capsys):
    assert index.main(BUILD) == 0
    before = items()
    for path in ("./my_shapes/", str(tmp_path / "my_shapes")):
        assert index.main([path, *BUILD[1:]]) == 0
    assert items() == before and student.clouds == 3
    write("box", "teal", folder="other/my_shapes")
    monkeypatch.chdir(tmp_path / "other")
    arguments = ["my_shapes", "--encoder", "../encoder", "--output", "../index"]
    assert index.main(arguments) == 2
    assert "the index follows another my_shapes, at ../my_shapes from" in capsys.readouterr().err


def test_a_folder_that_is_missing_does_not_keep_others_from_being_added(student):
    assert index.main(BUILD) == 0
    os.rename("my_shapes", "elsewhere")
    write("box", "teal", folder="more")
    add = ["add", "--index", "index", "--checkpoint", "encoder", "more"]
    assert search.main(add) == 0 and len(items()) == 4


def test_indexes_are_merged_and_described(student, tmp_path, capsys):
    assert index.main(BUILD) == 0
    write("box", "teal", folder="more")
    other = ["more", "--encoder", "encoder", "--output", "other", "--points", "20"]
    assert index.main(other) == 0
    assert search.main(["merge", "index", "other", "--output", "both"]) == 0
    capsys.readouterr()
    assert search.main(["info", "--index", "both", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["shapes"], facts["points"], facts["sources"]) == (4, 20, [])
    assert sum(facts["segments"]) == 4 and facts["encoder"] == "../encoder"
    assert search.main(["info", "--index", "both"]) == 0
    assert "shapes" in capsys.readouterr().out
    assert search.main(["merge", "index", "index", "--output", "twice"]) == 2
    assert "'my_shapes/blue_box.ply' occurs twice" in capsys.readouterr().err
    assert not [name for name in os.listdir() if "twice" in name]
    arguments = ["--points", "30", "--output", "finer"]
    assert index.main(["more", "--encoder", "encoder", *arguments]) == 0
    assert search.main(["merge", "index", "finer", "--output", "x"]) == 2
    assert "finer cannot be added: points per shape is 20 and 30" in capsys.readouterr().err


def test_a_watched_folder_is_followed_until_the_command_is_interrupted(
    student, monkeypatch, capsys
):
    looks = []

    def sleep(seconds):
        looks.append(seconds)
        if len(looks) == 1:
            write("new_box", "red")
        elif len(looks) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("mrd_jax.search.following.time.sleep", sleep)
    assert index.main([*BUILD, "--watch", "--interval", "3"]) == INTERRUPTED
    assert looks == [3, 3, 3] and len(items()) == 4
    assert capsys.readouterr().out.count("index has") == 2  # nothing is printed without a change
