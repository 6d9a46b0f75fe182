# SPDX-License-Identifier: Apache-2.0
"""Student encoders by name: `build_model(config.model)`."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mrd_jax.kernels import attention
from mrd_jax.models import grouping, point_bert, transformer, uni3d

MODELS = {"point_bert": point_bert.PointBert, "uni3d": uni3d.Uni3D}

# Fields of the published students, all but `out_dim`.
RELEASED = {
    f"openshape-{number}": {"name": "point_bert", **fields}
    for number, fields in point_bert.SCALINGS.items()
} | {f"uni3d-{name}": {"name": "uni3d", **fields} for name, fields in uni3d.SIZES.items()}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

CHOICES = {
    "attention": attention.WAYS,
    "dtype": tuple(DTYPES),
    "mlp": transformer.MLPS,
    "patch_choice": grouping.CENTRE_CHOICES,
}
_SHARES = ("patch_dropout", "drop_path")
# Fields of config.model that size the batch rather than the model.
_NOT_OF_THE_MODEL = ("name", "points")
# Fields of the modules that no config sets.
NOT_OF_A_CONFIG = ("parent", "name", "gather")


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """Build the student that `config.model` describes.

    Args:
      config: name, and the model's own fields (see the module class); `dtype` is "float32" or
        "bfloat16". `points`, where given, is the size of the clouds the model will see.

    Returns:
      A Flax module: `apply(variables, xyz, rgb, train=False, axis_name=None, keys=None)` maps
      clouds to [local_batch, out_dim].

    Raises:
      ValueError: naming the field, what it holds and what it may hold.
    """
    fields = dict(config)
    if not isinstance(fields.get("name"), str) or fields["name"] not in MODELS:
        raise ValueError(f"model.name is {fields.get('name')!r}; choose from {sorted(MODELS)}")
    model = MODELS[fields["name"]]
    _check_names(fields, model)
    _check_values(fields, model)
    fields["dtype"] = DTYPES[fields.get("dtype", "float32")]
    return model(**{key: fields[key] for key in fields if key not in _NOT_OF_THE_MODEL})


def _check_names(fields: dict[str, Any], model: type[nn.Module]) -> None:
    own = [field for field in dataclasses.fields(model) if field.name not in NOT_OF_A_CONFIG]
    known = {field.name for field in own}
    unknown = sorted(set(fields) - known - set(_NOT_OF_THE_MODEL))
    if unknown:
        raise ValueError(f"unknown fields {unknown} in model; {fields['name']} has {sorted(known)}")
    needed = {field.name for field in own if field.default is dataclasses.MISSING}
    missing = sorted(needed - set(fields))
    if missing:
        raise ValueError(f"model lacks the fields {missing} that {fields['name']} needs")


def _is(value: Any, kind: type) -> bool:
    """Whether a value of a config, or of a card, may stand where `kind` is wanted."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _check_values(fields: dict[str, Any], model: type[nn.Module]) -> None:
    for field in dataclasses.fields(model):
        name, value = field.name, fields.get(field.name, field.default)
        least = 0 if name == "micro_batch" else 1
        if field.type is int and (not _is(value, int) or value < least):
            raise ValueError(f"model.{name} is {value!r}; it must be an integer, at least {least}")
        if field.type in (float, bool, str) and not _is(value, field.type):
            raise ValueError(f"model.{name} is {value!r}; it must be a {field.type.__name__}")
        if name in _SHARES and not 0 <= value < 1:
            raise ValueError(f"model.{name} is {value!r}; it must be in [0, 1)")
        if name in CHOICES and name in fields and value not in CHOICES[name]:
            raise ValueError(f"model.{name} is {value!r}; choose from {sorted(CHOICES[name])}")
        if name == "radius" and not value > 0:
            raise ValueError(f"model.radius is {value!r}; it must be positive")
    # A student of another build need not have heads or groups.
    if "heads" in fields and fields["dim"] % fields["heads"]:
        raise ValueError(
            f"model.dim {fields['dim']} does not divide over {fields['heads']} heads;"
            " change model.dim or model.heads"
        )
    if fields.get("groups", 0) > fields.get("points", math.inf):
        raise ValueError(
            f"model.groups {fields['groups']} exceeds model.points {fields['points']};"
            " a group needs a point of its own as centre"
        )
