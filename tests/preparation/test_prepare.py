# SPDX-License-Identifier: Apache-2.0
"""Preparation of shapes: parallel, resumable, with a summary of counts."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import tiny_catalogue

from data_prep import build_flags, prepare, shapes, shards, sources, summary, timing

SETTINGS = {"points": 200, "views": 1, "image_size": 16, "seed": 0}


@pytest.fixture(autouse=True)
def two_items_per_shard(monkeypatch):
    monkeypatch.setattr(prepare, "ITEMS_PER_SHARD", 2)


def notes_of(summary):
    """Returns the notes but that of the vertical axis, which every build has."""
    return [note for note in summary.notes if not note.startswith("vertical axis")]


def run(raw, cache, *, workers=0, **settings):
    execution = build_flags.Execution(workers=workers)
    settings = SETTINGS | settings
    return prepare.prepare_shapes("furniture", raw, cache, execution=execution, **settings)


def load(cache):
    return [shape for path in prepare.shard_paths(cache) for shape in shapes.load_shard(path)]


def with_faults(folder):
    """Writes a catalogue of a model without its texture and two models that must be skipped."""
    files = {
        "good.obj": tiny_catalogue.boxes(((1, 1, 1), (0, 0, 0), "red")),
        "box.mtl": "newmtl red\nKd 1 0 0\nmap_Kd gone.png\n",
        "empty.obj": "",
        "icon.png": tiny_catalogue.png([[(0, 0, 0)]]),
    }
    models = ["good.obj", "empty.obj", "gone.obj"]
    entries = [tiny_catalogue.entry(model, model) for model in models]
    return tiny_catalogue.write_catalogue(folder / "Faulty.sh3f", entries, files)


def test_every_item_becomes_a_shape_in_order(tmp_path):
    tiny_catalogue.chairs(tmp_path, count=5)
    summary = run(tmp_path, tmp_path / "cache")
    assert (summary.read, summary.written, summary.reused) == (5, 5, 0)
    assert [shape.name for shape in load(tmp_path / "cache")] == [f"Train {i}" for i in range(5)]
    assert len(prepare.shard_paths(tmp_path / "cache")) == 3


def test_shards_do_not_depend_on_the_number_of_processes(tmp_path):
    tiny_catalogue.chairs(tmp_path, count=5)
    run(tmp_path, tmp_path / "one")
    run(tmp_path, tmp_path / "two", workers=2)
    one, two = (prepare.shard_paths(tmp_path / name) for name in ("one", "two"))
    assert [path.name for path in one] == [path.name for path in two]
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(one, two, strict=True))


def test_second_run_reuses_all_shards(tmp_path):
    tiny_catalogue.chairs(tmp_path)
    run(tmp_path, tmp_path / "cache")
    before = {path: path.stat().st_mtime_ns for path in prepare.shard_paths(tmp_path / "cache")}
    summary = run(tmp_path, tmp_path / "cache")
    assert (summary.written, summary.reused) == (3, 3)
    assert before == {p: p.stat().st_mtime_ns for p in prepare.shard_paths(tmp_path / "cache")}


def test_interrupted_run_resumes_where_it_stopped(tmp_path, monkeypatch):
    tiny_catalogue.chairs(tmp_path, count=5)
    run(tmp_path, tmp_path / "whole")
    calls = []
    original = sources.SOURCES["furniture"].prepare

    class Interrupted:
        family = "furniture"
        items = sources.SOURCES["furniture"].items

        def prepare(self, item, **settings):
            calls.append(item.id)
            if len(calls) == 4:
                raise KeyboardInterrupt
            return original(item, **settings)

    monkeypatch.setitem(sources.SOURCES, "furniture", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, tmp_path / "cache")
    summary = run(tmp_path, tmp_path / "cache")
    assert (summary.reused, summary.written) == (2, 5)
    assert len(calls) == 4 + 3
    for path in prepare.shard_paths(tmp_path / "whole"):
        other = shards.beside(path, tmp_path / "cache")
        assert path.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("change", [{"points": 100}, {"seed": 1}, {"views": 2}, {"image_size": 8}])
def test_shards_of_other_settings_are_prepared_again(tmp_path, change):
    tiny_catalogue.chairs(tmp_path)
    run(tmp_path, tmp_path / "cache")
    assert run(tmp_path, tmp_path / "cache", **change).reused == 0
    assert run(tmp_path, tmp_path / "cache", **change).reused == 3


def test_shards_of_other_items_are_prepared_again_and_surplus_ones_removed(tmp_path):
    tiny_catalogue.chairs(tmp_path, count=5)
    run(tmp_path, tmp_path / "cache")
    tiny_catalogue.chairs(tmp_path, count=3)
    summary = run(tmp_path, tmp_path / "cache")
    assert (summary.reused, summary.written) == (2, 3)
    assert [shape.name for shape in load(tmp_path / "cache")] == ["Train 0", "Train 1", "Train 2"]


def test_summary_counts_skipped_items_and_faults_of_reused_shards(tmp_path):
    with_faults(tmp_path)
    for _ in range(2):
        summary = run(tmp_path, tmp_path / "cache")
        assert (summary.read, summary.written) == (3, 1)
        assert summary.skipped == {"empty file": 1, "missing mesh": 1}
        assert summary.faults == {"missing texture": 1}
    text = str(summary)
    assert "3 items read, 1 shapes in the cache (3 items found prepared), 2 skipped" in text
    assert "skipped, empty file: 1" in text
    (kept,) = load(tmp_path / "cache")
    assert f"kept, missing texture: 1\n    {kept.id}" in text


def test_summary_lists_the_first_five_skipped_items_of_a_reason(tmp_path):
    files = {f"{n}.obj": "" for n in range(7)}
    entries = [tiny_catalogue.entry(f"m{n}", f"{n}.obj") for n in range(7)]
    tiny_catalogue.write_catalogue(tmp_path / "Empty.sh3f", entries[:5], files)
    text = str(run(tmp_path, tmp_path / "cache"))
    assert "skipped, empty file: 5\n    Tiny#m0, Tiny#m1, Tiny#m2, Tiny#m3, Tiny#m4\n" in text
    tiny_catalogue.write_catalogue(tmp_path / "Empty.sh3f", entries, files)
    text = str(run(tmp_path, tmp_path / "cache"))
    assert "skipped, empty file: 7\n    Tiny#m0, Tiny#m1, Tiny#m2, Tiny#m3, Tiny#m4, ...\n" in text


def test_summary_contains_the_seconds_of_every_stage(tmp_path):
    tiny_catalogue.chairs(tmp_path)
    summary = run(tmp_path, tmp_path / "cache", workers=2)
    assert set(summary.cpu_seconds) == {"load", "sample", "render", "encode"}
    assert all(seconds > 0 for seconds in summary.cpu_seconds.values())
    assert summary.seconds > 0


def test_stage_times_are_summed_until_taken():
    timing.take()
    with timing.stage("a"):
        sum(range(10_000))
    with pytest.raises(ZeroDivisionError), timing.stage("b"):
        raise ZeroDivisionError
    assert set(timing.take()) == {"a", "b"}
    assert timing.take() == {}


def test_error_in_a_worker_process_names_the_item(tmp_path):
    tiny_catalogue.chairs(tmp_path, count=1)
    with pytest.raises(RuntimeError, match=r"preparing 'Train#0' failed: views is 13"):
        run(tmp_path, tmp_path / "cache", workers=2, views=13)


def test_unknown_source_is_rejected_with_the_list_of_sources(tmp_path):
    with pytest.raises(ValueError, match=r"unknown source 'x', expected one of \['folder'"):
        prepare.prepare_shapes("x", tmp_path, tmp_path)


def test_worker_processes_do_not_import_jax():
    code = "import sys, data_prep.prepare; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_saved_shard_loads_unchanged(tmp_path):
    tiny_catalogue.chairs(tmp_path, count=2)
    run(tmp_path, tmp_path / "cache")
    saved = load(tmp_path / "cache")
    shapes.save_shard(tmp_path / "copy.npz", saved, header={"a": 1})
    for one, other in zip(saved, shapes.load_shard(tmp_path / "copy.npz"), strict=True):
        for name in (field.name for field in dataclasses.fields(one)):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert (other.xyz.dtype, other.rgb.dtype) == (np.float32, np.uint8)
    assert shapes.load_header(tmp_path / "copy.npz") == {"a": 1}
    assert [path.name for path in tmp_path.glob(".*.tmp")] == []


def test_corrupt_shard_is_prepared_again_and_named(tmp_path):
    tiny_catalogue.chairs(tmp_path)
    run(tmp_path, tmp_path / "cache")
    path = prepare.shard_paths(tmp_path / "cache")[0]
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    again = run(tmp_path, tmp_path / "cache")
    assert (again.written, again.reused) == (3, 1)
    assert path.read_bytes() == content
    (note,) = notes_of(again)
    assert note.startswith("prepared again: ") and note.endswith(str(path))


@pytest.mark.parametrize(
    ("xyz", "reason"),
    [
        (np.zeros((0, 3)), "no points"),
        (np.ones((4, 3)), "all points coincide"),
        (np.array([[0, 0, 0], [0, np.inf, 0]]), "non-finite coordinates"),
    ],
)
def test_points_that_cannot_be_normalised_are_skipped(xyz, reason):
    with pytest.raises(shapes.SkipShape, match=f"^{reason}$"):
        shapes.normalise(xyz)


def test_normalise_centres_the_mean_and_scales_the_farthest_point_to_norm_one():
    got = shapes.normalise(np.array([[1.0, 1, 1], [3, 1, 1], [2, 4, 1]]))
    centred = np.array([[-1, -1, 0], [1, -1, 0], [0, 2, 0]]) / 2
    np.testing.assert_allclose(got, centred, atol=1e-6)


def downgrade(cache):
    """Makes all shards look as if an earlier version of the readers had prepared them."""
    for path in prepare.shard_paths(cache):
        header = shapes.load_header(path)
        del header["reader_version"]
        shapes.save_shard(path, shapes.load_shard(path), header=header)


def test_shards_of_an_earlier_reader_are_prepared_again_with_a_note(tmp_path, capsys):
    tiny_catalogue.chairs(tmp_path, count=5)
    run(tmp_path, tmp_path / "cache")
    before = [path.read_bytes() for path in prepare.shard_paths(tmp_path / "cache")]
    downgrade(tmp_path / "cache")
    again = run(tmp_path, tmp_path / "cache")
    note = "5 items that an earlier version of the readers of files prepared are prepared again"
    assert (again.reused, again.written) == (0, 5)
    assert f"note: {note}" in str(again) and f"note: {note}" in capsys.readouterr().err
    assert [path.read_bytes() for path in prepare.shard_paths(tmp_path / "cache")] == before
    third = run(tmp_path, tmp_path / "cache")
    assert third.reused == 5 and not notes_of(third)


def test_shards_that_other_settings_replace_anyway_are_no_note(tmp_path, capsys):
    tiny_catalogue.chairs(tmp_path, count=5)
    run(tmp_path, tmp_path / "cache")
    downgrade(tmp_path / "cache")
    assert not notes_of(run(tmp_path, tmp_path / "cache", seed=1))
    assert "note" not in capsys.readouterr().err


def test_texts_that_differ_in_numbers_are_counted_together():
    counted = summary.Summary()
    counted.faults.update({"points that are not finite, dropped: 12": 2, "missing texture": 1})
    counted.faults.update(
        {"points that are not finite, dropped: 7": 1, "2 lines": 1, "glTF 1.0": 1}
    )
    counted.skipped.update({"glTF 1.1": 1, "truncated: has 200 of 1152 bytes": 1})
    counted.examples = {
        "points that are not finite, dropped: 12": ["a", "b"],
        "points that are not finite, dropped: 7": ["c"],
    }
    lines = str(counted).splitlines()[1:]
    assert lines == [
        "  skipped, glTF 1.1: 1",
        "  skipped, truncated: has 200 of 1152 bytes: 1",
        "  kept, 2 lines: 1",
        "  kept, glTF 1.0: 1",
        "  kept, missing texture: 1",
        "  kept, points that are not finite, dropped: N: 3",
        "    a, b, c",
    ]


def test_examples_do_not_depend_on_the_order_in_which_shards_are_finished(tmp_path):
    path = tmp_path / "shard.npz"
    path.write_bytes(b"")
    headers = [
        {"skipped": {f"{shard}-{item}": "no surface" for item in "ab"}, "faults": {}}
        for shard in range(4)
    ]

    def texts(order):
        counted = summary.Summary()
        for shard in order:
            counted.add_shard(path, headers[shard], written=0)
        return str(counted), counted.examples

    assert texts([2, 0, 3, 1]) == texts([0, 1, 2, 3]) == texts([3, 2, 1, 0])
