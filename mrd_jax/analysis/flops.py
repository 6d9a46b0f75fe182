# SPDX-License-Identifier: Apache-2.0
"""Floating-point operations of matrix products: what the model needs, what a program asks for.

One product of [rows, inputs] with [inputs, outputs] is 2 rows x inputs x outputs operations. All
else (sampling, norms, softmax, the optimizer) is left out: it does not use the matrix units.
"""

import itertools
import math
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mrd_jax.losses import options
from mrd_jax.models import point_bert, tokenizer, uni3d


def product(rows: int, inputs: int, outputs: int) -> int:
    """Operations of one matrix product."""
    return 2 * rows * inputs * outputs


def student(model: nn.Module, *, points: int, train: bool = True) -> dict[str, int]:
    """Operations of one cloud through the student, forward, by part.

    Args:
      model: the student.
      points: of the cloud.
      train: with patch dropout, which leaves out groups.

    Returns:
      "tokenizer", "transformer" and "maps": lift, position and projection; "first" is what the
      maps that read coordinates take, which is in the other terms already.
    """
    groups = jax.eval_shape(
        lambda xyz, keys: model.choose_centres(xyz, train=train, keys=keys),
        jax.ShapeDtypeStruct((1, points, 3), jnp.float32),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    ).shape[1]
    encoder = {point_bert.PointBert: _set_abstraction, uni3d.Uni3D: _mini_point_net}[type(model)]
    tokens, maps, first = encoder(model, groups)
    return {
        "tokenizer": tokens,
        "transformer": transformer(model, tokens=groups + 1),
        "maps": maps + product(1, model.dim, model.out_dim),
        "first": first,
    }


def transformer(model: nn.Module, *, tokens: int) -> int:
    """Blocks over the tokens of one cloud; the last block answers the first token only."""
    dim, mlp_dim = model.dim, model.mlp_dim
    gates = 1 if model.block_options().mlp == "gelu" else 2

    def block(queries: int) -> int:
        query, key_and_value = product(queries, dim, dim), product(tokens, dim, 2 * dim)
        scores = mixture = product(queries, dim, tokens)  # over all heads
        output = product(queries, dim, dim)
        mlp = product(queries, dim, gates * mlp_dim) + product(queries, mlp_dim, dim)
        return query + key_and_value + scores + mixture + output + mlp

    return (model.depth - 1) * block(tokens) + block(1)


def losses(config: ConfigDict, *, local_batch: int, dim: int, chips: int) -> int:
    """Products of all pairs of modalities that the objective uses, forward and backward.

    R^XY and R^YX are one matrix and its transpose, so each pair of modalities counts once. The
    teacher has no gradient: a pair without the student is only computed, one with it once more to
    go back, and the student with itself twice more.

    Args:
      config: the loss options.
      local_batch: rows of one device.
      dim: length of the embeddings.
      chips: devices of the run.
    """
    pairs = {"PV"} if config.image_weight else set()
    pairs |= {"PT"} if config.text_weight else set()
    for term in options.active_terms(config):
        pairs |= {options.STUDENT[term], *config.candidates[term]}
    distinct = {"".join(sorted(pair)) for pair in pairs}
    passes = sum(1 + pair.count("P") for pair in distinct)
    return passes * product(local_batch, dim, local_batch * chips)


def step(model: nn.Module, config: ConfigDict, *, local_batch: int, chips: int) -> dict[str, int]:
    """What one step takes at least on each chip, by part.

    Backward takes two products for each one forward, except where the inputs are coordinates,
    which need no gradient. Nothing is computed twice.

    Args:
      model: the student.
      config: of the run.
      local_batch: clouds of one chip.
      chips: of the run.
    """
    forward = student(model, points=config.model.points)
    first = forward.pop("first")
    parts = {name: 3 * local_batch * count for name, count in forward.items()}
    # These are the tokenizer's, but for Uni3D's small map of positions.
    parts["tokenizer"] -= local_batch * first
    parts["losses"] = losses(
        config.loss, local_batch=local_batch, dim=config.model.out_dim, chips=chips
    )
    return parts


def of_program(jaxpr: Any) -> int:
    """Products that a traced program asks for, with those that it computes anew to go back.

    Loops of known length count all their rounds, of a choice between branches the costliest one.

    Args:
      jaxpr: of `jax.stages.Traced.jaxpr`, or one inside it; under `shard_map`, of one device.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = [of_program(one) for one in _inside(equation.params)]
        if equation.primitive.name == "dot_general":
            left, right = (variable.aval.shape for variable in equation.invars)
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            inputs = math.prod(left[axis] for axis in contracted)
            shared = math.prod(left[axis] for axis in batch)
            total += shared * product(
                math.prod(left) // (inputs * shared), inputs, math.prod(right) // (inputs * shared)
            )
        elif equation.primitive.name == "cond":
            total += max(inner)
        elif equation.primitive.name == "pallas_call":
            total += sum(inner) * math.prod(equation.params["grid_mapping"].grid)
        else:
            total += sum(inner) * equation.params.get("length", 1)
    return total


def _inside(params: dict[str, Any]) -> Iterator[Any]:
    """The programs among an equation's parameters."""
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if hasattr(one, "eqns") or hasattr(one, "jaxpr"):
                yield one


def _set_abstraction(model: point_bert.PointBert, groups: int) -> tuple[int, int, int]:
    """OpenShape: three maps of every point; the lift takes the centre beside the token."""
    points = groups * model.group_size
    widths = (9, *tokenizer.HIDDEN, model.sa_dim)
    maps = [product(points, *pair) for pair in itertools.pairwise(widths)]
    return sum(maps), product(groups, model.sa_dim + 3, model.dim), maps[0]


def _mini_point_net(model: uni3d.Uni3D, groups: int) -> tuple[int, int, int]:
    """Uni3D, multiplied out as `tokenizer.MiniPointNet` says, and the map of positions."""
    points = groups * model.group_size
    first = product(points, 6, tokenizer.POINT_WIDTH)
    position = product(groups, 3, uni3d.POSITION_WIDTH)
    encode = (
        first
        + product(points, tokenizer.POINT_WIDTH, tokenizer.LOCAL_WIDTH)
        + product(points, tokenizer.POINT_WIDTH, tokenizer.JOINED_WIDTH)
        + product(groups, tokenizer.LOCAL_WIDTH, tokenizer.JOINED_WIDTH)
        + product(points, tokenizer.JOINED_WIDTH, model.encoder_dim)
    )
    lift = product(groups, model.encoder_dim, model.dim)
    maps = lift + position + product(groups, uni3d.POSITION_WIDTH, model.dim)
    return encode, maps, first + position
