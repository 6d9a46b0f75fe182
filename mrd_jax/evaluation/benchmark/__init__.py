# SPDX-License-Identifier: Apache-2.0
"""One encoder on every prepared test set: `results.json`, and the field's table in Markdown."""

import json
import logging
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from mrd_jax import atomic_io
from mrd_jax import encoder as encoders
from mrd_jax.checkpoints import hashes, run_identity
from mrd_jax.evaluation.benchmark import measure, page, test_sets

LOGGER = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
PAGE_FILE = "benchmarks.md"
# What was measured of each set, kept as soon as it is whole, so that a suite which stopped goes on.
FOLDER = "sets"


def evaluate(
    config: ConfigDict, workdir: str, *, devices: Sequence[jax.Device] | None = None
) -> None:
    """Evaluates an encoder on the sets that the config names, or on every one that fits it.

    `results.json` and the page are written at the end, each complete or not at all. The same
    hashes, on the same kind of machine, give the same file.

    Args:
      config: as `configs/benchmarks.py` describes it.
      workdir: folder of the two files; that of an earlier suite is brought up to date.
      devices: to embed on; every local one by default.

    Raises:
      FileNotFoundError: there is no encoder, or no set.
      ValueError: the config, or a set that it names, does not fit the encoder.
      RuntimeError: a set could not be measured; names it.
    """
    folder = pathlib.Path(workdir)
    _check(config, folder)
    encoder = encoders.load(config.checkpoint, devices=devices)
    chosen, skipped = test_sets.find(config, card=encoder.card)
    for name, reason in skipped.items():
        LOGGER.info("%s is left out: %s", name, reason)
    marks = hashes.marks(config)
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    # What is there belongs to an earlier suite.
    for name in (RESULTS_FILE, PAGE_FILE):
        (folder / name).unlink(missing_ok=True)
    measured = {
        one.name: _measured(one, encoder=encoder, config=config, marks=marks, folder=folder)
        for one in chosen
    }
    found = {
        "config": json.loads(config.to_json()),
        "seed": config.seed,
        **marks,
        "encoder": encoder.card.as_dict(),
        "sets": measured,
        "skipped": skipped,
    }
    text = page.markdown(found)
    atomic_io.write_text(folder / PAGE_FILE, text)
    atomic_io.write_text(folder / RESULTS_FILE, json.dumps(found, indent=1))
    print(text)
    LOGGER.info("wrote %s and %s", folder / RESULTS_FILE, folder / PAGE_FILE)


def _check(config: ConfigDict, folder: pathlib.Path) -> None:
    """What is wrong whatever the encoder and the sets are."""
    if not config.checkpoint:
        raise ValueError(
            "config.checkpoint is empty: pass --config.checkpoint=DIR, the workdir of a run or a "
            "folder of mrd_jax.tools.convert"
        )
    for name, least in (("batch_size", 1), ("windows", 1), ("map_up_to", 0)):
        if config[name] < least:
            raise ValueError(f"config.{name} is {config[name]}; expected {least} or more")
    if jax.process_count() > 1:
        raise ValueError(
            f"{jax.process_count()} processes would each do the whole work: start one, without "
            "--multihost or --coordinator"
        )
    if (folder / run_identity.RUN_FILE).exists():
        raise ValueError(
            f"{folder} is the workdir of a run, which has a {RESULTS_FILE} of its own: choose "
            "another --workdir, and name this one in config.checkpoint"
        )


def _measured(
    one: test_sets.TestSet,
    *,
    encoder: encoders.Encoder,
    config: ConfigDict,
    marks: Mapping[str, Any],
    folder: pathlib.Path,
) -> dict[str, Any]:
    """What the encoder reaches on one set, from an earlier suite where nothing has changed."""
    path = folder / FOLDER / f"{one.name}.json"
    marks = {**marks, "data": one.fingerprint}
    if path.is_file():
        there = json.loads(path.read_text("utf-8"))
        if there["marks"] == marks:
            LOGGER.info("%s: measured before, see %s", one.name, path)
            return there["figures"]
    started = time.perf_counter()
    try:
        figures = measure.measure(one, encoder=encoder, config=config)
    except (OSError, RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"set {one.name!r} ({one.directory}): {error}. What was measured before it is kept in "
            f"{path.parent}; the same command goes on from there"
        ) from error
    atomic_io.write_text(path, json.dumps({"marks": marks, "figures": figures}, indent=1))
    LOGGER.info("%s: %.0f s", one.name, time.perf_counter() - started)
    return figures
