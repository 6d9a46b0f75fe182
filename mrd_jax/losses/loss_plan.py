# SPDX-License-Identifier: Apache-2.0
"""Loss plan: the relations and comparisons of an objective, as data.

Both forms of the losses, `plain` and `blockwise`, evaluate the same plan.
"""

from collections.abc import Collection
from typing import NamedTuple

import jax
import ml_collections

from mrd_jax.losses import modalities, options, temperatures


class RelationSpec(NamedTuple):
    """Specification of a relation R^XY of a batch, without the values of its temperatures.

    Attributes:
      name: "XY", the modality of the rows and the modality of the columns.
      family: a key of `relation.FAMILIES`.
      temperature: the key of `Scalars.temperatures` that similarities are divided by.
      required: letters of the modalities, beside points, that a sample must have to be valid as a
        row and as a column.
      exclude_self: exclude the diagonal.
    """

    name: str
    family: str
    temperature: str
    required: str
    exclude_self: bool


class Comparison(NamedTuple):
    """A divergence between a student relation and its target, one value per row.

    Attributes:
      part: name of the value, such as "intra/VV".
      term: distillation term that it belongs to: intra, image or text.
      divergence: a key of `relation.DIVERGENCES`.
      student: relation R of the student.
      targets: relations Q_k of the teacher; several are mixed with the weights of the term.
    """

    part: str
    term: str
    divergence: str
    student: RelationSpec
    targets: tuple[RelationSpec, ...]


class Contrast(NamedTuple):
    """A symmetric InfoNCE term.

    Attributes:
      name: teacher modality, image or text.
      points_to_teacher: R^PX at the contrastive temperature.
      teacher_to_points: R^XP at the contrastive temperature.
    """

    name: str
    points_to_teacher: RelationSpec
    teacher_to_points: RelationSpec


class Plan(NamedTuple):
    """Contrastive terms and comparisons of an objective; hashable, so it can be static under jit.

    Attributes:
      contrasts: contrastive terms.
      comparisons: comparisons of all distillation terms.
    """

    contrasts: tuple[Contrast, ...]
    comparisons: tuple[Comparison, ...]

    def comparisons_of(self, term: str) -> tuple[Comparison, ...]:
        """Returns the comparisons of a term, in the order of its candidates."""
        return tuple(c for c in self.comparisons if c.term == term)


class Scalars(NamedTuple):
    """Scalars and vectors that relations depend on.

    Attributes:
      temperatures: scalars by key, see `mrd_jax.losses.temperatures`; the teacher's are constant.
      log_weights: {term: [candidates]}, log w_k, for mixed targets.
    """

    temperatures: dict[str, jax.Array]
    log_weights: dict[str, jax.Array]


def make(config: ml_collections.ConfigDict, *, letters: Collection[str] = ("V", "T")) -> Plan:
    """Builds the plan of an objective.

    Args:
      config: loss options, `config.loss` of a run, which must have passed `options.check`.
      letters: letters of the modalities of a batch. Contrastive terms use v and t if it has them,
        else V and T; see `modalities.from_embeddings`.
    """
    drawn = {
        letter: lower if lower in letters else letter for letter, lower in modalities.DRAWN.items()
    }
    contrasts = tuple(
        Contrast(name, *(_contrast(pair, letter) for pair in (f"P{letter}", f"{letter}P")))
        for name, letter in (("image", drawn["V"]), ("text", drawn["T"]))
        if config[f"{name}_weight"]
    )
    comparisons = []
    for term in options.active_terms(config):
        candidates = tuple(config.candidates[term])
        if config.mix == "targets":
            comparisons.append(_compare(term, term, candidates, config))
        else:
            for name in candidates:
                comparisons.append(_compare(f"{term}/{name}", term, (name,), config))
    return Plan(contrasts, tuple(comparisons))


def _contrast(name: str, required: str) -> RelationSpec:
    return RelationSpec(name, "similarity", temperatures.CONTRAST, required, exclude_self=False)


def _compare(
    part: str, term: str, targets: tuple[str, ...], config: ml_collections.ConfigDict
) -> Comparison:
    student = options.STUDENT[term]
    exclude_self = config.exclude_self_intra if term == "intra" else config.exclude_self_cross
    # Mixed targets must have the same valid entries, hence the modalities of all candidates.
    required = "".join(sorted(set("".join((student, *targets))) - {"P"}))

    def spec(name: str, temperature: str) -> RelationSpec:
        return RelationSpec(name, config.relation, temperature, required, exclude_self)

    return Comparison(
        part,
        term,
        config.divergence,
        spec(student, temperatures.student_key(config, term=term, targets=targets)),
        tuple(
            spec(name, temperatures.teacher_key(config, term=term, target=name)) for name in targets
        ),
    )
