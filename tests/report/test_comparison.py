# SPDX-License-Identifier: Apache-2.0
"""Comparison page of runs."""

import json

import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE, held_out

from mrd_jax.evaluation import results
from mrd_jax.report import comparison
from mrd_jax.tools import compare

CORRECT = np.stack([CHAIR, CHAIR, TABLE, LAMP, LAMP])
# The second chair and the lamp are classified as tables.
TWO_WRONG = np.stack([CHAIR, TABLE, TABLE, TABLE, LAMP])


def finished(folder, *, embeddings=CORRECT, ids=("s1", "s2", "d", "t", "x"), **config):
    """Writes the files of a finished run."""
    folder.mkdir()
    row = results.from_embeddings(embeddings, name=results.STUDENT, held_out=held_out())
    config = {"seed": 0, "log_every": 20, "loss": {"lambda_intra": 1.0}} | config
    content = {"config": config, "results": [row.as_dict()]}
    (folder / "results.json").write_text(json.dumps(content))
    np.savez(folder / "embeddings.npz", test=embeddings, test_ids=np.asarray(ids))
    steps = [{"step": s, "train/loss": 5.0 - s, "train/learning_rate": 0.1} for s in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in steps))
    return folder


@pytest.fixture
def two_runs(tmp_path):
    other = {"log_every": 5, "loss": {"lambda_intra": 0.0}}
    return finished(tmp_path / "mrd"), finished(tmp_path / "plain", embeddings=TWO_WRONG, **other)


def read(folders):
    return [comparison.read_run(folder, name=folder.name) for folder in folders]


def test_other_runs_are_compared_with_the_first_by_a_paired_test(two_runs):
    (test,) = comparison.compare_with_first(read(two_runs)).values()
    assert (test.count, test.only_first, test.only_second) == (4, 2, 0)
    assert test.p_value == pytest.approx(0.5)  # both disagreements on one side: 2 / 2**2


def test_runs_on_different_shapes_are_not_compared(two_runs, tmp_path):
    other = finished(tmp_path / "other", ids=tuple("abcde"))
    assert comparison.compare_with_first(read([two_runs[0], other])) == {}


def test_settings_that_cannot_change_results_do_not_count_as_differing(two_runs):
    assert comparison.differing_settings(read(two_runs)) == {"loss.lambda_intra": [1.0, 0.0]}


def test_page_shows_results_tests_settings_and_curves(two_runs, tmp_path, capsys):
    page = tmp_path / "pages/both.html"
    assert compare.main([*map(str, two_runs), "--output", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    text = " ".join(page.read_text("utf-8").split())
    assert "mrd against plain, 4 shapes: only mrd is correct on 2, only plain on 0" in text
    assert '<th scope="row">loss.lambda_intra</th><td>1.0</td><td>0.0</td>' in text
    assert '<th scope="row">mrd</th><td>100.0</td>' in text
    assert "<b>train/loss</b><br>Loss" in text
    assert "train/loss, steps 1 to 2: mrd from 4 to 3; plain from 4 to 3." in text
    assert "same shapes" not in text and "http" not in text


def test_page_states_that_runs_on_different_shapes_cannot_be_compared(two_runs, tmp_path):
    other = finished(tmp_path / "other", ids=tuple("abcde"))
    page = comparison.write_comparison(read([two_runs[0], other]), output=tmp_path / "p.html")
    assert "not tested on the same shapes" in page.read_text("utf-8")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["mrd"], "two or more"),
        (["mrd", "plain", "--names", "a", "a"], "a name of its own"),
        (["mrd", "nothing"], "results.json is missing: let the run end"),
        (["mrd", "broken"], "results.json is corrupt"),
    ],
)
def test_invalid_arguments_are_reported(two_runs, tmp_path, capsys, arguments, message):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/results.json").write_text("{}")
    places = [str(tmp_path / a) if (tmp_path / a).exists() else a for a in arguments]
    assert compare.main([*places, "--output", str(tmp_path / "page.html")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
