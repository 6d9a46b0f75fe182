# SPDX-License-Identifier: Apache-2.0
"""Converts the PyTorch checkpoints of OpenShape and Uni3D to Flax and back, without PyTorch."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mrd_jax import models
from mrd_jax.checkpoints import model_card
from mrd_jax.convert import layers, openshape, rules, uni3d
from mrd_jax.models import patch_student

SOURCES = {"openshape": openshape, "uni3d": uni3d}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A converted encoder.

    Attributes:
      model: Flax module of the encoder.
      variables: `params` and `batch_stats`, float32 numpy arrays.
      destinations: path of the leaf by released key, "" for a key that the encoder does not use.
      up_axis: vertical axis of the clouds that the module takes.
    """

    model: nn.Module
    variables: dict[str, Any]
    destinations: dict[str, str]
    up_axis: str = "z"


def from_state_dict(
    state_dict: Mapping[str, np.ndarray],
    *,
    source: str,
    groups: int,
    group_size: int,
    radius: float | None = None,
    heads: int | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Builds the encoder of a released state dict and converts its weights.

    The module takes the clouds of the released one, which have y up for Uni3D and for OpenShape's
    students of CLIP ViT-B/32 and ViT-L/14.

    Args:
      state_dict: array by released key, without the prefix `module.`.
      source: "openshape" or "uni3d".
      groups: number of groups; it does not follow from the shapes.
      group_size: points per group.
      radius: radius of OpenShape's groups, in the units of the points.
      heads: attention heads; None for the head size of the released models.

    Returns:
      The Flax module and its variables, for `model.apply(variables, xyz, rgb)`.

    Raises:
      ValueError: the state dict does not fit the encoder; the message lists every unknown key,
        unfilled leaf and wrong shape. Or an argument is invalid.
    """
    conversion = convert(
        state_dict,
        source=source,
        name=f"the {source} state dict",
        groups=groups,
        group_size=group_size,
        radius=radius,
        heads=heads,
    )
    return conversion.model, conversion.variables


def convert(
    state_dict: Mapping[str, np.ndarray],
    *,
    source: str,
    name: str,
    groups: int | None = None,
    group_size: int | None = None,
    radius: float | None = None,
    heads: int | None = None,
    up_axis: str | None = None,
) -> Conversion:
    """Converts a released state dict like `from_state_dict`, with the destination of every key.

    Args:
      state_dict: array by released key, without the prefix `module.`.
      source: "openshape" or "uni3d".
      name: name of the file, for error messages.
      groups: number of groups; None for that of the published size with these shapes.
      group_size: points per group; likewise.
      radius: radius of OpenShape's groups; likewise.
      heads: attention heads; None for the head size of the released models.
      up_axis: vertical axis of the clouds of the released encoder, "y" or "z"; None for that of the
        published files of this layout.

    Raises:
      ValueError: see `from_state_dict`.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; choose from {sorted(SOURCES)}")
    table = SOURCES[source]
    names = table.canonical(state_dict)
    state = {name: state_dict[key] for key, name in names.items()}
    try:
        fields = table.sizes(state)
    except KeyError as error:
        raise ValueError(
            f"{name} has no key {error}, which every {source} checkpoint has; its first keys are "
            f"{list(state_dict)[:3]}. Is it another model?"
        ) from error
    fields |= _fields_without_shape(
        fields,
        table.published(state_dict),
        {"groups": groups, "group_size": group_size, "radius": radius, "heads": heads},
    )
    model = models.build_model(fields)
    filled = _fill(
        model, _shapes(model), state, rules=table.RULES, ignored=table.IGNORED, source=name
    )
    destinations = {key: filled.destinations.get(names.get(key, ""), "") for key in state_dict}
    up_axis = up_axis or table.up_axis(state_dict)
    return Conversion(model, filled.variables, destinations, up_axis)


def to_state_dict(
    variables: Mapping[str, Any],
    *,
    student: Mapping[str, Any],
    source: str,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Converts an encoder to the state dict of the released PyTorch module.

    The inverse of `convert`, by the same tables: of a converted encoder, all arrays that it uses
    are bit-equal to those of the release.

    Args:
      variables: `params` and `batch_stats` of the encoder.
      student: arguments of `models.build_model` that build the encoder.
      source: "openshape" or "uni3d", the module that will hold the weights. It has one head, the
        contrastive one: a relation head is left out.

    Returns:
      Array by key of the module, complete, and the keys that no array of the encoder fills: they
      are not used, and hold zeros or the initial value.

    Raises:
      ValueError: the module has another architecture.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; choose from {sorted(SOURCES)}")
    table = SOURCES[source]
    own = {"openshape": "point_bert", "uni3d": "uni3d"}[source]
    if student["name"] != own:
        raise ValueError(f"the encoder is a {student['name']}; a module of {source} holds a {own}")
    if fault := table.fault(student):
        raise ValueError(f"a module of {source} cannot hold the encoder: {fault}")
    tree = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), dict(variables))
    tree["params"] = {
        name: leaf
        for name, leaf in tree["params"].items()
        if name != patch_student.RELATION_PROJECTION
    }
    state = rules.invert(layers.unstack(tree), rules=table.RULES, layout=table.layout(student))
    filled = table.unused(student)
    names = table.module_keys(student)
    return {names(key): value for key, value in (state | filled).items()}, list(map(names, filled))


def transformer_from_eva(
    state_dict: Mapping[str, np.ndarray], *, size: str, name: str
) -> Conversion:
    """Converts EVA's image weights, which initialise the transformer of a Uni3D encoder.

    Args:
      state_dict: array by key of timm, complete; patch embedding and head are ignored.
      size: size of the encoder, "ti", "s", "b", "l" or "g".
      name: name of the file, for error messages.

    Returns:
      A conversion with the variables {"params": {"transformer": ..., "norm": ...}} only, for
      `config.initial_weights`; it cannot embed.

    Raises:
      ValueError: the state dict does not fit; the message lists every faulty key and leaf.
    """
    model = models.build_model(models.RELEASED[f"uni3d-{size}"] | {"out_dim": 1024})
    params = _shapes(model)["params"]
    expected = {"params": {part: params[part] for part in ("transformer", "norm")}}
    return _fill(
        model, expected, state_dict, rules=uni3d.BLOCK_RULES, ignored=uni3d.IMAGE_ONLY, source=name
    )


def _fill(
    model: nn.Module, expected: Mapping[str, Any], state: Mapping[str, np.ndarray], **table: Any
) -> Conversion:
    """Fills the expected part of the variables; `table` has the arguments of `rules.apply`."""
    converted = rules.apply(state, expected=layers.unstack_shapes(expected), **table)
    unstacked = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), converted.tree)
    # In C order, so that a copy to a device is not strided.
    variables = jax.tree.map(np.ascontiguousarray, layers.stack(unstacked))
    return Conversion(model, variables, converted.destinations)


def _shapes(model: nn.Module) -> dict[str, Any]:
    return model_card.abstract_variables(model, points=max(model.groups, model.group_size))


def _fields_without_shape(
    fields: dict[str, Any], sizes: Sequence[str], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns the fields that no shape determines: as given, else those of a published size."""
    needed = ["groups", "group_size"] + (["radius"] if fields["name"] == "point_bert" else [])
    given = {key: value for key, value in arguments.items() if value is not None}
    if "radius" in given and "radius" not in needed:
        raise ValueError("radius is for OpenShape's ball groups; uni3d groups nearest neighbours")
    published = [
        models.RELEASED[size]
        for size in sizes
        if all(models.RELEASED[size].get(key, value) == value for key, value in fields.items())
    ]
    missing = sorted(set(needed) - set(given))
    if missing and not published:
        found = {key: value for key, value in fields.items() if key != "name"}
        raise ValueError(f"no published size has {found}; pass {', '.join(missing)}")
    return {key: published[0][key] for key in needed if published} | given
