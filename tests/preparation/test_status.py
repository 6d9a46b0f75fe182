# SPDX-License-Identifier: Apache-2.0
"""Status file of a build, the line per minute, and the command that shows them."""

import datetime
import json
import time

import pytest
from fake_data import run_build

from data_prep import parts, status, status_file
from data_prep.progress import Snapshot


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def read(path):
    return json.loads(path.read_text())


def test_rates_are_those_of_the_last_ten_minutes_without_reused_items(tmp_path):
    clock = Clock()
    board = status_file.Status(tmp_path / "status.json", {}, clock=clock)
    # 1 item per second for an hour, then 4; 500 were there.
    for minute in range(61):
        clock.now = minute * 60.0
        board(Snapshot("shapes", "shape", 10_000, done=500 + minute * 60, reused=500))
    assert board.content("running")["stages"]["shapes"]["per_second"] == 1
    assert board.content("running")["stages"]["shapes"]["seconds_left"] == 10_000 - 500 - 3600
    for minute in range(1, 11):
        clock.now = 3600 + minute * 60.0
        board(Snapshot("shapes", "shape", 10_000, done=4100 + minute * 240, reused=500))
    fields = board.content("running")["stages"]["shapes"]
    assert (fields["per_second"], fields["seconds_left"]) == (4, (10_000 - 6500) / 4)
    # Nothing finishes any more: the rate falls, and the file says for how long.
    clock.now += 600
    fields = board.content("running")["stages"]["shapes"]
    assert (fields["per_second"], fields["seconds_since_progress"]) == (2, 600)
    # A finished stage has the rate of its whole time.
    board(Snapshot("shapes", "shape", 10_000, done=10_000, reused=500, finished=True))
    fields = board.content("finished")["stages"]["shapes"]
    assert fields["seconds"] == 4800
    assert fields["per_second"] == pytest.approx(9500 / 4800, rel=1e-3)


def test_the_line_has_share_rate_time_left_and_frequent_reasons(tmp_path):
    clock = Clock()
    board = status_file.Status(tmp_path / "status.json", {}, clock=clock)
    assert board.line() == ""
    board(Snapshot("shapes", "shape", 800_000))
    clock.now = 100.0
    skipped = {"no surface": 7, "has 3 of 9 bytes": 1, "has 4 of 8 bytes": 2, "a": 1, "b": 1}
    board(Snapshot("shapes", "shape", 800_000, done=4_000, skipped=skipped, retried={"killed": 2}))
    assert board.line() == (
        "shapes: 4,000 of 800,000 (0.5%) shapes, 40/s, 5 h 32 min left; "
        "skipped 12 (no surface: 7, has N of N bytes: 3, a: 1, ...); retried 2 (killed: 2)"
    )
    board(Snapshot("shapes", "shape", 800_000, done=800_000, finished=True))
    assert board.line() == ""


@pytest.mark.parametrize(
    "seconds, text",
    [(0, "0 s"), (99, "99 s"), (100, "2 min"), (5_940, "99 min"), (6_000, "1 h 40 min"),
     (172_000, "47 h 47 min"), (172_800, "2 d 0 h"), (360_000, "4 d 4 h")],
)  # fmt: skip
def test_durations_have_two_units(seconds, text):
    assert status_file.format_seconds(seconds) == text


def test_reasons_are_grouped_and_only_the_frequent_ones_are_named():
    counts = {f"reason {chr(97 + n // 26)}{chr(97 + n % 26)}": 1 + n for n in range(60)}
    kinds = status_file.count_by_kind(counts)
    assert len(kinds) == 51 and kinds["other"] == sum(range(1, 11))
    assert next(iter(kinds.items())) == ("reason ch", 60)


def test_a_build_leaves_a_status_with_the_counts_of_its_stages(copied, monkeypatch, capsys):
    run_build(copied, monkeypatch)
    content = read(copied / "status.json")
    assert content["state"] == "finished" and content["build"]["source"] == "fake"
    shapes = content["stages"]["shapes"]
    assert (shapes["total"], shapes["done"], shapes["reused"]) == (40, 40, 40)
    assert shapes["skipped"] == {"no surface": 1} and shapes["finished"]

    def fail(*args, **kwargs):
        raise ValueError("the teacher has left")

    monkeypatch.setattr("data_prep.teacher_stage.load_teacher", fail)
    with pytest.raises(ValueError, match="the teacher has left"):
        run_build(copied, monkeypatch)
    content = read(copied / "status.json")
    assert content["state"] == "failed" and content["error"] == "ValueError: the teacher has left"
    capsys.readouterr()
    assert status.main([str(copied)]) == 1
    printed = capsys.readouterr().out
    assert f"{copied / 'status.json'}: failed: ValueError: the teacher has left (" in printed
    assert "  shapes: 40 of 40 (100.0%) shapes, 0/s; skipped 1 (no surface: 1)\n" in printed


def test_the_file_is_updated_and_lines_are_printed_while_no_item_finishes(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(status_file, "WRITE_SECONDS", 0.01)
    monkeypatch.setattr(status_file, "LINE_SECONDS", 0.02)
    path = tmp_path / "status.json"
    with status_file.Status(path, {}) as board:
        board(Snapshot("shapes", "shape", 8, done=2))
        first = read(path)["stages"]["shapes"]["seconds_since_progress"]
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            later = read(path)["stages"]["shapes"]["seconds_since_progress"]
            if later > first + 0.1:
                break
            time.sleep(0.01)
    assert later > first + 0.1
    assert read(path)["state"] == "finished"
    assert "shapes: 2 of 8 (25.0%) shapes, 0/s" in capsys.readouterr().out


def test_a_status_that_cannot_be_written_is_a_warning_and_not_an_error(tmp_path, capsys):
    with status_file.Status(tmp_path / "none" / "status.json", {}) as board:
        board(Snapshot("shapes", "shape", 8))
    assert capsys.readouterr().err.count("warning:") == 1


def write_status(path, *, part, state="running", minutes_ago=0.0, done=30):
    clock = Clock()
    board = status_file.Status(path, {}, clock=clock)
    board(Snapshot("shapes", "shape", 100, done=0))
    clock.now = 10.0
    board(Snapshot("shapes", "shape", 100, done=done, skipped={"no surface": part}))
    content = board.content(state)
    ago = datetime.timedelta(minutes=minutes_ago)
    content["updated"] = (datetime.datetime.now(datetime.UTC) - ago).isoformat()
    path.write_text(json.dumps(content))


def test_the_command_adds_up_parts_and_finds_those_that_were_killed(tmp_path, capsys):
    for index in range(3):
        path = status_file.path_of(tmp_path, parts.Part(index, 3))
        write_status(path, part=index, done=20 + 10 * index)
    assert status.main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "all 3 builds:\n  shapes: 90 of 300 (30.0%) shapes, 9/s, 40 s left; skipped 3" in printed

    write_status(path, part=2, minutes_ago=180)
    assert status.main([str(tmp_path)]) == 1
    assert f"{path}: killed? It has not updated the file for 3 h 0 min (" in capsys.readouterr().out


def test_the_command_names_folders_without_a_status(tmp_path, capsys):
    assert status.main([str(tmp_path)]) == 2
    assert f"error: {tmp_path}: no status.json in it" in capsys.readouterr().err
    (tmp_path / "status.json").write_text("[]")
    assert status.main([str(tmp_path)]) == 2
    assert "status.json: not the status of a build" in capsys.readouterr().err
