# SPDX-License-Identifier: Apache-2.0
"""Builds with `--captions`: what gets into records, and what is not done again."""

import json

import numpy as np
import pytest
from fake_data import FakeTeacher, run_build

from data_prep import captions
from data_prep.captions import encoding
from mrd_jax.data import dataset_metadata, source

ID = "Thing #{}/ü"  # names are "thing {i // 2}", and every shape has two tags


class Teacher(FakeTeacher):
    """Reads texts of up to 20 characters."""

    def count_truncated(self, texts):
        return sum(len(text) > 20 for text in texts)


def caption_file(folder, name, content, *, kind):
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(content)
    return captions.parse(f"{path}:{kind}")


def records(folder):
    return {
        record["id"]: record
        for split in ("train", "test")
        for record in source.open_split(folder, split)
    }


def pairs(record):
    return list(zip(record["caption_kinds"], record["captions"], strict=True))


def test_captions_are_added_without_preparing_shapes_or_encoding_pictures(
    copied, tmp_path, monkeypatch, capsys
):
    before = records(copied / "fake" / "1.0.0")
    shards = {path: path.stat().st_mtime_ns for path in copied.rglob("shard-*.npz")}
    lines = f"{ID.format(1)},a t1 thing\n{ID.format(1)},a second caption that is long\nx,unknown\n"
    file = caption_file(tmp_path / "c", "cap3d.csv", lines, kind="cap3d")

    folder, teacher = run_build(
        copied, monkeypatch, teacher=Teacher(), captions=(file,), overwrite=True
    )

    assert teacher.pictures == 0
    assert shards == {path: path.stat().st_mtime_ns for path in shards}
    after = records(folder)
    changed = after[ID.format(1)]
    assert pairs(changed) == [
        *pairs(before[ID.format(1)]),
        ("cap3d", "a t1 thing"),
        ("cap3d", "a second caption that is long"),
    ]
    own = before[ID.format(1)]["text_features"]
    want = teacher.encode_texts(["a t1 thing", "a second caption that is long"])
    np.testing.assert_array_equal(changed["text_features"], [*own, *want.astype(np.float16)])
    for shape_id in before.keys() - {ID.format(1)}:
        assert pairs(after[shape_id]) == pairs(before[shape_id])
    printed = capsys.readouterr().out
    assert (
        "cap3d.csv (cap3d): 3 rows, 2 of them match 1 of 40 shapes; 1 ids match no shape (x)"
        in (printed)
    )
    assert "2 captions, 1 of them longer than the teacher reads, and truncated" in printed
    assert dataset_metadata.read(folder)["build"]["captions"] == [file.content()]

    # Without the option, or with another file, the data set is another one.
    with pytest.raises(
        ValueError, match="was built with --captions .*cap3d.*, but --captions None"
    ):
        run_build(copied, monkeypatch)
    other = caption_file(tmp_path / "c", "cap3d.csv", lines + "y,z\n", kind="cap3d")
    with pytest.raises(ValueError, match="--overwrite"):
        run_build(copied, monkeypatch, captions=(other,), teacher=Teacher())


def test_only_shards_with_changed_captions_are_encoded_again(copied, tmp_path, monkeypatch, capsys):
    def build(content):
        file = caption_file(tmp_path / "c", "c.jsonl", content, kind="caption")
        run_build(copied, monkeypatch, teacher=Teacher(), captions=(file,), overwrite=True)
        return capsys.readouterr().out

    line = '{{"id": "{}", "caption": "{}"}}\n'
    first, last = line.format(ID.format(0), "one"), line.format(ID.format(39), "two")
    assert "captions: 2 shards written, 0 current" in build(first + last)
    assert "captions: 0 shards written, 2 current" in build(last + first)
    assert "captions: 1 shards written, 1 current" in build(
        first + line.format(ID.format(39), "changed")
    )


def test_the_filter_renames_the_names_that_it_rejects(copied, tmp_path, monkeypatch):
    flags = json.dumps({ID.format(1): {"flag": "N"}, ID.format(2): {"flag": "Y"}})
    file = caption_file(tmp_path / "c", "gpt4_filtering.json", flags, kind=captions.FILTER)
    before = records(copied / "fake" / "1.0.0")

    folder, teacher = run_build(
        copied, monkeypatch, teacher=Teacher(), captions=(file,), overwrite=True
    )

    after = records(folder)
    assert after[ID.format(1)]["caption_kinds"] == ["name_rejected", "tags", "tags"]
    assert after[ID.format(2)]["caption_kinds"] == ["name", "tags", "tags"]
    for shape_id, record in before.items():
        np.testing.assert_array_equal(after[shape_id]["text_features"], record["text_features"])


def test_captions_for_other_shapes_end_the_build_before_any_work(tmp_path, monkeypatch):
    file = caption_file(tmp_path / "c", "c.csv", "x,y\n", kind="cap3d")
    with pytest.raises(
        ValueError, match="its ids are such as x, those of the source such as Thing"
    ):
        run_build(tmp_path / "out", monkeypatch, captions=(file,))
    assert not list(tmp_path.rglob("shard-*"))


def test_a_corrupt_file_of_captions_is_encoded_again_and_its_reader_names_it(
    copied, tmp_path, monkeypatch, capsys
):
    content = f"{ID.format(0)},one\n"
    file = caption_file(tmp_path / "c", "c.csv", content, kind="caption")
    run_build(copied, monkeypatch, teacher=Teacher(), captions=(file,), overwrite=True)
    broken = sorted((copied / "captions").rglob("shard-*.npz"))[0]
    whole = encoding.load(broken)
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=f"{broken}: not a complete file of captions .* delete it"):
        encoding.load(broken)

    run_build(copied, monkeypatch, teacher=Teacher(), captions=(file,), overwrite=True)

    assert "captions: 1 shards written, 1 current" in capsys.readouterr().out
    assert encoding.load(broken).keys() == whole.keys()
