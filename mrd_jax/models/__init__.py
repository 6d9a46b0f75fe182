# SPDX-License-Identifier: Apache-2.0
"""Student encoders by name: `build_model(config.model)`."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mrd_jax.models import point_bert

MODELS = {"point_bert": point_bert.PointBert}

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

# Fields of config.model that size the batch rather than the model.
_NOT_OF_THE_MODEL = ("name", "points")
_COUNTS = ("dim", "depth", "heads", "mlp_dim", "sa_dim", "groups", "group_size", "out_dim")


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
    if fields.get("name") not in MODELS:
        raise ValueError(f"model.name is {fields.get('name')!r}; choose from {sorted(MODELS)}")
    model = MODELS[fields["name"]]
    _check_names(fields, model)
    _check_values(fields)
    fields["dtype"] = DTYPES[fields.get("dtype", "float32")]
    return model(**{key: fields[key] for key in fields if key not in _NOT_OF_THE_MODEL})


def _check_names(fields: dict[str, Any], model: type[nn.Module]) -> None:
    known = {name for name in model.__dataclass_fields__ if name not in ("parent", "name")}
    unknown = sorted(set(fields) - known - set(_NOT_OF_THE_MODEL))
    if unknown:
        raise ValueError(f"unknown fields {unknown} in model; {fields['name']} has {sorted(known)}")
    optional = {"dtype", "remat", "patch_dropout", "scan"}
    missing = sorted(known - optional - set(fields))
    if missing:
        raise ValueError(f"model lacks the fields {missing} that {fields['name']} needs")


def _check_values(fields: dict[str, Any]) -> None:
    for name in _COUNTS:
        if not isinstance(fields[name], int) or fields[name] < 1:
            raise ValueError(f"model.{name} is {fields[name]!r}; it must be a positive integer")
    if fields["dim"] % fields["heads"]:
        raise ValueError(
            f"model.dim {fields['dim']} does not divide over {fields['heads']} heads;"
            " change model.dim or model.heads"
        )
    if not fields["radius"] > 0:
        raise ValueError(f"model.radius is {fields['radius']!r}; it must be positive")
    if not 0 <= fields.get("patch_dropout", 0.0) < 1:
        raise ValueError(
            f"model.patch_dropout is {fields['patch_dropout']!r}; it must be in [0, 1)"
        )
    if fields.get("dtype", "float32") not in DTYPES:
        raise ValueError(f"model.dtype is {fields['dtype']!r}; choose from {sorted(DTYPES)}")
    if fields["groups"] > fields.get("points", fields["groups"]):
        raise ValueError(
            f"model.groups {fields['groups']} exceeds model.points {fields['points']};"
            " a group needs a point of its own as centre"
        )
