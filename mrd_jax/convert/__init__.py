# SPDX-License-Identifier: Apache-2.0
"""The peers' PyTorch checkpoints as Flax students, key by key and without PyTorch."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from mrd_jax import models
from mrd_jax.checkpoints import model_card
from mrd_jax.convert import layers, openshape, rules, uni3d

SOURCES = {"openshape": openshape, "uni3d": uni3d}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A student with its weights, and where they came from.

    Attributes:
      model: the student.
      variables: `params` and `batch_stats`, float32 numpy arrays.
      destinations: released key -> path of its leaf, "" where the student has no use for it.
    """

    model: nn.Module
    variables: dict[str, Any]
    destinations: dict[str, str]


def from_state_dict(
    state_dict: Mapping[str, np.ndarray],
    *,
    source: str,
    groups: int,
    group_size: int,
    radius: float | None = None,
    heads: int | None = None,
) -> tuple[nn.Module, dict[str, Any]]:
    """Build the student that a released state dict belongs to, and fill it.

    Args:
      state_dict: released key (without the `module.` prefix) -> array.
      source: "openshape" or "uni3d".
      groups: number of groups, which no shape tells.
      group_size: points per group.
      radius: of OpenShape's groups, in the units of the points.
      heads: of attention; the released head sizes where left out.

    Returns:
      The student and its variables: `model.apply(variables, xyz, rgb)`.

    Raises:
      ValueError: naming every key without a place, every leaf that nothing fills, every wrong
        shape; or an argument that does not fit.
    """
    done = convert(
        state_dict,
        source=source,
        name=f"the {source} state dict",
        groups=groups,
        group_size=group_size,
        radius=radius,
        heads=heads,
    )
    return done.model, done.variables


def convert(
    state_dict: Mapping[str, np.ndarray],
    *,
    source: str,
    name: str,
    groups: int | None = None,
    group_size: int | None = None,
    radius: float | None = None,
    heads: int | None = None,
) -> Conversion:
    """As `from_state_dict`, with an account of every key.

    Args:
      state_dict: released key (without the `module.` prefix) -> array.
      source: "openshape" or "uni3d".
      name: of the file, for errors.
      groups: number of groups; left out, the published size with these shapes tells.
      group_size: points per group; likewise.
      radius: of OpenShape's groups; likewise.
      heads: of attention; the released head sizes where left out.

    Raises:
      ValueError: as `from_state_dict`.
    """
    if source not in SOURCES:
        raise ValueError(f"source is {source!r}; choose from {sorted(SOURCES)}")
    table = SOURCES[source]
    try:
        fields = table.sizes(state_dict)
    except KeyError as error:
        raise ValueError(
            f"{name} has no key {error}, which every {source} checkpoint has; it starts with "
            f"{list(state_dict)[:3]}. Is it another model?"
        ) from error
    fields |= _untold(fields, groups=groups, group_size=group_size, radius=radius, heads=heads)
    model = models.build_model(fields)
    return _fill(
        model,
        _shapes(model),
        state_dict,
        rules=table.RULES,
        ignored=table.IGNORED,
        source=name,
    )


def transformer_from_eva(
    state_dict: Mapping[str, np.ndarray], *, size: str, name: str
) -> Conversion:
    """The part of a Uni3D student that EVA's image weights initialise.

    Args:
      state_dict: key of timm -> array, whole (with patch embedding and head, which are left out).
      size: of the student, "ti", "s", "b", "l" or "g".
      name: of the file, for errors.

    Returns:
      A conversion whose variables are {"params": {"transformer": ..., "norm": ...}} alone: for
      `config.initial_weights`, not for embedding.

    Raises:
      ValueError: naming every key and leaf that does not fit.
    """
    model = models.build_model(models.RELEASED[f"uni3d-{size}"] | {"out_dim": 1024})
    params = _shapes(model)["params"]
    wanted = {"params": {part: params[part] for part in ("transformer", "norm")}}
    return _fill(
        model, wanted, state_dict, rules=uni3d.BLOCK_RULES, ignored=uni3d.IMAGE_ONLY, source=name
    )


def _fill(
    model: nn.Module, wanted: Mapping[str, Any], state: Mapping[str, np.ndarray], **table: Any
) -> Conversion:
    """Fills the wanted part of a student's variables; `table` as `rules.apply` takes it."""
    done = rules.apply(state, expected=layers.unstack_shapes(wanted), **table)
    single = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), done.tree)
    # In C order, so that every copy to a device is a plain one.
    variables = jax.tree.map(np.ascontiguousarray, layers.stack(single))
    return Conversion(model, variables, done.destinations)


def _shapes(model: nn.Module) -> dict[str, Any]:
    return model_card.abstract_variables(model, points=max(model.groups, model.group_size))


def _untold(fields: dict[str, Any], **given: Any) -> dict[str, Any]:
    """The fields that shapes do not tell: as given, else those of the published size."""
    needed = ["groups", "group_size"] + (["radius"] if fields["name"] == "point_bert" else [])
    alike = [
        released
        for released in models.RELEASED.values()
        if all(released[key] == value for key, value in fields.items() if key in released)
        and released["name"] == fields["name"]
    ]
    known = {key: value for key, value in given.items() if value is not None}
    if set(needed) - set(known) and not alike:
        sizes = {key: value for key, value in fields.items() if key != "name"}
        raise ValueError(
            f"no published size has {sizes}; give {', '.join(sorted(set(needed) - set(known)))}"
        )
    if "radius" in known and "radius" not in needed:
        raise ValueError("radius is a matter of OpenShape's balls; uni3d groups nearest neighbours")
    return {key: alike[0][key] for key in needed if alike} | known
