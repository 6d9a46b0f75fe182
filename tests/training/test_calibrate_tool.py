# SPDX-License-Identifier: Apache-2.0
"""The command that solves for the teacher's temperatures, on records of a fake source."""

import ast
import shlex
import subprocess
import sys

import numpy as np
import pytest
from fake_data import DIM

from configs import base
from mrd_jax.data import captions, source, teacher_features, views
from mrd_jax.losses import options

RECORDS, WITHIN, ACROSS = 29, 14, 16
# A batch has every record, so that relations follow from the means of the records alone.
FIELDS = [
    *(f"--config.teacher.dim={DIM}", f"--config.model.out_dim={DIM}"),
    *(f"--config.batch_size={RECORDS}", "--config.loss.relation_features=mean"),
]
WANTED = [f"--config.loss.neighbours_within={WITHIN}", f"--config.loss.neighbours_across={ACROSS}"]


def execute(made, *flags):
    """Runs the command and returns the finished process."""
    command = [sys.executable, "-m", "mrd_jax.tools.calibrate", "--config=configs/base.py", *FIELDS]
    command += [f"--config.data.directory={made}", *flags]
    return subprocess.run(command, capture_output=True, text=True)


def run_tool(made, *flags):
    """Runs the command and returns the lines that it prints: descriptions and flags."""
    done = execute(made, *flags)
    assert done.returncode == 0, done.stderr
    first, *lines = done.stdout.splitlines()
    assert first == f"2059 samples in batches of {RECORDS}"
    return (
        [line for line in lines if not line.startswith("--")],
        [line for line in lines if line.startswith("--")],
    )


def mean_features(made, config):
    """Returns the mean features of the records, {"V": [records, dim]}; zeros without any."""
    records, rows = source.open_split(made, "train"), {"V": [], "T": []}
    for index in range(len(records)):
        record = records.read(index, [*sum(teacher_features.FIELDS.values(), ())])
        for letter, chances in (
            ("V", views.probabilities(record["image_kinds"], picture_probability=-1.0)),
            ("T", captions.probabilities(record["caption_kinds"], config=config.data)),
        ):
            features = record[{"V": "image_features", "T": "text_features"}[letter]]
            rows[letter].append(teacher_features.mean(features, chances, dim=DIM))
    return {letter: np.stack(each).astype(np.float64) for letter, each in rows.items()}


def softness(rows, name, *, temperature, exclude_self):
    """Returns neighbours and diagonal of a relation between the records with both modalities."""
    valid = rows[name[0]].any(axis=1) & rows[name[1]].any(axis=1)
    left, right = (rows[letter][valid] for letter in name)
    left, right = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (left, right))
    weights = np.exp((left @ right.T - 1) / temperature)
    if exclude_self:
        np.fill_diagonal(weights, 0)
    chances = weights / weights.sum(axis=1, keepdims=True)
    terms = chances * np.log(np.where(chances > 0, chances, 1))
    return np.exp(-terms.sum(axis=1)).mean(), np.diagonal(chances).mean()


def test_printed_flags_set_the_temperatures_with_the_wanted_neighbours(made):
    described, printed = run_tool(made, *WANTED)
    flags = dict(flag.split("=") for flag in shlex.split(" ".join(printed)))
    config = base.get_config()
    rows, expected = mean_features(made, config), []
    assert len(rows["V"]) == RECORDS
    for term in options.TERMS:
        names = config.loss.candidates[term]
        temperatures = ast.literal_eval(flags.pop(f"--config.loss.teacher_temperatures.{term}"))
        for name, temperature in zip(names, temperatures, strict=True):
            neighbours, diagonal = softness(
                rows, name, temperature=temperature, exclude_self=term == "intra"
            )
            wanted = WITHIN if name[0] == name[1] else ACROSS
            assert neighbours == pytest.approx(wanted, rel=1e-3), (term, name)
            shown = "excluded" if term == "intra" else f"{diagonal:.3f}"
            expected.append(
                f"{term}/{name}: temperature {temperature:.4g}, {wanted} neighbours, "
                f"diagonal {shown}"
            )
    assert described == expected and not flags
    # A later command that is given these flags solves nothing and reports the same.
    assert run_tool(made, *shlex.split(" ".join(printed))) == (described, printed)


def test_relations_without_a_temperature_are_refused(made):
    done = execute(made, "--config.loss.relation=cosine", "--config.loss.divergence=l2")
    assert done.returncode != 0 and not done.stdout
    assert "config.loss.relation is 'cosine', which has no temperature" in done.stderr
