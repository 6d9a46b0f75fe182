# SPDX-License-Identifier: Apache-2.0
"""Student encoders; `build_model(config.model)` builds one by name."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mrd_jax.kernels import attention
from mrd_jax.models import grouping, point_bert, transformer, uni3d

MODELS = {"point_bert": point_bert.PointBert, "uni3d": uni3d.Uni3D}

# Fields of the published student encoders, except for `out_dim`.
RELEASED = {
    f"openshape-{number}": {"name": "point_bert", **fields}
    for number, fields in point_bert.SCALINGS.items()
} | {f"uni3d-{name}": {"name": "uni3d", **fields} for name, fields in uni3d.SIZES.items()}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Allowed values of fields.
CHOICES = {
    "attention": attention.IMPLEMENTATIONS,
    "dtype": tuple(DTYPES),
    "mlp": transformer.MLPS,
    "patch_choice": grouping.CENTRE_CHOICES,
}
_RATES = ("patch_dropout", "drop_path")
# Fields of config.model that are not fields of the module.
_CONFIG_ONLY = ("name", "points")
# Fields of the modules that are not fields of config.model.
MODULE_ONLY = ("parent", "name", "gather")


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """Builds a student encoder from `config.model`.

    Args:
      config: `name`, a key of `MODELS`, and the fields of that class, with `dtype` as "float32" or
        "bfloat16". `points`, if present, is the number of points per point cloud.

    Returns:
      A Flax module; `apply(variables, xyz, rgb, train=False, axis_name=None, keys=None)` maps point
      clouds to embeddings, [local_batch, out_dim].

    Raises:
      ValueError: a field is unknown, missing or invalid; the message has the field, its value and
        the allowed values.
    """
    fields = dict(config)
    if not isinstance(fields.get("name"), str) or fields["name"] not in MODELS:
        raise ValueError(
            f"config.model.name is {fields.get('name')!r}; expected one of {sorted(MODELS)}"
        )
    model = MODELS[fields["name"]]
    _check_names(fields, model)
    _check_values(fields, model)
    fields["dtype"] = DTYPES[fields.get("dtype", "float32")]
    return model(**{key: fields[key] for key in fields if key not in _CONFIG_ONLY})


def _check_names(fields: dict[str, Any], model: type[nn.Module]) -> None:
    own = [field for field in dataclasses.fields(model) if field.name not in MODULE_ONLY]
    allowed = {field.name for field in own}
    unknown = sorted(set(fields) - allowed - set(_CONFIG_ONLY))
    if unknown:
        raise ValueError(
            f"config.model has unknown fields {unknown}; {fields['name']} has {sorted(allowed)}"
        )
    required = {field.name for field in own if field.default is dataclasses.MISSING}
    missing = sorted(required - set(fields))
    if missing:
        raise ValueError(
            f"config.model lacks the fields {missing}, which {fields['name']} requires"
        )


def _has_type(value: Any, kind: type) -> bool:
    """Returns whether a value has a type; an int is a float, and a bool is no int."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _check_values(fields: dict[str, Any], model: type[nn.Module]) -> None:
    for field in dataclasses.fields(model):
        name, value = field.name, fields.get(field.name, field.default)
        minimum = 0 if name == "micro_batch" else 1
        if field.type is int and (not _has_type(value, int) or value < minimum):
            raise ValueError(f"config.model.{name} is {value!r}; expected an integer >= {minimum}")
        if field.type in (float, bool, str) and not _has_type(value, field.type):
            raise ValueError(f"config.model.{name} is {value!r}; expected a {field.type.__name__}")
        if name in _RATES and not 0 <= value < 1:
            raise ValueError(f"config.model.{name} is {value!r}; expected a number in [0, 1)")
        if name in CHOICES and name in fields and value not in CHOICES[name]:
            raise ValueError(
                f"config.model.{name} is {value!r}; expected one of {sorted(CHOICES[name])}"
            )
        if name == "radius" and not value > 0:
            raise ValueError(f"config.model.radius is {value!r}; expected a number > 0")
    # Other architectures need not have heads or groups.
    if "heads" in fields and fields["dim"] % fields["heads"]:
        raise ValueError(
            f"config.model.dim is {fields['dim']}; expected a multiple of config.model.heads, "
            f"{fields['heads']}"
        )
    if fields.get("groups", 0) > fields.get("points", math.inf):
        raise ValueError(
            f"config.model.groups is {fields['groups']}; expected at most config.model.points, "
            f"{fields['points']}, since every group has a point as its centre"
        )
