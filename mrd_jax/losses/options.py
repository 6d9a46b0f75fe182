# SPDX-License-Identifier: Apache-2.0
"""What `config.loss` may say: the names of the terms and one check of every option."""

import ml_collections

from mrd_jax.losses import relation

# The three distillation terms and their student relation R^XY: rows X, columns Y;
# P points, V images, T texts.
STUDENT = {"intra": "PP", "image": "PV", "text": "PT"}
TERMS = tuple(STUDENT)
# The teacher relations that a term may take as a target.
TARGETS = ("VV", "TT", "VT", "TV")

# `form = "auto"` is blockwise from this many entries of a relation matrix on a device: 16 MiB each,
# of which the plain form holds about thirty. `benchmarks.losses` shows memory part here (2,048
# samples on one device, or 16,384 on 64), while the plain form is no faster any more.
AUTO_BLOCKWISE = 2**22

_CHOICES = {
    "relation": tuple(relation.FAMILIES),
    "weights": ("dynamic", "static"),
    "mix": ("divergences", "targets"),
    "form": ("plain", "blockwise", "auto"),
    "dtype": ("float32", "bfloat16"),
}
_NOT_NEGATIVE = (
    "image_weight",
    "text_weight",
    *(f"lambda_{term}" for term in TERMS),
    "entropy_weight",
)
_POSITIVE = ("teacher_temperature", "student_temperature")


def active_terms(config: ml_collections.ConfigDict) -> tuple[str, ...]:
    """The distillation terms with lambda > 0; the others are not computed."""
    return tuple(term for term in TERMS if config[f"lambda_{term}"] > 0)


def is_blockwise(config: ml_collections.ConfigDict, *, local_batch: int, global_batch: int) -> bool:
    """Whether relations of this size are computed by blocks of columns, not as whole matrices."""
    if config.form == "auto":
        return local_batch * global_batch >= AUTO_BLOCKWISE
    return config.form == "blockwise"


def check(config: ml_collections.ConfigDict) -> None:
    """Refuse options without a meaning while the loss is traced, before any step is spent.

    Args:
      config: the loss options, `config.loss` of an experiment.

    Raises:
      ValueError: names the field, its value and what is allowed.
    """
    for field, allowed in _CHOICES.items():
        if config[field] not in allowed:
            raise ValueError(f"loss.{field} is {config[field]!r}; expected one of {allowed}")
    allowed = relation.FAMILIES[config.relation]
    if config.divergence not in allowed:
        raise ValueError(
            f"loss.divergence is {config.divergence!r}; loss.relation = {config.relation!r} "
            f"goes with one of {allowed}"
        )
    if config.learn_student_temperature and config.relation != "similarity":
        raise ValueError(
            f"loss.learn_student_temperature is set but loss.relation = {config.relation!r} has "
            "no temperature; unset it or use loss.relation = 'similarity'"
        )
    for field in _NOT_NEGATIVE:
        if config[field] < 0:
            raise ValueError(f"loss.{field} is {config[field]}; expected a number >= 0")
    for field in _POSITIVE:
        if config[field] <= 0:
            raise ValueError(f"loss.{field} is {config[field]}; expected a number > 0")
    if config.block < 1:
        raise ValueError(f"loss.block is {config.block}; expected a number of columns >= 1")
    for term in TERMS:
        _check_candidates(term, tuple(config.candidates[term]))
    if not (config.image_weight or config.text_weight or active_terms(config)):
        raise ValueError(
            "loss has no active term; set at least one of loss.image_weight, loss.text_weight, "
            + ", ".join(f"loss.lambda_{term}" for term in TERMS)
            + " above 0"
        )


def _check_candidates(term: str, candidates: tuple[str, ...]) -> None:
    unknown = [name for name in candidates if name not in TARGETS]
    if unknown or not candidates or len(set(candidates)) < len(candidates):
        raise ValueError(
            f"loss.candidates.{term} is {candidates}; expected one or more of {TARGETS}, "
            "each at most once"
        )
