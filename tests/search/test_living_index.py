# SPDX-License-Identifier: Apache-2.0
"""Shapes are added to an index and removed from it, while others read it."""

import argparse
import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import tiny_index
from doc_pages import ROOT

from benchmarks import index as benchmark
from mrd_jax.search import index_writer, nearest, queries, segments, shape_index

ARCHIVE = ROOT / "tests" / "fixtures" / "version_0.1.0.tar.gz"


@pytest.fixture
def folder(tmp_path):
    return tiny_index.write(tmp_path / "index")


def shapes(count, *, seed=1, prefix="new", dim=tiny_index.DIM, points=tiny_index.POINTS):
    """Returns shapes with other ids than those of `tiny_index.write`."""
    rows = tiny_index.unit_rows(count, dim, seed=seed)
    xyz = np.random.default_rng(seed).uniform(-0.5, 0.5, (points, 3))
    rgb = np.full((points, 3), seed, np.uint8)
    return [
        shape_index.Entry(
            shape_index.Item(f"{prefix}/{number}", f"{prefix} {number}", "", "", f"{number}.jpg"),
            row,
            xyz,
            rgb,
            b"picture %d" % number,
        )
        for number, row in enumerate(rows)
    ]


def writer(folder):
    return index_writer.open_writer(folder, user="test")


def content(index):
    """Returns everything that an index says about each shape, by its id."""
    return {
        item.id: (item, index.rows[n].tobytes(), index.xyz[n].tobytes(), index.picture(n))
        for n, item in enumerate(index.items)
    }


def test_shapes_are_added_and_removed_and_open_indexes_stay_as_they_are(folder):
    before = shape_index.read(folder)
    old = content(before)
    with writer(folder) as change:
        assert change.add(shapes(5)) == 5
        change.remove(["box/0", "box/7"])
        assert content(shape_index.read(folder)) == old
        change.publish()
    index = shape_index.read(folder)
    kept = [number for number in range(12) if number not in (0, 7)]
    want = [f"box/{number}" for number in kept] + [f"new/{number}" for number in range(5)]
    assert [item.id for item in index.items] == want
    assert (index.version, len(index)) == (1, 15)
    rows = np.concatenate([tiny_index.coloured_rows()[kept], tiny_index.unit_rows(5, seed=1)])
    np.testing.assert_array_equal(np.asarray(index.rows), rows.astype(np.float16))
    assert index.picture(12) == b"picture 2"
    assert content(before) == old
    found = queries.Searcher(index).find(rows[13], count=1)
    assert found.numbers.tolist() == [13]


def test_rows_are_read_by_number_slice_and_list_across_segments(folder, monkeypatch):
    monkeypatch.setattr(index_writer, "STAGE", 3)
    monkeypatch.setattr("mrd_jax.search.compaction._RATIO", 0)
    with writer(folder) as change:
        change.add(shapes(7))
        change.remove(["box/3"])
        change.publish()
    index = shape_index.read(folder)
    assert len(index.layout.parts) == 4
    rows = np.concatenate(
        [np.delete(tiny_index.coloured_rows(), 3, axis=0), tiny_index.unit_rows(7, seed=1)]
    ).astype(np.float16)
    np.testing.assert_array_equal(np.asarray(index.rows, np.float32), np.float32(rows))
    np.testing.assert_array_equal(index.rows[[17, 0, 11, -1]], rows[[17, 0, 11, -1]])
    np.testing.assert_array_equal(index.rows[3:16], rows[3:16])
    np.testing.assert_array_equal(index.rows[::-5], rows[::-5])
    np.testing.assert_array_equal(index.rows[13], rows[13])
    assert index.rows[5:5].shape == (0, tiny_index.DIM)
    with pytest.raises(IndexError, match="rows 18 to 18 of 18"):
        index.rows[18]
    for number, item in enumerate(index.items):
        assert index.number(item.key) == number
    with pytest.raises(KeyError):
        index.number("box/3")
    assert [item.id for item in index.items[16:]] == ["new/5", "new/6"]


def test_many_small_additions_leave_few_segments(folder):
    for number in range(30):
        with writer(folder) as change:
            change.add(shapes(1, seed=number + 1, prefix=f"n{number}"))
            change.publish()
    index = shape_index.read(folder)
    assert len(index) == 42 and len(index.layout.parts) <= 3
    assert {path.name for path in (folder / "segments").iterdir()} == {
        part.name for part in index.layout.parts
    }
    assert [item.id for item in index.items][12:] == [f"n{number}/0" for number in range(30)]


def test_a_segment_with_many_removed_shapes_is_copied_without_them(folder):
    with writer(folder) as change:
        change.remove(["box/5"])
        change.publish()
    assert len(shape_index.read(folder).layout.parts[0].segment) == 12
    with writer(folder) as change:
        change.remove([f"box/{number}" for number in (1, 2, 3)])
        change.publish()
    index = shape_index.read(folder)
    assert len(index.layout.parts[0].segment) == len(index) == 8
    with writer(folder) as change:
        change.remove([item.id for item in index.items])
        change.publish()
    empty = shape_index.read(folder)
    assert len(empty) == 0 and empty.xyz.shape == (0, tiny_index.POINTS, 3)
    assert len(queries.Searcher(empty).find(tiny_index.unit_rows(1)[0], count=3).numbers) == 0
    with writer(folder) as change:
        change.add(shapes(2))
        change.publish()
    assert len(shape_index.read(folder)) == 2


def test_a_changed_shape_takes_the_place_of_the_old_one(folder):
    new = shapes(1)[0]
    new = dataclasses.replace(new, item=dataclasses.replace(new.item, id="box/3", name="other"))
    with writer(folder) as change:
        with pytest.raises(ValueError, match="already has a shape 'box/3'; remove it first"):
            change.add([new])
    with writer(folder) as change:
        change.add([new], replace=True)
        change.publish()
    index = shape_index.read(folder)
    assert [item.name for item in index.items if item.id == "box/3"] == ["other"]
    assert len(index) == 12


def test_unknown_ids_are_refused_and_nothing_is_removed(folder):
    with writer(folder) as change, pytest.raises(ValueError, match="no shape 'x'; nothing was"):
        change.remove(["box/1", "x"])
    assert len(shape_index.read(folder)) == 12


def test_ids_that_occur_twice_are_refused(folder):
    with writer(folder) as change, pytest.raises(ValueError, match="'new/0' occurs twice"):
        change.add([*shapes(2), *shapes(1)])
    assert len(shape_index.read(folder)) == 12


def test_a_second_writer_is_refused_with_the_name_of_the_first(folder):
    with writer(folder), pytest.raises(index_writer.BusyError) as error:
        with index_writer.open_writer(folder, user="second"):
            pass
    assert f"{folder} is being changed by test (process {os.getpid()} on" in str(error.value)
    with writer(folder):
        pass


def test_pictures_lie_in_zip_files_that_other_programs_read(folder):
    index = shape_index.read(folder)
    path = index.picture_path(4)
    with zipfile.ZipFile(path.parent) as archive:
        assert archive.read(path.name) == index.picture(4)
        assert len(archive.namelist()) == 12 and archive.testzip() is None
    assert not list(folder.rglob("*.jpg"))


def test_pictures_are_split_over_several_zip_files(tmp_path, monkeypatch):
    monkeypatch.setattr(segments, "PICTURES_PER_FILE", 5)
    index = shape_index.read(tiny_index.write(tmp_path / "index"))
    assert index.picture_path(11).parent.name == "pictures-00002.zip"
    for number, entry in enumerate(tiny_index.entries(tiny_index.coloured_rows())):
        assert index.picture(number) == entry.picture


def test_an_index_of_the_first_format_is_read_and_converted_when_it_is_changed(tmp_path):
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    folder = tmp_path / "index"
    before = shape_index.read(folder)
    old = content(before)
    assert len(old) == 12 and not (folder / "segments").exists()
    new = shapes(3, dim=before.rows.shape[1], points=before.xyz.shape[1])
    with writer(folder) as change:
        change.add(new[:2])
        change.publish()
    index = shape_index.read(folder)
    found = content(index)
    assert {name: found[name] for name in old} == old and len(found) == 14
    assert index.reader_version == 1
    assert content(before) == old  # an open page still shows its pictures
    with writer(folder) as change:
        change.add(new[2:])
        change.publish()
    assert not (folder / "pictures").exists() and not (folder / "rows.npy").exists()
    after = content(shape_index.read(folder))
    assert after.keys() == {*old, *(entry.item.id for entry in new)}


KILLED = """
import pickle, sys, time
from mrd_jax.search import index_writer
index_writer.STAGE = 3
def slow():
    with open({shapes!r}, "rb") as file:
        found = pickle.load(file)
    for shape in found:
        if shape.item.id == "new/7":
            print("staged", flush=True)
            time.sleep(60)
        yield shape
with index_writer.open_writer({folder!r}, user="killed") as writer:
    writer.add(slow())
    writer.publish()
"""


def test_a_writer_that_is_killed_leaves_the_old_index_and_its_work_for_the_next(folder):
    old = content(shape_index.read(folder))
    (folder.parent / "shapes").write_bytes(pickle.dumps(shapes(8)))
    code = KILLED.format(shapes=str(folder.parent / "shapes"), folder=str(folder))
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "staged\n"
        process.send_signal(signal.SIGKILL)
    assert content(shape_index.read(folder)) == old
    with writer(folder) as change:
        staged = list(change.staged())
        assert [item.id for item, _, _ in staged] == [f"new/{number}" for number in range(6)]
        for part in {id(part): part for _, part, _ in staged}.values():
            change.keep(part, [n for _, other, n in staged if other is part])
        change.add(shapes(8)[6:])
        change.publish()
    index = shape_index.read(folder)
    assert content(index).keys() == {*old, *(f"new/{number}" for number in range(8))}
    np.testing.assert_array_equal(
        index.rows[12:], tiny_index.unit_rows(8, seed=1).astype(np.float16)
    )
    assert not [path for path in (folder / "segments").iterdir() if path.name.startswith(".")]


def test_an_index_that_changes_while_it_is_opened_is_opened_in_its_new_version(folder, monkeypatch):
    read, calls = segments.read, []

    def read_late(place):
        if not calls:
            calls.append(place)
            with writer(folder) as change:
                change.remove([f"box/{number}" for number in range(6)])
                change.publish()
        return read(place)

    monkeypatch.setattr(segments, "read", read_late)
    assert len(shape_index.read(folder)) == 6 and calls


def test_approximate_search_skips_removed_shapes_and_finds_added_ones(tmp_path, monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(nearest, "ANN_FROM", 10)
    monkeypatch.setattr(nearest, "_PROBES", 120)  # search all lists
    rows = tiny_index.unit_rows(300)
    folder = tiny_index.write(tmp_path / "index", rows, ann=True)
    removed = [3, 50, 299]
    with writer(folder) as change:
        assert change.manifest.segments[0].recall == 1
        change.add(shapes(4))
        change.remove([f"box/{number}" for number in removed])
        change.publish()
        assert [listed.recall for listed in change.manifest.segments] == [1, None]
    index = shape_index.read(folder)
    approximate = queries.Searcher(index, ann=True)
    want = np.concatenate([np.delete(rows, removed, axis=0), tiny_index.unit_rows(4, seed=1)])
    for query in [*tiny_index.unit_rows(3, seed=2), rows[50], want[-1]]:
        scores = want.astype(np.float16).astype(np.float32) @ query
        found = approximate.find(query, count=6)
        assert found.numbers.tolist() == np.argsort(-scores, kind="stable")[:6].tolist()


def test_a_searcher_takes_the_next_version_and_refuses_another_index(folder, tmp_path):
    searcher = queries.Searcher(shape_index.read(folder), teacher=tiny_index.FakeTeacher())
    query = searcher.embed_text("red")
    with writer(folder) as change:
        change.remove(["box/0"])
        change.publish()
    later = searcher.with_index(shape_index.read(folder))
    assert later.index.items[later.find(query, count=1).numbers[0]].id != "box/0"
    assert searcher.index.items[searcher.find(query, count=1).numbers[0]].id == "box/0"
    other = tiny_index.write(tmp_path / "other", checkpoint="another")
    with pytest.raises(shape_index.IndexMismatchError, match="was built with the encoder another"):
        searcher.with_index(shape_index.read(other))


def test_the_benchmark_builds_changes_and_searches_an_index(tmp_path):
    fields = dict(shapes=40, changes=5, dim=8, points=16, ann=False, folder=tmp_path / "index")
    measured = {
        step: benchmark.measure(argparse.Namespace(step=step, **fields)) for step in benchmark.STEPS
    }
    assert measured["query"]["shapes"] == 40 and measured["query"]["query_ms"] > 0
    assert all(step["s"] >= 0 and step["peak_mb"] > 10 for step in measured.values())
    ids = [item.id for item in shape_index.read(tmp_path / "index").items]
    assert ids[0] == "made_up/1" and "made_up/32" not in ids and ids[-1] == "made_up/44"
