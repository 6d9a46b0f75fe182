# SPDX-License-Identifier: Apache-2.0
"""Benchmark of one encoder on prepared test sets: `results.json` and a Markdown page."""

import json
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from ml_collections import ConfigDict

from mrd_jax import atomic_io, encoder, storage
from mrd_jax.checkpoints import fingerprinting, run_identity
from mrd_jax.evaluation.benchmark import measure, page, test_sets

LOGGER = logging.getLogger(__name__)

RESULTS_FILE = "results.json"
PAGE_FILE = "benchmarks.md"
# Folder of the workdir with the metrics of each measured set, so that an interrupted benchmark
# continues after the last of them.
FOLDER = "sets"


def evaluate(
    config: ConfigDict, workdir: storage.PathLike, *, devices: Sequence[jax.Device] | None = None
) -> None:
    """Evaluates an encoder on the test sets that the config names, or on all that fit it.

    `results.json` and the page are written at the end, each atomically. The same fingerprints on
    the same kind of machine give the same files.

    Args:
      config: config as `configs/benchmarks.py` describes it.
      workdir: folder for the two files; sets that it already has metrics of are measured again
        only if something that they depend on has changed.
      devices: devices to embed on; all local devices by default.

    Raises:
      FileNotFoundError: there is no encoder, or no test set.
      ValueError: the config is invalid, or a test set that it names does not fit the encoder.
      RuntimeError: a test set could not be measured; the message names it.
    """
    folder = storage.path(workdir)
    _check(config, folder)
    tested = encoder.load(config.checkpoint, devices=devices)
    chosen, skipped = test_sets.find(config, card=tested.card)
    for name, reason in skipped.items():
        LOGGER.info("skipped %s: %s", name, reason)
    fingerprints = fingerprinting.benchmark_fingerprints(config)
    storage.make_folder(folder / FOLDER)
    # Files of an earlier benchmark must not be taken for those of this one if it is interrupted.
    for name in (RESULTS_FILE, PAGE_FILE):
        (folder / name).unlink(missing_ok=True)
    measured = {
        test_set.name: _measure(
            test_set, tested=tested, config=config, fingerprints=fingerprints, folder=folder
        )
        for test_set in chosen
    }
    results = {
        "config": json.loads(config.to_json()),
        "seed": config.seed,
        **fingerprints,
        "encoder": tested.card.as_dict(),
        "sets": measured,
        "skipped": skipped,
    }
    text = page.markdown(results)
    atomic_io.write_text(folder / PAGE_FILE, text)
    atomic_io.write_text(folder / RESULTS_FILE, json.dumps(results, indent=1))
    print(text)
    LOGGER.info("wrote %s and %s", folder / RESULTS_FILE, folder / PAGE_FILE)


def _check(config: ConfigDict, folder: storage.Path) -> None:
    """Raises ValueError for mistakes that do not depend on the encoder or the test sets."""
    if not config.checkpoint:
        raise ValueError(
            "config.checkpoint is empty: pass --config.checkpoint=DIR, the workdir of a run or a "
            "folder of mrd_jax.tools.convert"
        )
    for name, minimum in (("batch_size", 1), ("windows", 1), ("map_up_to", 0)):
        if config[name] < minimum:
            raise ValueError(f"config.{name} is {config[name]}; expected {minimum} or more")
    if jax.process_count() > 1:
        raise ValueError(
            f"found {jax.process_count()} processes, each of which would run the whole benchmark: "
            "start one, without --multihost or --coordinator"
        )
    if (folder / run_identity.RUN_FILE).exists():
        raise ValueError(
            f"{folder} is the workdir of a run, which has a {RESULTS_FILE} of its own: choose "
            "another --workdir, and name this one in config.checkpoint"
        )


def _measure(
    test_set: test_sets.TestSet,
    *,
    tested: encoder.Encoder,
    config: ConfigDict,
    fingerprints: Mapping[str, Any],
    folder: storage.Path,
) -> dict[str, Any]:
    """Measures the encoder on one test set, or reads its metrics if nothing has changed since."""
    path = folder / FOLDER / f"{test_set.name}.json"
    fingerprints = {**fingerprints, "data": test_set.fingerprint}
    if path.is_file():
        saved = json.loads(path.read_text())
        if saved["marks"] == fingerprints:
            LOGGER.info("%s: unchanged, metrics read from %s", test_set.name, path)
            return saved["figures"]
    started = time.perf_counter()
    try:
        figures = measure.measure(test_set, encoder=tested, config=config)
    except (OSError, RuntimeError, ValueError) as error:
        raise RuntimeError(
            f"set {test_set.name!r} ({test_set.directory}): {error}. The sets measured before it "
            f"are kept in {path.parent}; run the same command again to continue"
        ) from error
    atomic_io.write_text(path, json.dumps({"marks": fingerprints, "figures": figures}, indent=1))
    LOGGER.info("%s: %.0f s", test_set.name, time.perf_counter() - started)
    return figures
