# SPDX-License-Identifier: Apache-2.0
"""Calibration: solves for the teacher's temperatures that give rows a number of neighbours.

One temperature cannot serve all relations and teachers. The similarities within a modality of one
teacher lie between 0.5 and 0.9, those of another between -0.1 and 1; across modalities they are
smaller. `config.loss.neighbours_within` and `neighbours_across` say instead how many samples of the
batch a row spreads over.
"""

import dataclasses
import itertools
import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from mrd_jax.data import loader, source
from mrd_jax.data.hard_negatives import neighbour_index
from mrd_jax.evaluation.metrics import classification, neighbourhood
from mrd_jax.losses import loss_plan, modalities, options, temperatures

LOGGER = logging.getLogger(__name__)

# Samples that the temperatures are solved for, rounded up to whole batches; and rows of a batch
# that are measured, so that a large batch needs little memory.
SAMPLES, ROWS = 2_048, 512


class Target(NamedTuple):
    """A candidate of a distillation term.

    Attributes:
      term: intra, image or text.
      name: target relation, such as "VV".
      exclude_self: whether the diagonal is excluded.
      required: letters of the modalities that a sample must have to be in the relation.
    """

    term: str
    name: str
    exclude_self: bool
    required: str


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Temperatures of the teacher's relations, and how soft they are.

    Attributes:
      temperatures: temperature of each target of the active terms.
      softness: effective neighbours and diagonal of each target, at this temperature; without the
        targets whose modalities no sample has.
      samples: number of samples that were measured.
    """

    temperatures: Mapping[Target, float]
    softness: Mapping[Target, neighbourhood.Softness]
    samples: int

    def lines(self) -> list[str]:
        """Returns one line per target, such as "intra/VV: temperature 0.0731, 8 neighbours"."""
        return [
            f"{target.term}/{target.name}: temperature {temperature:.4g}, {self._describe(target)}"
            for target, temperature in self.temperatures.items()
        ]

    def _describe(self, target: Target) -> str:
        """Describes the softness of a target."""
        if target not in self.softness:
            return "no sample has both modalities"
        soft = self.softness[target]
        diagonal = "excluded" if target.exclude_self else f"{soft.diagonal:.3f}"
        return f"{soft.neighbours:.3g} neighbours, diagonal {diagonal}"


def targets(config: ConfigDict) -> list[Target]:
    """Returns the targets of the active terms of `config.loss`."""
    return [
        Target(comparison.term, target.name, target.exclude_self, target.required)
        for comparison in loss_plan.make(config).comparisons
        for target in comparison.targets
    ]


def measure(
    config: ConfigDict,
    records: source.RecordSource,
    *,
    neighbours: neighbour_index.NeighbourIndex | None = None,
) -> Calibration:
    """Measures the teacher's relations on the first batches of a run, and solves for temperatures.

    A relation is measured on the samples that it has in the objective: those with all modalities
    that its comparison needs, which are those of all targets with `config.loss.mix` = "targets".
    The result is a function of the config and the data set: every process of a run, and every
    continuation of it, obtains the same.

    Args:
      config: config of the run.
      records: training split.
      neighbours: neighbours that hard negatives are drawn from; None without them.

    Raises:
      ValueError: no temperature gives the number of neighbours that the config asks for.
    """
    batches = _features(config, records, neighbours)
    found, soft = {}, {}
    for target in targets(config.loss):
        similarities = [_similarities(batch, target) for batch in batches]
        options_ = {"exclude_self": target.exclude_self}
        is_within = target.name[0] == target.name[1]
        field = "neighbours_within" if is_within else "neighbours_across"
        if wanted := config.loss[field]:
            try:
                temperature = neighbourhood.solve_temperature(
                    similarities, neighbours=wanted, **options_
                )
            except ValueError as error:
                raise ValueError(
                    f"config.loss.{field} is {wanted}, {target.term}/{target.name}: {error}; set "
                    f"config.loss.{field} to 0 for the fixed temperature, or remove {target.name} "
                    f"from config.loss.candidates.{target.term}"
                ) from error
        else:
            temperature = _fixed(config.loss, target)
        found[target] = temperature
        if any(len(each) > target.exclude_self for each in similarities):
            soft[target] = neighbourhood.softness(similarities, temperature=temperature, **options_)
    return Calibration(found, soft, samples=len(batches) * config.batch_size)


def calibrate(
    config: ConfigDict,
    records: source.RecordSource,
    *,
    neighbours: neighbour_index.NeighbourIndex | None = None,
) -> ConfigDict:
    """Returns the config with the temperatures that its numbers of neighbours ask for.

    Args:
      config: config of the run; returned as it is if it asks for fixed temperatures.
      records: training split.
      neighbours: neighbours that hard negatives are drawn from; None without them.

    Raises:
      ValueError: no temperature gives the number of neighbours that the config asks for.
    """
    if not (config.loss.neighbours_within or config.loss.neighbours_across):
        return config
    measured = measure(config, records, neighbours=neighbours)
    for line in measured.lines():
        LOGGER.info("teacher's relation %s", line)
    calibrated = config.copy_and_resolve_references()
    calibrated.loss = with_temperatures(calibrated.loss, measured)
    return calibrated


def with_temperatures(loss: ConfigDict, measured: Calibration) -> ConfigDict:
    """Returns `config.loss` with fixed temperatures, those of a calibration."""
    fixed = loss.copy_and_resolve_references()
    for term in options.active_terms(loss):
        fixed.teacher_temperatures[term] = tuple(
            value for target, value in measured.temperatures.items() if target.term == term
        )
    fixed.neighbours_within = fixed.neighbours_across = 0.0
    return fixed


def _fixed(loss: ConfigDict, target: Target) -> float:
    """Returns the fixed temperature of a target, where its neighbours are not asked for."""
    without = ConfigDict(loss)
    without.neighbours_within = without.neighbours_across = 0.0
    return temperatures.teacher_temperature(without, term=target.term, target=target.name)


def _features(
    config: ConfigDict,
    records: source.RecordSource,
    neighbours: neighbour_index.NeighbourIndex | None,
) -> list[dict[str, np.ndarray]]:
    """Returns the features that relations use in the first batches, over all processes."""
    stream = loader.train_stream(records, config, neighbours=neighbours)
    features: list[dict[str, np.ndarray]] = []
    for batch in itertools.islice(stream, -(-SAMPLES // config.batch_size)):
        features.append({})
        for name in ("image", "text"):
            features[-1][name], features[-1][f"has_{name}"] = modalities.of_relations(
                batch, name, relation_features=config.loss.relation_features
            )
    return features


def _similarities(batch: Mapping[str, np.ndarray], target: Target) -> np.ndarray:
    """Returns the products of the samples of a batch that are in a relation, [rows, samples]."""
    fields = {"V": "image", "T": "text"}
    valid = np.logical_and.reduce([batch[f"has_{fields[letter]}"] for letter in target.required])
    rows, columns = (
        classification.normalise(batch[fields[letter]][valid]).astype(np.float64)
        for letter in target.name
    )
    return rows[:ROWS] @ columns.T
