# SPDX-License-Identifier: Apache-2.0
"""The page of the GPU compiler's figures, from made-up reports."""

import pytest

from benchmarks import gpu_table, tpu_table

REPORT = {
    "jax": "0.10", "cuda_plugin": "jax-cuda12-plugin 0.10", "topology": "h100:8",
    "batch_per_chip": 64, "fits": True, "allocated_bytes": 2.5e9, "memory_bytes": 63.7e9,
    "temporary_bytes": 1.5e9, "bytes": 6e10, "bytes_s": 0.018, "minimal_bytes_of": {"a": 4e10},
    "bytes_of": {"b": 1e10, "a": 5e10}, "launches_of": {"a": 4321}, "floor_s": 0.005,
    "launches": 4321, "compile_s": 40.0,
    "collectives": {"all-reduce": {"count": 13, "bytes": 1e8}},
}  # fmt: skip


@pytest.fixture
def page_of(monkeypatch, tmp_path):
    ran = []

    def measure(row):
        ran.append(row.command)
        return dict(REPORT)

    def write(*arguments):
        ran.clear()
        monkeypatch.setattr(tpu_table, "measure", measure)
        status = gpu_table.main([f"--reports={tmp_path / 'reports.jsonl'}", *arguments])
        return status, list(ran)

    return write


def test_page_has_the_command_and_the_figures_of_every_row(page_of, tmp_path):
    rows = [row.command for rows in gpu_table.SECTIONS.values() for row in rows]
    status, ran = page_of(f"--output={tmp_path / 'page.md'}")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert status == 0 and ran == rows
    assert all(f".venv/bin/{command}\n" in page for command in rows)
    row = (
        "| h100:8 | 64 | yes | 2.50 GB of 63.70 GB | 1.50 GB | 60.00 GB (1.50) | 18.0 ms | 5.0 ms "
    )
    assert page.count(f"{row}| 4,321 | 13, 0.10 GB | 40 s |") == len(rows)
    assert "| a | 50.00 GB | 40.00 GB | 4,321 |\n| b | 10.00 GB | - | 0 |" in page
    assert "jax 0.10 and jax-cuda12-plugin 0.10" in page and "no estimate of the step" in page


def test_rows_of_earlier_calls_are_kept_and_a_page_names_those_that_are_missing(page_of, tmp_path):
    assert page_of("--sections", "giant")[1] == [row.command for row in gpu_table.SECTIONS["giant"]]
    assert page_of("--sections", "giant")[1] == []
    status, _ = page_of("--sections", "giant", f"--output={tmp_path / 'page.md'}")
    page = (tmp_path / "page.md").read_text("utf-8")
    assert status == 0
    missing = page.split("Not compiled yet:")[1:]
    assert len(missing) == 3 and "--config=configs/mrd_pointbert.py" in missing[0]
    assert "## A billion parameters" in missing[-1] and page.count("| h100:8 |") == 3
