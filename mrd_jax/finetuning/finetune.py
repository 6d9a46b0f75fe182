# SPDX-License-Identifier: Apache-2.0
"""Fine-tunes an encoder on the classes of a data set, and compares it with its linear probe."""

import contextlib
import json
import logging
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from mrd_jax import atomic_io, encoder, storage
from mrd_jax.checkpoints import initial_weights, model_card, train_state
from mrd_jax.evaluation import (
    evaluator,
    held_out_split,
    history,
    linear_probe,
    table,
    zero_shot,
)
from mrd_jax.finetuning import labelled, settings, votes
from mrd_jax.finetuning import run as runs
from mrd_jax.training import preflight, start_log, trackers, train
from mrd_jax.training import run as run_lib

LOGGER = logging.getLogger(__name__)

RESULTS_FILE = "finetune.json"
# Folder of the workdir with the fine-tuned encoder and its class head.
ENCODER_FOLDER = "encoder"


def finetune(
    config: ConfigDict, workdir: storage.PathLike, *, devices: Sequence[jax.Device] | None = None
) -> bool:
    """Fine-tunes to the last step, continuing the run in the workdir, then evaluates.

    The loop, the step and the checkpoints are those of `mrd_jax.training.train`. A completed run
    leaves `finetune.json`, `encoder/` and a file `finished` in the workdir.

    Args:
      config: config as `configs/finetune.py` describes it.
      workdir: folder of the run.
      devices: devices of the run, over all processes; all devices by default.

    Returns:
      Whether the run is finished; not after a graceful shutdown.

    Raises:
      FileNotFoundError: there is no encoder or no data set.
      ValueError: config, encoder, data set and workdir do not fit together, or the labels of the
        data set cannot be learned.
    """
    workdir = storage.path(workdir)
    trackers.check(config)
    config = settings.resolve(config)
    run, tested = runs.build(config, devices=devices)
    data, labels = labelled.open_labelled(config, test=tested.held_out)
    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(
            contextlib.closing(run_lib.open_checkpoints(config, workdir, data))
        )
        state = run_lib.restore_or_initialise(run, checkpoints)
        checkpoints.warm_up(state)
        start_log.log_start(run, data, state, workdir=workdir)
        tracking = stack.enter_context(trackers.open_tracking(config, workdir))
        state = train.train(
            run,
            state,
            data=data,
            evaluator=tested,
            checkpoints=checkpoints,
            workdir=workdir,
            tracking=tracking,
        )
    if int(state.step) < config.total_steps:
        LOGGER.info("the same command continues this run")
        return False
    measured = {
        "encoder": config.initial_weights,
        **measure_start(run, tested, data=data, labels=labels),
        **measure_end(run, tested, state, workdir=workdir),
    }
    _save_encoder(run, state, data=data, folder=workdir / ENCODER_FOLDER)
    if jax.process_index() == 0:
        atomic_io.write_text(workdir / RESULTS_FILE, json.dumps(measured, indent=1))
        print(format_table(measured))
        atomic_io.write_text(workdir / train.FINISHED, f"{config.total_steps} steps\n")
    return True


def check(config: ConfigDict, workdir: storage.PathLike, *, devices: int) -> None:
    """Checks everything that a fine-tuning run needs, see `mrd_jax.training.preflight.check`.

    Args:
      config: config as `configs/finetune.py` describes it.
      workdir: folder of the run.
      devices: devices of the run, over all processes; 0 for those of this host.

    Raises:
      ValueError: config, encoder and data set do not fit together, or the labels of the data set
        cannot be learned.
      mrd_jax.training.preflight.PreflightError: lists every other fault.
    """
    config = settings.resolve(config)
    test = held_out_split.load_held_out(config.data.directory, config.data.test_split)
    shapes = held_out_split.load_held_out(config.data.directory, config.data.train_split)
    labelled.check_labels(shapes.labels, test.labels, where=config.data.directory)
    preflight.check(config, workdir, devices=devices)


def measure_start(
    run: runs.FineTuning,
    tested: evaluator.Evaluator,
    *,
    data: run_lib.TrainingData,
    labels: np.ndarray,
) -> dict[str, Any]:
    """Measures the encoder that the run started from, on the same shapes.

    Args:
      run: fine-tuning run.
      tested: evaluator of the test split.
      data: labelled training shapes.
      labels: int [records], their classes.

    Returns:
      `zero_shot` and, if the config asks for it, `linear_probe`, as the functions of those names
      return them.
    """
    given = initial_weights.load(run.config.initial_weights)
    start = initial_weights.start_from(run.initial_state(), given)
    variables = run.backend.place_state(start).variables()
    embeddings = tested.embed(variables, tested.records)
    measured: dict[str, Any] = {"zero_shot": zero_shot.zero_shot(embeddings, tested.held_out)}
    if run.config.finetune.linear_probe:
        measured["linear_probe"] = linear_probe.linear_probe(
            tested.embed(variables, data.records),
            labels=labels,
            test_features=embeddings,
            test_labels=tested.held_out.labels,
            test_groups=tested.held_out.clusters,
            seed=run.config.seed,
        )
    return measured


def measure_end(
    run: runs.FineTuning,
    tested: evaluator.Evaluator,
    state: train_state.TrainState,
    *,
    workdir: storage.PathLike,
) -> dict[str, Any]:
    """Measures the fine-tuned encoder.

    Args:
      run: fine-tuning run.
      tested: evaluator of the test split.
      state: last state of the run.
      workdir: folder of the run, which has the evaluations of earlier steps.

    Returns:
      `last`, the accuracies of the last step; `votes`, the same with votes if the config asks for
      them; and `best`, the evaluation with the best top-1 accuracy and its `step`.
    """
    config, head = run.config.finetune, run.class_head(state)
    variables = state.variables()
    last = runs.measure(tested.embed(variables, tested.records), head=head, tested=tested)
    measured: dict[str, Any] = {"last": last.metrics | {"step": int(state.step)}}
    if config.votes > 1:
        embeddings = votes.vote(
            tested, variables, count=config.votes, scale=config.vote_scale, seed=run.config.seed
        )
        voted = runs.measure(embeddings, head=head, tested=tested)
        measured["votes"] = voted.metrics | {"votes": config.votes}
    evaluations = history.evaluations(workdir)
    step = max(evaluations, key=lambda step: evaluations[step]["test/top1"])
    best = {name.removeprefix("test/"): value for name, value in evaluations[step].items()}
    return measured | {"best": best | {"step": step}}


def _save_encoder(
    run: runs.FineTuning,
    state: train_state.TrainState,
    *,
    data: run_lib.TrainingData,
    folder: storage.Path,
) -> None:
    """Writes the encoder folder, unless an earlier process has; every process calls this."""
    variables, head = runs.to_host(state.variables()), run.class_head(state)
    if jax.process_index() != 0 or (folder / "config.json").exists():
        return
    card = model_card.from_run(ConfigDict(run.config), metadata=data.metadata)
    encoder.save(folder, variables=variables, card=card, classes=head)
    LOGGER.info("wrote the encoder with its class head to %s", folder)


def format_table(measured: dict[str, Any]) -> str:
    """Formats the results of a run as a Markdown table, in per cent.

    Args:
      measured: content of `finetune.json`.
    """
    last, best = measured["last"], measured["best"]
    titles = {
        "zero_shot": "zero-shot, before",
        "linear_probe": "linear probe, before",
        "last": f"fine-tuned, last step {last['step']}",
        "votes": f"fine-tuned, last step, {measured.get('votes', {}).get('votes')} votes",
        "best": f"fine-tuned, best step {best['step']}, chosen on the test split",
    }
    rows = [["", "overall", "95% of overall", "mean per class"]]
    for name, title in titles.items():
        if name in measured:
            found = measured[name]
            between = (
                table.between(found["top1_low"], found["top1_high"]) if "top1_low" in found else ""
            )
            accuracies = [table.percent(found[key]) for key in ("top1", "mean_per_class")]
            rows.append([title, accuracies[0], between, accuracies[1]])
    return table.format_markdown(rows)
