# SPDX-License-Identifier: Apache-2.0
"""Student encoders; `build_model(config.model)` builds one by name."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mrd_jax.kernels import attention
from mrd_jax.models import grouping, patch_student, point_bert, transformer, uni3d

MODELS = {"point_bert": point_bert.PointBert, "uni3d": uni3d.Uni3D}

# Fields of the published student encoders, except for `out_dim`.
RELEASED = {
    f"openshape-{number}": {"name": "point_bert", **fields}
    for number, fields in (point_bert.SCALINGS | point_bert.CLIP_STUDENTS).items()
} | {f"uni3d-{name}": {"name": "uni3d", **fields} for name, fields in uni3d.SIZES.items()}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Allowed values of fields.
CHOICES = {
    "attention": attention.IMPLEMENTATIONS,
    "dtype": tuple(DTYPES),
    "mlp": transformer.MLPS,
    "patch_choice": grouping.CENTRE_CHOICES,
    "relation_head": patch_student.RELATION_HEADS,
}
_RATES = ("patch_dropout", "drop_path")
# Fields of config.model that are not fields of the module.
_CONFIG_ONLY = ("name", "points")
# Fields of the modules that are not fields of config.model.
MODULE_ONLY = ("parent", "name", "all_heads", "gather", "save_attention")


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
    if faults := find_faults(config):
        raise ValueError("\n".join(faults))
    fields = dict(config)
    fields["dtype"] = DTYPES[fields.get("dtype", "float32")]
    model = MODELS[fields["name"]]
    return model(**{key: fields[key] for key in fields if key not in _CONFIG_ONLY})


def find_faults(config: Mapping[str, Any]) -> list[str]:
    """Checks every field of `config.model`.

    Args:
      config: as `build_model` takes it.

    Returns:
      A message per fault, with the field, its value and the allowed values.
    """
    fields = dict(config)
    if not isinstance(fields.get("name"), str) or fields["name"] not in MODELS:
        return [f"config.model.name is {fields.get('name')!r}; expected one of {sorted(MODELS)}"]
    own = {
        field.name: field
        for field in dataclasses.fields(MODELS[fields["name"]])
        if field.name not in MODULE_ONLY
    }
    faults = [
        f"config.model.{name} is not a field of {fields['name']}; it has {', '.join(sorted(own))}"
        for name in sorted(set(fields) - set(own) - set(_CONFIG_ONLY))
    ]
    faults += [
        f"config.model.{name} is missing, and {fields['name']} requires it"
        for name, field in sorted(own.items())
        if field.default is dataclasses.MISSING and name not in fields
    ]
    if not faults:
        faults = [
            f"config.model.{name} is {fields[name]!r}; expected {expected}"
            for name in sorted(fields)
            if (expected := _expected(name, fields[name], own))
        ]
    return faults or _relation_faults(fields)


def check_attention(config: Mapping[str, Any], *, platform: str = "") -> None:
    """Checks that `config.model.attention` supports sizes and dtype, and that a platform has it.

    Args:
      config: as `build_model` takes it, without faults.
      platform: as in `attention.check`.

    Raises:
      ValueError: it does not.
    """
    if {"attention", "heads", "groups"} <= set(config):
        attention.check(
            config["attention"],
            dim=config["dim"],
            heads=config["heads"],
            tokens=config["groups"] + 1,
            dtype=DTYPES[config.get("dtype", "float32")],
            platform=platform,
        )


def has_relation_head(config: Mapping[str, Any]) -> bool:
    """Returns whether a student has a head of its own for the relations.

    Args:
      config: as `build_model` takes it; other architectures need not have the field.
    """
    return config.get("relation_head", "none") != "none"


def uses_cudnn(config: Mapping[str, Any], *, platform: str) -> bool:
    """Returns whether `config.model.attention` is cuDNN's on a platform.

    Args:
      config: as `build_model` takes it, without faults.
      platform: as in `attention.check`.
    """
    choices = attention.choices(
        dim=config["dim"],
        heads=config["heads"],
        tokens=config["groups"] + 1,
        dtype=DTYPES[config.get("dtype", "float32")],
    )
    chosen = config.get("attention", "auto")
    return (choices.get(platform) if chosen == "auto" else chosen) == "cudnn"


def _expected(name: str, value: Any, own: Mapping[str, dataclasses.Field]) -> str:
    """Describes the values that a field may take; "" if the value is one of them."""
    kind = own[name].type if name in own else {"points": int}.get(name)
    minimum = 0 if name == "micro_batch" else 1
    expected = ""
    if kind is int and (not _has_type(value, int) or value < minimum):
        expected = f"an integer, at least {minimum}"
    elif kind in (float, bool, str) and not _has_type(value, kind):
        expected = f"a {kind.__name__}"
    elif name in _RATES and not 0 <= value < 1:
        expected = "a number in [0, 1)"
    elif name in CHOICES and value not in CHOICES[name]:
        expected = f"one of {sorted(CHOICES[name])}"
    elif name == "radius" and not value > 0:
        expected = "a number, greater than 0"
    return expected


def _has_type(value: Any, kind: type) -> bool:
    """Returns whether a value has a type: an int counts as a float, a bool as neither."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def _relation_faults(fields: Mapping[str, Any]) -> list[str]:
    """Checks fields against each other; other architectures need not have heads or groups."""
    faults = []
    if "heads" in fields and fields["dim"] % fields["heads"]:
        faults.append(
            f"config.model.dim is {fields['dim']}; expected a multiple of config.model.heads, "
            f"{fields['heads']}"
        )
    if not fields.get("projection", True) and fields["dim"] != fields["out_dim"]:
        faults.append(
            f"config.model.out_dim is {fields['out_dim']}; expected config.model.dim, "
            f"{fields['dim']}, since config.model.projection is False"
        )
    if fields.get("groups", 0) > fields.get("points", math.inf):
        faults.append(
            f"config.model.groups is {fields['groups']}; expected at most config.model.points, "
            f"{fields['points']}, since every group has a point as its centre"
        )
    if not faults:
        try:
            check_attention(fields)
        except ValueError as error:
            faults.append(str(error))
    return faults
