# SPDX-License-Identifier: Apache-2.0
"""A run of the study: what it trains and measures, what identifies it, and its estimated cost."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

from benchmarks.study import derived, settings

# On one of two cores (x86_64) beside another run: a step of 64 samples of the quickstart student,
# start and compilation of a run with its measurement, and probes on 2,000 shapes.
STEP_SECONDS, START_SECONDS, PROBE_SECONDS = 0.37, 45.0, 50.0
# Fields of a run that its identity names only if they are used.
_OPTIONAL = ("starts_from", "averages", "helper", "joined")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the student is trained, whatever the objective.

    Attributes:
      overrides: values of config fields by dotted name.
      steps: steps of 64 samples of a whole run.
      compared_steps: steps of 64 samples of the last round in which objectives are compared.
      cost: cost of a step against the config that the study starts from.
    """

    overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = 600
    compared_steps: int = 600
    cost: float = 1.0


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of the study.

    Attributes:
      stage: name of the stage.
      setting: name of the row in tables.
      condition: what distinguishes runs of a setting, such as the steps or the fold.
      seed: seed of the run.
      config: config file.
      overrides: values of config fields, without those that only the machine determines.
      data: "parts" or "furniture".
      derivation: derived data set; None for the data set as it is.
      split: split to measure on.
      probes: fit probes to the training split.
      starts_from: name of the run of the stage whose weights it starts from, or STAGE/NAME of an
        earlier stage; "" for none.
      averages: names of the runs of the stage whose weights are averaged; () to train.
      helper: whether the run only serves others of the stage, and is in no table.
      joined: whether it is trained on the training shapes of both data sets.
      cost: cost of a step against the config that the study starts from.
    """

    stage: str
    setting: str
    condition: str
    seed: int
    config: str
    overrides: Mapping[str, Any]
    data: str
    derivation: derived.Derivation | None
    split: str
    probes: bool = False
    starts_from: str = ""
    averages: tuple[str, ...] = ()
    helper: bool = False
    joined: bool = False
    cost: float = 1.0

    @property
    def name(self) -> str:
        """Name of the run, unique in its stage, and a file name."""
        return run_name(self.setting, self.condition, self.seed)

    @property
    def path(self) -> str:
        """Stage and name of the run, and its workdir below the folder of all."""
        return f"{self.stage}/{self.name}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Stages and names of the runs that must have finished before, as STAGE/NAME."""
        names = (*self.averages, *([self.starts_from] if self.starts_from else []))
        return tuple(name if "/" in name else f"{self.stage}/{name}" for name in names)

    @property
    def seconds(self) -> float:
        """Estimated seconds on one core."""
        samples = self.overrides["total_steps"] * self.overrides.get(
            "batch_size", settings.BATCH_SIZE
        )
        training = (
            0.0 if self.averages else samples / settings.BATCH_SIZE * STEP_SECONDS * self.cost
        )
        return training + START_SECONDS + (PROBE_SECONDS if self.probes else 0.0)

    def identity(self) -> dict[str, Any]:
        """Returns what identifies the run in a file of results, as JSON values."""
        fields = dataclasses.asdict(self)
        del fields["cost"]
        return identity(json.loads(json.dumps(fields)))


def identity(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an identity without the fields that most runs do not use."""
    return {key: value for key, value in fields.items() if value or key not in _OPTIONAL}


def run_name(setting: str, condition: str, seed: int) -> str:
    """Returns the name of a run, which is a file name."""
    text = f"{setting} {condition}"
    slug = re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")
    if len(slug) > 60:
        slug = f"{slug[:50]}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return f"{slug}_{seed}"
