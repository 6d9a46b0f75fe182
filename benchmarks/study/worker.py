# SPDX-License-Identifier: Apache-2.0
"""Trains and measures one run of the study; a process of its own, started by `benchmarks.study`.

python -m benchmarks.study.worker runs/study/relations/reference_150_0/spec.json
"""

import contextlib
import dataclasses
import importlib.util
import json
import pathlib
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from benchmarks.study import derived, measure
from mrd_jax import atomic_io
from mrd_jax.cli import command, logs
from mrd_jax.data import source
from mrd_jax.distributed import compilation_cache
from mrd_jax.evaluation import baselines, held_out_split, retrieval
from mrd_jax.training import run, train

RESULT_FILE, EMBEDDINGS_FILE = "study.json", "embeddings.npz"


@dataclasses.dataclass(frozen=True)
class Spec:
    """What a worker does.

    Attributes:
      config: config file; "" to measure the baselines of the data set instead.
      overrides: values of config fields by dotted name.
      data: folder of the data set that is measured on.
      split: split to measure on.
      probes: fit probes to the training split of `data`.
      average_of: workdirs and overrides of finished runs whose weights are averaged, instead of
        training; () to train.
      trained_on: folder of the data set that is trained on; "" for `data`.
    """

    config: str
    overrides: dict[str, Any]
    data: str
    split: str
    probes: bool
    average_of: tuple[tuple[str, dict[str, Any]], ...] = ()
    trained_on: str = ""


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Trains unless the run is finished, and writes its values."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.study.worker")
    parser.add_argument("spec", type=pathlib.Path, help="spec.json in the workdir of the run")
    path = parser.parse_args(arguments).spec
    spec = Spec(**json.loads(path.read_text("utf-8")))
    logs.show()
    compilation_cache.enable()
    result = _measure_baselines(spec) if not spec.config else _run(spec, path.parent)
    if result is None:
        return 1
    atomic_io.write_text(path.parent / RESULT_FILE, json.dumps(result))
    return 0


def read_config(spec: Spec, *, split: str) -> ConfigDict:
    """Returns the config of a run that is evaluated on a split; "" for that of its training.

    Raises:
      ValueError: an override names no field.
    """
    module = importlib.util.spec_from_file_location("study_config", spec.config)
    assert module is not None and module.loader is not None
    loaded = importlib.util.module_from_spec(module)
    module.loader.exec_module(loaded)
    config = loaded.get_config()
    folder = spec.data if split else spec.trained_on or spec.data
    fields = {**spec.overrides, "data.directory": folder, "data.test_split": split}
    for name, value in fields.items():
        try:
            # Lists are tuples that JSON has no name for.
            value = tuple(value) if isinstance(value, list) else value
            config.update_from_flattened_dict({name: value})
        except (KeyError, TypeError) as error:
            raise ValueError(f"cannot set config.{name} to {value!r}: {error}") from error
    return config


def _run(spec: Spec, workdir: pathlib.Path) -> dict[str, Any] | None:
    """Trains and measures; returns None after a graceful shutdown."""
    started = time.perf_counter()
    config = run.resolve(read_config(spec, split=""))
    if not spec.average_of and not train.train_and_evaluate(config, str(workdir)):
        return None
    seconds = time.perf_counter() - started
    built = run.build_run(run.resolve(read_config(spec, split=spec.split)))
    evaluator = built.evaluator()
    assert evaluator is not None
    trained = [
        _variables(dataclasses.replace(spec, overrides=overrides), folder)
        for folder, overrides in spec.average_of or ((str(workdir), spec.overrides),)
    ]
    variables = jax.tree.map(lambda *leaves: sum(leaves) / len(leaves), *trained)
    embeddings = evaluator.embed(variables, evaluator.records)
    rows = embeddings.astype(np.float16)
    atomic_io.write_npz(
        workdir / EMBEDDINGS_FILE, rows=rows, ids=np.asarray(evaluator.held_out.ids)
    )
    train_split = None
    if spec.probes:
        records = source.open_split(spec.data, config.data.train_split)
        labels = [int(records.read(i, ("label",))["label"]) for i in range(len(records))]
        train_split = evaluator.embed(variables, records), np.asarray(labels)
    found = measure.measure(embeddings, evaluator.held_out, train=train_split)
    return {
        "seconds": round(seconds, 1),
        "values": {kind: queries.values.tolist() for kind, queries in found.items()},
        "layout": _layout(spec, evaluator.held_out, found),
    }


def _variables(spec: Spec, workdir: str) -> dict[str, Any]:
    """Returns the variables that the run in a workdir is evaluated with."""
    config = run.resolve(read_config(spec, split=""))
    built = run.build_run(config)
    data = run.open_data(config)
    with contextlib.closing(
        run.open_checkpoints(config, workdir, data, read_only=True)
    ) as checkpoints:
        state = checkpoints.read(checkpoints.find("newest"), built.initial_state())
    return state.variables()


def _layout(
    spec: Spec, held_out: held_out_split.HeldOut, found: dict[str, measure.Queries]
) -> dict[str, Any]:
    groups = derived.read_groups(pathlib.Path(spec.data))
    return {
        "groups": [groups.get(shape_id) or shape_id for shape_id in held_out.ids],
        "labels": held_out.labels.tolist(),
        "queries": {kind: queries.shapes.tolist() for kind, queries in found.items()},
    }


def _measure_baselines(spec: Spec) -> dict[str, Any]:
    """Measures the baselines of a data set: values of classification and mAP, and all metrics."""
    held_out = held_out_split.load_held_out(spec.data, spec.split)
    rows = baselines.measure(spec.data, held_out=held_out, test_split=spec.split)
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.correct is None:
            continue
        # Ranks beyond the first are not known of every baseline.
        found[row.name] = {"top1": np.where(row.correct, 1, 2).tolist()}
        if row.embeddings is not None:
            precisions = retrieval.shape_precisions(row.embeddings, held_out).precisions
            found[row.name]["map"] = measure.scale(precisions).tolist()
    metrics = {row.name: {**row.metrics, **row.retrieval} for row in rows}
    return {"baselines": found, "metrics": metrics}


if __name__ == "__main__":
    sys.exit(main())
