# SPDX-License-Identifier: Apache-2.0
"""Execution of the runs of the study, and files of their results, which are small.

`STAGE.json` has one line per run: what it was and the values of its queries; `shapes.json` has the
groups and classes of the held-out shapes, once per split. A run that is in the files is not
repeated, even if its workdir is gone.
"""

import dataclasses
import json
import pathlib
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import sweep
from benchmarks.study import derived, joined, measure, stages, training_run, worker
from benchmarks.study.training_run import Run
from mrd_jax import atomic_io
from mrd_jax.data import dataset_metadata

SHAPES_FILE, BASELINES_FILE = "shapes.json", "baselines.json"
# Fields that only concern the execution: no evaluation during training, and checkpoints for a
# continuation.
_EXECUTION = {"checkpoint_every": 150, "log_every": 50}
# Splits that each data set must have.
SPLITS = {"parts": ("train", "validation", "test"), "furniture": ("train", "test")}


class WorkerJob(sweep.Job):
    """Job of `benchmarks.study.worker`."""

    RESULT = worker.RESULT_FILE

    def command(self) -> list[str]:
        """Returns the command line of the worker."""
        spec = str(self.workdir / "spec.json")
        return [sys.executable, "-m", "benchmarks.study.worker", spec]


@dataclasses.dataclass(frozen=True)
class Result:
    """A finished run.

    Attributes:
      run: identity of the run, see `Run.identity`.
      values: stored values by kind of query, see `measure.measure`.
      layout: shapes of its held-out split.
    """

    run: dict[str, Any]
    values: dict[str, list[int]]
    layout: measure.Layout

    @property
    def criterion(self) -> float:
        """The number that settings are ranked by."""
        return measure.CRITERION.mean(self.values, self.layout)


def split_name(run: Run | Mapping[str, Any]) -> str:
    """Returns the name of the held-out split of a run, which several data sets may share."""
    fields = run.identity() if isinstance(run, Run) else run
    fold = f"/fold{fields['derivation']['fold']}" if fields["derivation"] else ""
    return f"{fields['data']}{fold}/{fields['split']}"


@dataclasses.dataclass
class Study:
    """Folders of a study.

    Attributes:
      data: folder of each data set by name.
      runs: folder of the workdirs.
      output: folder of the files of results.
      parallel: number of processes at a time.
      failures: messages of the runs that failed.
    """

    data: Mapping[str, pathlib.Path]
    runs: pathlib.Path
    output: pathlib.Path
    parallel: int
    failures: list[str] = dataclasses.field(default_factory=list)

    def execute(self, planned: Sequence[Run]) -> list[Result]:
        """Executes the runs of a round that are not in the files, and returns those that finished.

        Runs come after those that they need. A run that fails is named in `failures`, and those
        that need it are not run.

        Args:
          planned: runs of one stage.

        Raises:
          ValueError: a file of results has a run of the same name with other settings.
        """
        left = list(planned)
        while left:
            waiting = {run.path for run in left}
            ready = [run for run in left if not waiting & set(run.needs)]
            self._execute(ready)
            left = [run for run in left if run not in ready]
        return self.load(planned)

    def load(self, planned: Sequence[Run]) -> list[Result]:
        """Returns those of the runs that are in the files of results, in their order.

        Raises:
          ValueError: a file of results has a run of the same name with other settings.
        """
        layouts = read(self.output / SHAPES_FILE)
        stored = {stage: read(self.output / f"{stage}.json") for stage in stages.STAGES}
        found = []
        for run in planned:
            line = stored[run.stage].get(run.name)
            if line is None:
                continue
            if training_run.identity(line["run"]) != run.identity():
                raise ValueError(
                    f"{self.output / run.stage}.json has a run {run.name} with other settings than "
                    f"those of this study: remove its line and {self.runs / run.path}, "
                    "or give other folders as --runs and --output"
                )
            layout = measure.Layout(**layouts[split_name(run)])
            found.append(Result(line["run"], line["values"], layout))
        return found

    def _execute(self, planned: Sequence[Run]) -> None:
        """Executes runs that do not depend on each other, and adds them to the files."""
        done = {f"{result.run['stage']}/{stored_name(result.run)}" for result in self.load(planned)}
        missing = []
        for run in planned:
            if run.path in done:
                continue
            faults = [fault for path in run.needs if (fault := self._fault(path))]
            if faults:
                self.failures.append(f"{run.path} needs {faults[0]}")
            else:
                missing.append(run)
        if not missing:
            return
        for name in {run.data for run in missing}:
            check_data(self.data[name], name=name)
        by_name = {run.name: run for run in missing}
        jobs = [self._job(run) for run in missing]
        left = sum(run.seconds for run in missing)
        lock = threading.Lock()

        def on_end(job: sweep.Job) -> None:
            nonlocal left
            with lock:
                left -= by_name[job.name].seconds
                path = job.workdir / worker.RESULT_FILE
                state = "finished" if path.exists() else "not finished"
                if path.exists():
                    self._add(by_name[job.name], json.loads(path.read_text("utf-8")))
                hours = max(0.0, left) / 3600 / self.parallel
                print(f"{job.workdir} {state}; about {hours:.1f} h left of this round", flush=True)

        outcomes = sweep.attempt_jobs(jobs, parallel=self.parallel, on_end=on_end)
        self.failures += [str(each) for each in outcomes if isinstance(each, RuntimeError)]

    def _fault(self, path: str) -> str:
        """Describes why the weights of a run are not there; "" if they are."""
        stage, name = path.split("/")
        if name not in read(self.output / f"{stage}.json"):
            return f"{path}, which has not finished"
        if not (self.runs / path).is_dir():
            return (
                f"the weights of {path}, but {self.runs / path} does not exist: remove its line "
                f"from {self.output / stage}.json to repeat the run"
            )
        return ""

    def _job(self, run: Run) -> WorkerJob:
        """Writes what the worker of a run reads."""
        workdir = self.runs / run.path
        overrides = {**run.overrides, **_EXECUTION}
        needed = [self.runs / path for path in run.needs]
        if run.starts_from:
            overrides["initial_weights"] = str(needed[-1])
        averaged = needed[: len(run.averages)]
        spec = worker.Spec(
            config=run.config,
            overrides=overrides,
            data=str(self._folder(run)),
            split=run.split,
            probes=run.probes,
            trained_on=str(self._joined()) if run.joined else "",
            average_of=tuple(
                (str(folder), read(folder / "spec.json")["overrides"]) for folder in averaged
            ),
        )
        _write_spec(workdir, spec)
        return WorkerJob(run.name, run.config, workdir, overrides)

    def _folder(self, run: Run) -> pathlib.Path:
        """Returns the folder of the data set of a run, deriving it if necessary."""
        if run.derivation is None:
            return self.data[run.data]
        return derived.write(self.data[run.data], self.runs / "data", run.derivation)

    def _joined(self) -> pathlib.Path:
        """Returns the folder of the training shapes of both data sets, writing it if necessary."""
        return joined.write(self.data["furniture"], self.data["parts"], self.runs / "data")

    def _add(self, run: Run, content: dict[str, Any]) -> None:
        """Adds a finished run to the files of results."""
        path = self.output / SHAPES_FILE
        layouts = read(path)
        name = split_name(run)
        old = layouts.get(name, {"queries": {}})["queries"]
        queries = old | content["layout"]["queries"]
        if any(queries[kind] != shapes for kind, shapes in old.items()):
            raise ValueError(f"{run.name} was measured on other shapes than {path} has for {name}")
        # Groups may have been added to the data set since.
        layouts[name] = {**content["layout"], "queries": queries}
        write(path, layouts)
        stage = self.output / f"{run.stage}.json"
        line = {
            "run": run.identity(), "seconds": content["seconds"], "values": content["values"],
        }  # fmt: skip
        write(stage, {**read(stage), run.name: line})

    def baselines(self, planned: Sequence[Run]) -> dict[str, dict[str, Any]]:
        """Measures the baselines on the held-out splits of runs, once each.

        Args:
          planned: runs; those on fractions of a fold or with changed captions are ignored.

        Returns:
          By `split_name`, the baselines' values and metrics, see `worker`.
        """
        path = self.output / BASELINES_FILE
        found = read(path)
        jobs = []
        for run in planned:
            name = split_name(run)
            plain = run.derivation in (
                None,
                derived.Derivation(fold=run.seed, seed=run.seed),
            )
            if name in found or not plain or name in {job.name for job in jobs}:
                continue
            workdir = self.runs / "baselines" / name.replace("/", "_")
            spec = worker.Spec("", {}, str(self._folder(run)), run.split, probes=False)
            _write_spec(workdir, spec)
            jobs.append(WorkerJob(name, "", workdir, {}))
        outcomes = sweep.attempt_jobs(jobs, parallel=self.parallel)
        for job, outcome in zip(jobs, outcomes, strict=True):
            if isinstance(outcome, RuntimeError):
                self.failures.append(str(outcome))
            else:
                found[job.name] = outcome
        write(path, found)
        return found


def _write_spec(workdir: pathlib.Path, spec: worker.Spec) -> None:
    """Writes what a worker reads; refuses a finished run with other settings.

    A worker refuses an unfinished one.
    """
    path = workdir / "spec.json"
    content = json.loads(json.dumps(dataclasses.asdict(spec)))
    # Folders may have been moved since.
    same = ("config", "overrides", "split", "probes")
    old = read(path) or content
    finished = (workdir / worker.RESULT_FILE).exists()
    if finished and any(old[field] != content[field] for field in same):
        raise ValueError(
            f"{workdir} belongs to a run with other settings than those of this study: remove it, "
            "or give another folder as --runs"
        )
    workdir.mkdir(parents=True, exist_ok=True)
    atomic_io.write_text(path, json.dumps(content, indent=1))


def check_data(folder: pathlib.Path, *, name: str) -> None:
    """Checks that a data set has the splits and groups that the study needs.

    Args:
      folder: folder of the data set.
      name: "parts" or "furniture".

    Raises:
      FileNotFoundError: the folder is not a data set.
      ValueError: a split or the groups of the parts are missing.
    """
    counts = dataset_metadata.read(folder)["counts"]
    missing = [split for split in SPLITS[name] if split not in counts]
    if missing:
        raise ValueError(
            f"{folder} has no split {missing[0]!r}, only {sorted(set(counts) - {'classes'})}: "
            "expected a data set of the present data_prep.build; build it again"
        )
    # Creators, which stand in for groups elsewhere, are the same for all parts.
    if name == "parts" and not (folder / "evaluation" / "groups.json").is_file():
        raise ValueError(
            f"{folder} has no evaluation/groups.json, the series of its shapes: run "
            "data_prep.build again with the options it was built with, which adds it"
        )


def stored_name(run: Mapping[str, Any]) -> str:
    """Returns the name of a run from its stored identity."""
    return training_run.run_name(run["setting"], run["condition"], run["seed"])


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a file of results; {} if it does not exist."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def write(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    """Writes a file of results atomically, one line per entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [
        f"{json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}"
        for key, value in content.items()
    ]
    atomic_io.write_text(path, "{\n" + ",\n".join(lines) + "\n}\n")
