# SPDX-License-Identifier: Apache-2.0
"""Temperatures of the relations: which one a relation has, and their values.

A temperature has a key: relations with the same key share a value, and a student relation that
several comparisons use at the same temperature is computed once.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

# Keys of the contrastive terms, of the student's relations of all terms (or, with a temperature of
# their own for the cross terms, of the intra term), and prefix of the teacher's.
CONTRAST, STUDENT, STUDENT_CROSS, TEACHER = "contrast", "student", "student_cross", "teacher"
# Loss parameter of each temperature that can be learned.
LEARNED = {STUDENT: "student_log_temperature", STUDENT_CROSS: "student_log_temperature_cross"}


def is_constant(key: str) -> bool:
    """Returns whether the temperature of a key has no gradient, as those of the teacher."""
    return key.startswith(TEACHER)


def teacher_key(config: ml_collections.ConfigDict, *, term: str, target: str) -> str:
    """Returns the key of a target's temperature.

    Args:
      config: loss options, `config.loss` of a run.
      term: intra, image or text.
      target: candidate of the term, such as "VV".
    """
    return f"{TEACHER}/{term}/{target}" if config.teacher_temperatures[term] else TEACHER


def student_key(config: ml_collections.ConfigDict, *, term: str, targets: Sequence[str]) -> str:
    """Returns the key of the temperature of the student relation of a comparison.

    Args:
      config: loss options, `config.loss` of a run.
      term: intra, image or text.
      targets: candidates of the term that the student relation is compared with.
    """
    if config.student_temperature_follows == "contrastive":
        return CONTRAST
    if config.student_temperature_follows == "teacher":
        (target,) = targets  # `options.check` rejects mixed targets
        return teacher_key(config, term=term, target=target)
    return STUDENT_CROSS if config.student_temperature_cross and term != "intra" else STUDENT


def teacher_temperature(config: ml_collections.ConfigDict, *, term: str, target: str) -> float:
    """Returns the temperature of a target of a term.

    Args:
      config: loss options, `config.loss` of a run; `mrd_jax.training.calibration` has solved for
        the temperatures if `neighbours_within` or `neighbours_across` is positive.
      term: intra, image or text.
      target: candidate of the term.

    Raises:
      ValueError: the temperature has not been solved for.
    """
    for field in ("neighbours_within", "neighbours_across"):
        if config[field]:
            raise ValueError(
                f"config.loss.{field} is {config[field]}, but the teacher's temperatures have not "
                "been solved for; call mrd_jax.training.calibration.calibrate"
            )
    fixed = config.teacher_temperatures[term]
    if not fixed:
        return config.teacher_temperature
    return dict(zip(config.candidates[term], fixed, strict=True))[target]


def init_params(config: ml_collections.ConfigDict) -> dict[str, jax.Array]:
    """Initialises the logarithms of the temperatures that are learned, by loss parameter."""
    if not config.learn_student_temperature:
        return {}
    initial = {STUDENT: config.student_temperature}
    if config.student_temperature_cross:
        initial[STUDENT_CROSS] = config.student_temperature_cross
    return {
        LEARNED[key]: jnp.asarray(math.log(value), jnp.float32) for key, value in initial.items()
    }


def values(
    config: ml_collections.ConfigDict,
    weights: Mapping[str, Any],
    *,
    log_scale: jax.Array,
    terms: Sequence[str],
) -> dict[str, jax.Array]:
    """Returns the temperature of every key.

    Args:
      config: loss options, `config.loss` of a run.
      weights: loss parameters.
      log_scale: logarithm of the contrastive scale s before it is limited, a scalar.
      terms: active distillation terms.
    """
    # A select instead of a minimum: exactly at the limit, the scale receives its full gradient.
    log_scale = jnp.where(log_scale > config.log_scale_max, config.log_scale_max, log_scale)
    result = {CONTRAST: jnp.exp(-log_scale)}
    fixed = {STUDENT: config.student_temperature, STUDENT_CROSS: config.student_temperature_cross}
    for key, value in fixed.items():
        if config.learn_student_temperature and LEARNED[key] in weights:
            result[key] = jnp.exp(weights[LEARNED[key]])
        elif value:
            result[key] = jnp.asarray(value, dtype=log_scale.dtype)
    for term in terms:
        for target in config.candidates[term]:
            value = teacher_temperature(config, term=term, target=target)
            key = teacher_key(config, term=term, target=target)
            result[key] = jnp.asarray(value, dtype=log_scale.dtype)
    return result
