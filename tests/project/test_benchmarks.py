# SPDX-License-Identifier: Apache-2.0
"""Benchmark commands: parallel runs, pooled folds, transfer, and other tables."""

import json
import sys
import types

import jax
import numpy as np
import pytest
from fake_data import DIM
from tiny import tiny_config

from benchmarks import (
    furniture,
    gpu_parts,
    losses,
    student_table,
    sweep,
    tpu_parts,
    transfer,
)
from mrd_jax.data import source
from mrd_jax.evaluation import few_shot, held_out_split, linear_probe, zero_shot
from mrd_jax.report import final


class Command(sweep.Job):
    """Job that runs a line of Python instead of a training."""

    def command(self):
        return [sys.executable, "-c", self.config]


def write_results_line(folder, text="{}"):
    return f"open({str(folder / 'results.json')!r}, 'w').write({text!r}); print('ran')"


def row(name, correct=None, **metrics):
    return {"name": name, "metrics": metrics, "correct": correct, "retrieval": {}}


def test_command_of_a_job_sets_config_workdir_and_overrides(tmp_path):
    job = sweep.Job("x", "configs/a.py", tmp_path, {"seed": 1, "loss.weights": "static"})
    assert job.command()[1:] == [
        "-m", "mrd_jax.main", "--config", "configs/a.py", "--workdir", str(tmp_path),
        "--config.seed=1", "--config.loss.weights=static",
    ]  # fmt: skip


def test_jobs_return_results_in_order_and_finished_ones_are_not_repeated(tmp_path):
    folders = [tmp_path / name for name in "abc"]
    jobs = [Command(f.name, write_results_line(f, f'{{"at": "{f.name}"}}'), f, {}) for f in folders]
    assert sweep.run_jobs(jobs, parallel=2) == [{"at": name} for name in "abc"]
    assert sweep.run_jobs(jobs, parallel=2) == [{"at": name} for name in "abc"]
    assert [(f / "log.txt").read_text() for f in folders] == ["ran\n"] * 3


@pytest.mark.parametrize("given, expected", [("", "0.45"), (".3", ".3")])
def test_jobs_share_the_memory_of_a_gpu(tmp_path, monkeypatch, given, expected):
    name = "XLA_CLIENT_MEM_FRACTION"
    monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(name, given)
    code = f"import os; print(os.environ[{name!r}]); " + write_results_line(tmp_path / "a")
    sweep.run_jobs([Command("a", code, tmp_path / "a", {})], parallel=2)
    assert (tmp_path / "a" / "log.txt").read_text().splitlines()[0] == expected


def test_failed_run_raises_with_its_log(tmp_path):
    job = Command("a", "raise SystemExit('no data')", tmp_path / "a", {})
    with pytest.raises(RuntimeError, match=f"status 1; see {tmp_path / 'a' / 'log.txt'}"):
        sweep.run_jobs([job], parallel=1)
    assert (tmp_path / "a" / "log.txt").read_text() == "no data\n"


@pytest.mark.parametrize("stored", ["histogram", "floor"])
def test_folds_are_pooled_shape_by_shape(stored):
    """Version 0.1 named the row "floor"."""
    first = {"results": [row("chance"), row(stored, [True, False]), row("student", [1, 1])]}
    second = {"results": [row("chance"), row(stored, [False, True]), row("student", [1, 0])]}
    summary = furniture.pool_folds([first, second])
    assert summary["methods"]["student"]["top1"] == 0.75
    assert summary["methods"]["student"]["folds"] == [1.0, 0.5]
    assert summary["methods"]["hand-crafted"]["top1"] == 0.5
    # Only the student: shapes 2 and 3; only histogram: shape 4; 3 disagreements, 2 to 1.
    assert summary["against"]["hand-crafted"] == {
        "shapes": 4, "student_only": 2, "other_only": 1, "p_value": 1.0,
    }  # fmt: skip
    assert "chance" not in summary["methods"]
    json.dumps(summary)


def evaluated(workdir, made, *, seed):
    """Writes the final evaluation of a run whose embeddings are random, and returns its workdir."""
    config = tiny_config(data__directory=str(made), seed=seed)

    def embed(variables, records, indices=None):
        count = len(records) if indices is None else len(indices)
        rows = np.random.default_rng(seed).normal(size=(count, DIM))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    evaluator = types.SimpleNamespace(
        config=config,
        directory=made,
        records=source.open_split(made, "test"),
        held_out=held_out_split.load_held_out(made),
        embed=embed,
    )
    workdir.mkdir()
    final.write_results(evaluator, {}, workdir=str(workdir))
    return workdir


def test_transfer_measures_the_saved_embeddings_of_a_run(made, tmp_path):
    run = evaluated(tmp_path / "run", made, seed=3)
    saved = final.load_embeddings(run)
    train, test = (held_out_split.load_held_out(made, split) for split in ("train", "test"))
    assert (tuple(saved["train_ids"]), tuple(saved["test_ids"])) == (train.ids, test.ids)
    got = transfer.measure(run)
    given = {
        "labels": train.labels, "test_features": saved["test"], "test_labels": test.labels,
    }  # fmt: skip
    assert got["linear_probe"] == linear_probe.linear_probe(saved["train"], **given)
    assert got["few_shot"] == few_shot.few_shot(saved["train"], **given)
    accuracies = zero_shot.zero_shot(saved["test"], test)
    assert {key: got["zero_shot"][key] for key in accuracies} == accuracies
    student = sweep.row_of(json.loads((run / "results.json").read_text()), "student")
    assert got["retrieval"] == student["retrieval"]
    assert (got["steps"], got["seed"]) == (6, 3)


def test_transfer_writes_a_table_with_a_column_per_run(made, tmp_path, monkeypatch, capsys):
    runs = [str(evaluated(tmp_path / name, made, seed=seed)) for seed, name in enumerate("ab")]
    page = tmp_path / "page.md"
    arguments = ["transfer", "--runs", *runs, "--names", "one", "two", "--output", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    assert transfer.main() == 0
    printed, progress = capsys.readouterr()
    lines = [text for text in progress.splitlines() if text.endswith(" s left")]
    assert [text.split(" took ")[0] for text in lines] == [
        f"{name}: {stage}" for name in ("one", "two") for stage in transfer.STAGES
    ]
    # The second run is estimated by the first one; nothing is left after its last stage.
    assert ["at least" in text for text in lines] == [True] * 3 + [False] * 5
    assert lines[-1].endswith("; 0 s left")
    line = json.loads(printed.splitlines()[-1])
    one, two = (100 * line["runs"][name]["linear_probe"]["top1"] for name in ("one", "two"))
    assert f"| linear probe top-1 | {one:.1f} | {two:.1f} |" in page.read_text()
    mean, deviation = (
        100 * line["runs"]["two"]["few_shot"][f"1/top1{end}"] for end in ("", "_std")
    )
    assert f"| {mean:.1f} ± {deviation:.1f} |" in page.read_text()
    rows = [row for row in page.read_text().splitlines() if row.startswith("| ")]
    assert {row.count("|") for row in rows} == {4}
    assert page.read_text() in printed


def test_transfer_of_a_run_without_evaluation_raises_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match="embeddings.npz is missing.*--mode eval"):
        transfer.measure(tmp_path)


def test_transfer_of_embeddings_of_other_shapes_raises(made, tmp_path):
    run = evaluated(tmp_path / "run", made, seed=0)
    saved = final.load_embeddings(run)
    np.savez(run / "embeddings.npz", **(saved | {"train_ids": saved["train_ids"][::-1]}))
    with pytest.raises(ValueError, match="train shapes that are not the .* --data"):
        transfer.measure(run)


def test_transfer_without_embeddings_of_the_training_split_raises(made, tmp_path):
    run = evaluated(tmp_path / "run", made, seed=0)
    saved = final.load_embeddings(run)
    np.savez(run / "embeddings.npz", test=saved["test"], test_ids=saved["test_ids"])
    with pytest.raises(
        ValueError, match="no embeddings of the training shapes.*config.data.test_directory"
    ):
        transfer.measure(run)


def test_transfer_of_runs_on_different_data_sets_raises():
    with pytest.raises(ValueError, match="different data sets.*compare only runs on the same"):
        transfer.markdown({"one": {"data": "a"}, "two": {"data": "b"}})


def test_student_table_has_seconds_per_cloud_and_empty_cells_for_missing_steps():
    whole = dict(size="uni3d-s", parameters=22_498_432, batch=2)
    whole |= dict(embed={"cpu_s": 1.32}, step={"cpu_s": 3.8})
    part = dict(size="uni3d-g", parameters=1_012_864_128, batch=2, embed={"cpu_s": 22.0})
    lines = student_table.markdown([whole, part]).splitlines()
    assert lines[2] == "| uni3d-s | 22.5 M | 0.66 | 1.90 |"
    assert lines[3] == "| uni3d-g | 1012.9 M | 11.00 |  |"


def test_loss_benchmark_measures_each_form_and_their_ratios(fast_compile, monkeypatch, capsys):
    arguments = "--batch 24 --dim 4 --repeats 1 --forms plain"
    monkeypatch.setattr(sys, "argv", ["losses", *arguments.split()])
    losses.main()
    report = json.loads(capsys.readouterr().out)
    assert report["plain"].keys() == {"s", "cpu_s", "temporary_mb"}
    assert "plain_over_blockwise" not in report
    found = {"plain": {"s": 3.0, "temporary_mb": 8.0}, "blockwise": {"s": 2.0, "temporary_mb": 1.0}}
    assert losses.ratio(found) == {"plain_over_blockwise": {"s": 1.5, "temporary_mb": 8.0}}


def test_parts_for_the_tpu_compiler_are_those_of_the_student():
    """Only traced: compilation needs libtpu."""
    parts = "fps knn gather tokenizer attention"
    sizes = "--batch 2 --points 64 --groups 8 --group_size 4 --dim 128"
    options = tpu_parts.parse_options(f"{parts} {sizes}".split())
    shapes = []
    for part in options.parts:
        function, arguments = tpu_parts.build(part, options)
        shapes.append(jax.tree.leaves(jax.eval_shape(function, *arguments))[0].shape)
    assert shapes == [(2, 8), (2, 8, 4), (2, 8, 4, 9), (2, 8, 256), (2, 9, 128)]


def test_parts_for_the_gpu_compiler_are_those_of_the_tpu_compiler():
    arguments = "fps attention --groups 8".split()
    given, taken = gpu_parts.parse_options(arguments), tpu_parts.parse_options(arguments)
    assert vars(given) == vars(taken) | {"topology": "h100:1"}
