# SPDX-License-Identifier: Apache-2.0
"""Parts of a preparation in separate or shared folders give the data set of one process."""

import argparse
import os

import pytest
from fake_data import run_build

from data_prep import build, build_flags, merge, parts, prepare
from data_prep.parts import Part


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare, "ITEMS_PER_SHARD", 8)  # five shards


def part(index, count=3):
    return build_flags.Execution(workers=0, part=Part(index, count))


def contents(folder):
    """Returns {relative path: bytes} of the prepared shapes, the features and the data set."""
    places = [folder / name for name in ("shapes", "features", "fake")]
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """Output folder of a build by one process."""
    run_build(tmp_path / "whole", monkeypatch)
    return tmp_path / "whole"


def merged(folders, output, monkeypatch, **changes):
    """Merges folders with the options of `run_build`."""
    with monkeypatch.context() as patch:
        options = []
        patch.setattr(build, "build", options.append)
        run_build(output, patch, **changes)
    return merge.merge(folders, options[0])


def test_separate_parts_are_merged_to_the_same_bytes(tmp_path, monkeypatch, whole):
    folders = [tmp_path / f"part{index}" for index in range(3)]
    for index, folder in enumerate(folders):
        run_build(folder, monkeypatch, execution=part(index))
        assert not (folder / "fake").exists()
    assert [len(list(folder.glob("shapes/fake/*/*.npz"))) for folder in folders] == [2, 2, 1]

    _, teacher = run_build(tmp_path / "unused", monkeypatch)
    teacher.pictures = 0
    merged(folders, tmp_path / "all", monkeypatch)

    assert contents(tmp_path / "all") == contents(whole)
    assert teacher.pictures == 0  # the parts have encoded them


def test_parts_in_a_shared_folder_are_completed_by_a_build(tmp_path, monkeypatch, whole):
    for index in (2, 0, 1):
        run_build(tmp_path / "shared", monkeypatch, execution=part(index))
    run_build(tmp_path / "shared", monkeypatch)
    assert contents(tmp_path / "shared") == contents(whole)


def test_part_without_a_shard_does_nothing(tmp_path, monkeypatch):
    run_build(tmp_path / "part", monkeypatch, execution=part(7, 8))  # there are five shards
    assert not contents(tmp_path / "part")


def test_merge_without_a_part_or_with_other_options_is_refused(tmp_path, monkeypatch):
    folders = [tmp_path / f"part{index}" for index in range(2)]
    for index, folder in enumerate(folders):
        run_build(folder, monkeypatch, execution=part(index, 2))
    with pytest.raises(ValueError, match="2 shards, such as number 1, are missing"):
        merged(folders[:1], tmp_path / "some", monkeypatch)
    with pytest.raises(ValueError, match="5 shards, such as number 0, are missing or were"):
        merged(folders, tmp_path / "other", monkeypatch, points=12)
    with pytest.raises(ValueError, match="absent: has no folder shapes/fake; expected the"):
        merged([tmp_path / "absent"], tmp_path / "none", monkeypatch)


def test_merge_of_folders_that_contradict_each_other_is_refused(tmp_path, monkeypatch):
    for name, points in (("one", 24), ("two", 12)):
        run_build(tmp_path / name, monkeypatch, points=points, execution=part(0))
    with pytest.raises(ValueError, match="differ: the parts were prepared with other options"):
        merged([tmp_path / "one", tmp_path / "two"], tmp_path / "all", monkeypatch)


def test_merge_copies_where_files_cannot_be_linked(tmp_path, monkeypatch):
    def link(source, target):
        raise OSError("invalid cross-device link")

    monkeypatch.setattr(os, "link", link)
    (tmp_path / "part" / "0000").mkdir(parents=True)
    (tmp_path / "part" / "0000" / "shard-00000.npz").write_bytes(b"content")
    (tmp_path / "part" / "0000" / ".shard-00001.npz.7.tmp").write_bytes(b"half")
    assert merge.join(tmp_path / "part", tmp_path / "all") == 1
    (copy,) = (path for path in (tmp_path / "all").rglob("*") if path.is_file())
    assert copy.read_bytes() == b"content" and copy.name == "shard-00000.npz"
    assert merge.join(tmp_path / "part", tmp_path / "all") == 0


@pytest.mark.parametrize("text", ["3/3", "0/0", "-1/2", "1", "1/2/3", "a/b", ""])
def test_invalid_part_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected INDEX/COUNT with an index from"):
        parts.parse(text)


def test_parts_cover_every_shard_once():
    chosen = [parts.parse(f"{index}/3") for index in range(3)]
    assert all(sum(each.has(number) for each in chosen) == 1 for number in range(20))
    assert parts.parse("0/1") == parts.WHOLE
