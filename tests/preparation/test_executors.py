# SPDX-License-Identifier: Apache-2.0
"""Items that end, block or fill their worker cost one item; the others become the same shards."""

import collections
import errno
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import synthetic_source

from benchmarks import preparation
from data_prep import (
    build_flags,
    executors,
    lock,
    prepare,
    progress,
    shapes,
    shards,
    sources,
    summary,
)
from data_prep.parts import Part

LIMITS = executors.Limits(memory=400 * 10**6)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(prepare, "ITEMS_PER_SHARD", 4)
    monkeypatch.setitem(sources.SOURCES, "synthetic", synthetic_source.Synthetic())


def write_items(folder, *actions):
    folder.mkdir(exist_ok=True)
    (folder / "items.txt").write_text("\n".join(actions))
    return folder


def run(raw, cache, *, workers=2, **execution):
    execution = build_flags.Execution(workers=workers, **{"limits": LIMITS} | execution)
    options = synthetic_source.OPTIONS
    return prepare.prepare_shapes("synthetic", raw, cache, execution=execution, **options)


def contents(cache):
    return {str(p.relative_to(cache)): p.read_bytes() for p in prepare.shard_paths(cache)}


def skipped(cache):
    """Returns {number of an item: reason} over all shards."""
    headers = [shapes.load_header(path) for path in prepare.shard_paths(cache)]
    reasons = {key: reason for header in headers for key, reason in header["skipped"].items()}
    return {int(key.partition("-")[0]): reason for key, reason in reasons.items()}


ENDINGS = {
    "kill": "worker ended: SIGKILL",
    "memory": "memory limit of 0.4 GB exceeded",
    "grow": "memory limit of 0.4 GB exceeded",
    "bug": "failed: TypeError: unsupported operand (synthetic_source.py:NNN)",
}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A preparation with one item of each kind of failure, its summary and its progress."""
    folder = tmp_path_factory.mktemp("hostile")
    write_items(folder / "raw", "ok", "skip", *ENDINGS, "once-kill", "ok", "ok")
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "ITEMS_PER_SHARD", 4)
        patch.setitem(sources.SOURCES, "synthetic", synthetic_source.Synthetic())
        counted = run(folder / "raw", folder / "cache", listener=seen.append)
    return folder, counted, seen


def without_line(reason):
    return reason.replace(reason.rpartition(":")[2], "NNN)") if ".py:" in reason else reason


def test_items_that_end_or_fill_their_worker_are_skipped_with_the_reason(hostile):
    folder, counted, _ = hostile
    found = {key: without_line(reason) for key, reason in skipped(folder / "cache").items()}
    assert found == {1: "no surface", **dict(enumerate(ENDINGS.values(), start=2))}
    assert (counted.read, counted.written) == (9, 4)
    assert counted.skipped.total() == 5 and counted.aborted == len(ENDINGS)


def test_item_that_blocks_its_worker_is_skipped_with_the_reason(tmp_path):
    raw, limits = write_items(tmp_path / "raw", "hang"), executors.Limits(seconds=0.5)
    counted = run(raw, tmp_path / "cache", limits=limits)
    assert skipped(tmp_path / "cache") == {0: "time limit of 0.5 s exceeded"}
    assert counted.retried == {"time limit of 0.5 s exceeded": 1} and counted.written == 0


def test_each_failed_item_is_tried_exactly_twice(hostile):
    _, counted, _ = hostile
    counts = {}
    for reason, count in counted.retried.items():
        counts[without_line(reason)] = count
    assert counts == {
        "worker ended: SIGKILL": 2,  # "kill", and "once-kill", which then gives a shape
        "memory limit of 0.4 GB exceeded": 2,
        ENDINGS["bug"]: 1,
    }
    assert "tried a second time, worker ended: SIGKILL: 2" in str(counted)


def test_progress_ends_with_the_counts_of_the_summary(hostile):
    _, counted, seen = hostile
    assert seen[0] == progress.Snapshot("shapes", "shape", 9)
    assert seen[-1].finished and (seen[-1].done, seen[-1].total) == (9, 9)
    assert seen[-1].skipped == counted.skipped and seen[-1].retried == counted.retried


def test_skipped_items_are_tried_again_only_if_asked(hostile, tmp_path):
    folder, _, _ = hostile
    cache = tmp_path / "cache"
    subprocess.run(["cp", "-r", folder / "cache", cache], check=True)
    before = contents(cache)

    again = run(folder / "raw", cache)
    assert (again.reused, again.written, again.aborted) == (9, 4, len(ENDINGS))
    assert "--retry_skipped tries 4 of the skipped items again" in str(again)
    assert contents(cache) == before

    # The same items again, which now all give shapes.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic_source, "act", lambda action: None)
        fixed = run(folder / "raw", cache, workers=0, retry_skipped=True)
    assert (fixed.reused, fixed.written, fixed.aborted) == (1, 9, 0)


def test_shards_are_finished_in_any_order_and_have_the_same_bytes(tmp_path):
    raw = write_items(tmp_path / "raw", "wait", *["ok", "skip"] * 8)
    finished = []
    original = shards.save

    def save(shard, *arguments, **settings):
        finished.append(shard.number)
        if len(finished) == 4:
            synthetic_source.go_file(raw).touch()
        return original(shard, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "save", save)
        run(raw, tmp_path / "two", limits=executors.Limits())
    # The slow item is in the first shard, and no other waits for it.
    assert finished == [1, 2, 3, 4, 0]
    run(raw, tmp_path / "alone", workers=0)
    assert contents(tmp_path / "two") == contents(tmp_path / "alone")


def test_error_that_the_user_can_remove_ends_the_preparation_and_its_workers(tmp_path):
    raw = write_items(tmp_path / "raw", "ok", "hang", "absent")
    with pytest.raises(executors.ItemError, match="preparing '2-absent' failed: install the"):
        run(raw, tmp_path / "cache")
    assert not children()


def test_preparation_stops_where_most_items_fail(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "MIN_ABORTED", 4)
    raw = write_items(tmp_path / "raw", *["bug"] * 8)
    message = (
        r"4 of the first 4 items were given up \(such as '\d-bug': failed: TypeError.*retry_sk"
    )
    with pytest.raises(executors.AbortedError, match=message):
        run(raw, tmp_path / "cache")
    assert not children()


def test_full_disk_ends_the_preparation_and_the_next_run_continues(tmp_path, monkeypatch):
    raw, cache = write_items(tmp_path / "raw", *["ok"] * 12), tmp_path / "cache"
    original = shapes.save_shard

    def save(path, *arguments, **settings):
        if path.name == "shard-00001.npz":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(shapes, "save_shard", save)
        with pytest.raises(
            OSError, match=r"No space left on device \(the same command.*shard-00001.npz"
        ):
            run(raw, cache, workers=1)
    assert not children()
    again = run(raw, cache, workers=0)
    assert again.reused == 4 and again.written == 12


def test_temporary_files_of_a_killed_write_are_removed(tmp_path):
    raw, cache = write_items(tmp_path / "raw", *["ok"] * 8), tmp_path / "cache"
    (cache / "0000").mkdir(parents=True)
    for name in (".shard-00000.npz.77.tmp", ".shard-00001.npz.77.tmp"):
        (cache / "0000" / name).write_bytes(b"half")
    run(raw, cache, workers=0, part=Part(0, 2))
    # The other shard belongs to another part, whose process may be writing it.
    assert [p.name for p in cache.rglob(".shard*")] == [".shard-00001.npz.77.tmp"]


def test_flat_cache_of_an_earlier_version_is_moved_and_kept(tmp_path):
    raw, cache = write_items(tmp_path / "raw", *["ok"] * 12), tmp_path / "cache"
    run(raw, cache, workers=0)
    before = contents(cache)
    for path in prepare.shard_paths(cache):
        path.rename(cache / path.name)
    again = run(raw, cache, workers=0)
    assert again.reused == 12 and contents(cache) == before
    assert again.notes == ["3 shards of an earlier version were moved to subfolders"]
    assert not list(cache.glob("*.npz"))


def test_no_folder_holds_more_than_a_thousand_shards():
    paths = [shards.path_of(Path("cache"), number) for number in (0, 999, 1000, 123_456)]
    assert [str(path) for path in paths] == [
        "cache/0000/shard-00000.npz",
        "cache/0000/shard-00999.npz",
        "cache/0001/shard-01000.npz",
        "cache/0123/shard-123456.npz",
    ]
    assert [shards.number_of(path) for path in paths] == [0, 999, 1000, 123_456]


def test_shards_are_listed_in_the_order_of_their_numbers(tmp_path):
    want = [shards.path_of(tmp_path, number) for number in (7, 99_999, 100_000, 12_345_678)]
    for path in want:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert shards.list_paths(tmp_path) == want


def test_scheduler_keeps_many_workers_busy_with_items_of_very_different_costs():
    result = preparation.simulate(100_000, workers=224, parent_seconds=0)
    assert 0.9 <= result["busy"] <= 1


def test_items_without_an_outcome_are_an_error():
    with pytest.raises(RuntimeError, match="3 items were read, but 1 were written and 1 skipped"):
        summary.Summary(read=3, written=1, skipped=collections.Counter({"empty": 1})).check()


def test_parts_may_share_a_folder_but_nothing_else_may(tmp_path):
    with lock.acquire(tmp_path, part=Part(0, 3)), lock.acquire(tmp_path, part=Part(1, 3)):
        for part in (Part(0, 3), Part(), Part(2, 4)):
            with pytest.raises(lock.BusyError), lock.acquire(tmp_path, part=part):
                pass
    with lock.acquire(tmp_path), pytest.raises(lock.BusyError):
        with lock.acquire(tmp_path, part=Part(2, 4)):
            pass


def test_workers_end_with_their_parent(tmp_path):
    program = """
import os, threading, sys
from data_prep import executors, shards
import synthetic_source
raw = sys.argv[1]
job = executors.Job(
    prepare=synthetic_source.Synthetic().prepare, options=synthetic_source.OPTIONS, header={},
    limits=executors.Limits(), input=raw, cache_dir=raw,
)
items = synthetic_source.Synthetic().items(raw)
threading.Thread(target=lambda: (print(flush=True), sys.stdin.read(), os._exit(9))).start()
list(executors.create(workers=2).run(job, [shards.Shard(0, raw, items)]))
"""
    raw = write_items(tmp_path / "raw", "hang", "hang")
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(raw)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    with process:
        process.stdout.readline()
        workers = wait_for(lambda: children(process.pid), count=2)
        process.kill()
    wait_for(lambda: [pid for pid in workers if is_running(pid)], count=0)


def children(parent=None):
    """Returns the ids of the running child processes of a process."""
    parent = parent or os.getpid()
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent_id = path.read_text().rpartition(")")[2].split()[:2]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(parent_id) == parent and state != "Z":
            found.append(int(path.parent.name))
    return found


def is_running(pid):
    path = Path(f"/proc/{pid}/stat")
    return path.exists() and path.read_text().rpartition(")")[2].split()[0] != "Z"


def wait_for(function, *, count, seconds=30):
    """Calls a function until it returns `count` values, and returns these."""
    end = time.monotonic() + seconds
    while len(found := function()) != count:
        assert time.monotonic() < end, found
        time.sleep(0.05)
    return found


@pytest.mark.slow
def test_twenty_random_kills_cost_at_most_their_items(tmp_path):
    raw = write_items(tmp_path / "raw", *["sleep-0.1"] * 300)
    generator, killed, done = random.Random(0), [], threading.Event()

    def kill():
        while len(killed) < 20 and not done.wait(generator.uniform(0.1, 1.0)):
            if workers := children():
                killed.append(generator.choice(workers))
                os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        counted = run(raw, tmp_path / "cache", limits=executors.Limits())
    finally:
        done.set()
        thread.join()
    assert len(killed) == 20
    assert set(counted.retried) == {"worker ended: SIGKILL"}
    # A kill costs one attempt, or none if the worker had no item at that moment.
    assert counted.retried.total() + counted.skipped.total() <= 20
    assert counted.skipped.total() == counted.aborted <= 10
    run(raw, tmp_path / "cache", workers=0, retry_skipped=True)
    assert len(skipped(tmp_path / "cache")) == 0
