# SPDX-License-Identifier: Apache-2.0
"""Options of the objective, `config.loss`: names of the terms, and validation of every field."""

import ml_collections

from mrd_jax.losses import relation

# The three distillation terms and their student relation R^XY with rows X and columns Y;
# P: points, V: images, T: texts.
STUDENT = {"intra": "PP", "image": "PV", "text": "PT"}
TERMS = tuple(STUDENT)
# Teacher relations that may be a target of a term.
TARGETS = ("VV", "TT", "VT", "TV")

# With `form = "auto"`, number of entries of a relation matrix on a device from which the blockwise
# form is used: 16 MiB per matrix, of which the plain form holds about thirty. In
# `benchmarks.losses`, memory diverges here (2,048 samples on one device, or 16,384 on 64), and the
# plain form is no longer faster.
AUTO_BLOCKWISE = 2**22

CHOICES = {
    "relation": tuple(relation.FAMILIES),
    "weights": ("dynamic", "static"),
    "mix": ("divergences", "targets"),
    "form": ("plain", "blockwise", "auto"),
    "dtype": ("float32", "bfloat16"),
}
NOT_NEGATIVE = (
    "image_weight",
    "text_weight",
    *(f"lambda_{term}" for term in TERMS),
    "entropy_weight",
)
POSITIVE = ("teacher_temperature", "student_temperature")


def active_terms(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """Returns the distillation terms with lambda > 0; the others are not computed."""
    return tuple(term for term in TERMS if config[f"lambda_{term}"] > 0)


def is_blockwise(config: ml_collections.ConfigDict, *, local_batch: int, global_batch: int) -> bool:
    """Returns whether relations of this size are computed in blocks of columns."""
    if config.form == "auto":
        return local_batch * global_batch >= AUTO_BLOCKWISE
    return config.form == "blockwise"


def check(config: ml_collections.ConfigDict) -> None:
    """Validates the loss options.

    Args:
      config: loss options, `config.loss` of a run.

    Raises:
      ValueError: an option is invalid; the message has the field, its value and the allowed values.
    """
    for field, allowed in CHOICES.items():
        if config[field] not in allowed:
            raise ValueError(f"config.loss.{field} is {config[field]!r}; expected one of {allowed}")
    allowed = relation.FAMILIES[config.relation]
    if config.divergence not in allowed:
        raise ValueError(
            f"config.loss.divergence is {config.divergence!r}; expected one of {allowed} with "
            f"config.loss.relation = {config.relation!r}"
        )
    if config.learn_student_temperature and config.relation != "similarity":
        raise ValueError(
            "config.loss.learn_student_temperature is True, but relations of family "
            f"{config.relation!r} have no temperature; set it to False, or config.loss.relation to "
            "'similarity'"
        )
    for field in NOT_NEGATIVE:
        if config[field] < 0:
            raise ValueError(f"config.loss.{field} is {config[field]}; expected a number >= 0")
    for field in POSITIVE:
        if config[field] <= 0:
            raise ValueError(f"config.loss.{field} is {config[field]}; expected a number > 0")
    if config.block < 1:
        raise ValueError(f"config.loss.block is {config.block}; expected a number of columns >= 1")
    for term in TERMS:
        _check_candidates(term, tuple(config.candidates[term]))
    if not (config.image_weight or config.text_weight or active_terms(config)):
        raise ValueError(
            "config.loss has no active term; set image_weight, text_weight, "
            + " or ".join(f"lambda_{term}" for term in TERMS)
            + " to a number > 0"
        )


def _check_candidates(term: str, candidates: tuple[str, ...]) -> None:
    unknown = [name for name in candidates if name not in TARGETS]
    if unknown or not candidates or len(set(candidates)) < len(candidates):
        raise ValueError(
            f"config.loss.candidates.{term} is {candidates}; expected one or more of {TARGETS}, "
            "each at most once"
        )
