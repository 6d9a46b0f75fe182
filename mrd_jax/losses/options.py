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
    "term_weights": ("dynamic", "static"),
    "mix": ("divergences", "targets"),
    "form": ("plain", "blockwise", "auto"),
    "dtype": ("float32", "bfloat16"),
    "student_temperature_follows": ("none", "contrastive", "teacher"),
    "relation_features": ("drawn", "mean"),
}
NOT_NEGATIVE = (
    "image_weight",
    "text_weight",
    *(f"lambda_{term}" for term in TERMS),
    "term_weight_floor",
    "lambda_warmup",
    "lambda_anneal",
    "entropy_weight",
    "neighbours_within",
    "neighbours_across",
    "student_temperature_cross",
)
POSITIVE = ("teacher_temperature", "student_temperature")
# Fields that later versions added, with the values by which the objective is as before.
ADDED = {
    "term_weights": "static",
    "term_weight_floor": 0.25,
    "lambda_warmup": 0.0,
    "lambda_anneal": 0.0,
    "neighbours_within": 0.0,
    "neighbours_across": 0.0,
    "student_temperature_cross": 0.0,
    "student_temperature_follows": "none",
    "relation_features": "drawn",
    **{f"teacher_temperatures.{term}": [] for term in TERMS},
}


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
    _check_temperatures(config)
    _check_terms(config)
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


def _check_terms(config: ml_collections.ConfigDict) -> None:
    """Validates the weights of the terms and the schedule of their lambdas."""
    if config.term_weight_floor >= 1:
        raise ValueError(
            f"config.loss.term_weight_floor is {config.term_weight_floor}; expected a number < 1, "
            "or config.loss.term_weights = 'static' for equal weights"
        )
    terms = active_terms(config)
    if config.term_weights == "dynamic" and len(terms) < 2:
        raise ValueError(
            f"config.loss.term_weights is 'dynamic', but {len(terms)} distillation terms have a "
            "lambda > 0; expected two or more, or 'static'"
        )
    if config.lambda_warmup + config.lambda_anneal > 1:
        raise ValueError(
            f"config.loss.lambda_warmup is {config.lambda_warmup} and lambda_anneal is "
            f"{config.lambda_anneal}; expected fractions of a run whose sum is at most 1"
        )


def _check_temperatures(config: ml_collections.ConfigDict) -> None:
    """Validates fields of temperatures that depend on each other."""
    follows = config.student_temperature_follows
    settings = {
        "learn_student_temperature": config.learn_student_temperature,
        "student_temperature_cross": config.student_temperature_cross,
        "student_temperature_follows": "" if follows == "none" else follows,
        "neighbours_within": config.neighbours_within,
        "neighbours_across": config.neighbours_across,
    }
    used = [name for name, value in settings.items() if value]
    if used and config.relation != "similarity":
        raise ValueError(
            f"config.loss.{used[0]} is {config[used[0]]!r}, but relations of family "
            f"{config.relation!r} have no temperature; leave it at its default, or set "
            "config.loss.relation to 'similarity'"
        )
    if follows != "none" and used[0] in ("learn_student_temperature", "student_temperature_cross"):
        raise ValueError(
            f"config.loss.{used[0]} is {config[used[0]]!r}, but the student's temperature follows "
            f"another one (config.loss.student_temperature_follows is {follows!r}); set one of them"
        )
    if follows == "teacher" and config.mix == "targets":
        raise ValueError(
            "config.loss.student_temperature_follows is 'teacher', but with config.loss.mix = "
            "'targets' a relation has several teachers; set config.loss.mix to 'divergences'"
        )
    for term in TERMS:
        temperatures = tuple(config.teacher_temperatures[term])
        candidates = tuple(config.candidates[term])
        if temperatures and (len(temperatures) != len(candidates) or min(temperatures) <= 0):
            raise ValueError(
                f"config.loss.teacher_temperatures.{term} is {temperatures}; expected one number "
                f"> 0 for each of {candidates}, or () for config.loss.teacher_temperature"
            )
        if temperatures and (config.neighbours_within or config.neighbours_across):
            raise ValueError(
                f"config.loss.teacher_temperatures.{term} is {temperatures}, but neighbours_within "
                "or neighbours_across asks for temperatures that are solved for; set one of them"
            )
    for field in ("neighbours_within", "neighbours_across"):
        if 0 < config[field] <= 1:
            raise ValueError(
                f"config.loss.{field} is {config[field]}; expected more than 1 neighbour, or 0 for "
                "the fixed temperature"
            )
