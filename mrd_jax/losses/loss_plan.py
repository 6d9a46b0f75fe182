# SPDX-License-Identifier: Apache-2.0
"""What an objective computes, as data: which relations, and what is compared with what.

Both ways of computing it, `plain` and `blockwise`, follow the same plan.
"""

from typing import NamedTuple

import jax
import ml_collections

from mrd_jax.losses import options


class Relation(NamedTuple):
    """A relation R^XY of one batch, up to the values of its temperatures.

    Attributes:
      name: "XY", the modality of the rows and that of the columns.
      family: a key of `relation.FAMILIES`.
      temperature: the field of `Scalars` that similarities are divided by.
      present: the modalities, beside points, that a sample must have to count, as a row and as a
        column.
      exclude_self: leave out the diagonal.
    """

    name: str
    family: str
    temperature: str
    present: str
    exclude_self: bool


class Comparison(NamedTuple):
    """A student relation and what it should be; gives one value per row.

    Attributes:
      part: the name of that value, as in "intra/VV".
      term: the term it belongs to: intra, image or text.
      divergence: a name of `relation.divergence`.
      student: R.
      targets: the Q_k; several are mixed with the weights of the term.
    """

    part: str
    term: str
    divergence: str
    student: Relation
    targets: tuple[Relation, ...]


class Contrast(NamedTuple):
    """A pair of cross entropies: of a sample's teacher feature, and of the sample from there.

    Attributes:
      name: image or text.
      find_teacher: R^PX at the contrastive temperature.
      find_points: R^XP.
    """

    name: str
    find_teacher: Relation
    find_points: Relation


class Plan(NamedTuple):
    """All that one batch needs; hashable, so that it can be an argument that JAX does not trace."""

    contrasts: tuple[Contrast, ...]
    comparisons: tuple[Comparison, ...]

    def of(self, term: str) -> tuple[Comparison, ...]:
        """The comparisons of a term, in the order of its candidates."""
        return tuple(c for c in self.comparisons if c.term == term)


class Scalars(NamedTuple):
    """The scalars and vectors that relations depend on.

    Attributes:
      contrast, student, teacher: temperatures; the teacher's is constant.
      log_weights: {term: [candidates] log w_k}, for mixed targets.
    """

    contrast: jax.Array
    student: jax.Array
    teacher: jax.Array
    log_weights: dict[str, jax.Array]


def make(config: ml_collections.ConfigDict) -> Plan:
    """The plan of `config.loss`, which `options.check` has passed."""
    contrasts = tuple(
        Contrast(name, *(_contrast(pair, letter) for pair in (f"P{letter}", f"{letter}P")))
        for name, letter in (("image", "V"), ("text", "T"))
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


def _contrast(name: str, present: str) -> Relation:
    return Relation(name, "similarity", "contrast", present, exclude_self=False)


def _compare(
    part: str, term: str, targets: tuple[str, ...], config: ml_collections.ConfigDict
) -> Comparison:
    student = options.STUDENT[term]
    exclude_self = config.exclude_self_intra if term == "intra" else config.exclude_self_cross
    # Mixed targets need the same entries, hence the modalities of all candidates.
    present = "".join(sorted(set("".join((student, *targets))) - {"P"}))

    def relate(name: str, temperature: str) -> Relation:
        return Relation(name, config.relation, temperature, present, exclude_self)

    return Comparison(
        part,
        term,
        config.divergence,
        relate(student, "student"),
        tuple(relate(name, "teacher") for name in targets),
    )
