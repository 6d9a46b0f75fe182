# SPDX-License-Identifier: Apache-2.0
"""Counts the floating-point operations of matrix products, of a model and of a traced program.

A product of [rows, inputs] with [inputs, outputs] takes 2 x rows x inputs x outputs operations.
Everything else (sampling, norms, softmax, the optimizer) does not use the matrix units and is not
counted.
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


def count_matmul(rows: int, inputs: int, outputs: int) -> int:
    """Returns the operations of [rows, inputs] @ [inputs, outputs]."""
    return 2 * rows * inputs * outputs


def count_student(model: nn.Module, *, points: int, train: bool = True) -> dict[str, int]:
    """Returns the operations of the forward pass of one point cloud, by part.

    Args:
      model: student encoder.
      points: number of points in the cloud.
      train: whether patch dropout is applied, which skips groups.

    Returns:
      Operations of "tokenizer", "transformer" and "maps" (lift, position and projection). "first"
      counts the layers whose input is coordinates; it is included in the other entries.
    """
    groups = jax.eval_shape(
        lambda xyz, keys: model.choose_centres(xyz, train=train, keys=keys),
        jax.ShapeDtypeStruct((1, points, 3), jnp.float32),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    ).shape[1]
    encoder = {point_bert.PointBert: _count_set_abstraction, uni3d.Uni3D: _count_mini_point_net}[
        type(model)
    ]
    tokens, maps, first = encoder(model, groups)
    heads = 1 if model.relation_head == "none" else 2
    return {
        "tokenizer": tokens,
        "transformer": count_transformer(model, tokens=groups + 1),
        "maps": maps + heads * count_matmul(1, model.dim, model.out_dim),
        "first": first,
    }


def count_transformer(model: nn.Module, *, tokens: int) -> int:
    """Returns the operations of all blocks on one cloud; the last has the class token as query."""
    dim, mlp_dim = model.dim, model.mlp_dim
    gates = 1 if model.block_options().mlp == "gelu" else 2

    def block(queries: int) -> int:
        query, key_and_value = count_matmul(queries, dim, dim), count_matmul(tokens, dim, 2 * dim)
        scores = mixture = count_matmul(queries, dim, tokens)  # over all heads
        output = count_matmul(queries, dim, dim)
        mlp = count_matmul(queries, dim, gates * mlp_dim) + count_matmul(queries, mlp_dim, dim)
        return query + key_and_value + scores + mixture + output + mlp

    return (model.depth - 1) * block(tokens) + block(1)


def count_losses(config: ConfigDict, *, local_batch: int, dim: int, chips: int) -> int:
    """Returns the operations of the similarity matrices of the objective, forward and backward.

    R^XY and R^YX are one matrix and its transpose, so each pair of modalities counts once. The
    teacher has no gradient: a pair of teacher modalities takes one product (forward), a pair of
    student and teacher two, and the student with itself three.

    Args:
      config: `config.loss` of a run.
      local_batch: samples per device.
      dim: embedding dimension.
      chips: number of devices.
    """
    pairs = {"PV"} if config.image_weight else set()
    pairs |= {"PT"} if config.text_weight else set()
    for term in options.active_terms(config):
        pairs |= {options.STUDENT[term], *config.candidates[term]}
    distinct = {"".join(sorted(pair)) for pair in pairs}
    passes = sum(1 + pair.count("P") for pair in distinct)
    return passes * count_matmul(local_batch, dim, local_batch * chips)


def count_step(
    model: nn.Module, config: ConfigDict, *, local_batch: int, chips: int
) -> dict[str, int]:
    """Returns the operations that a training step needs at least on each chip, by part.

    The backward pass takes two products for each product of the forward pass, except for layers
    whose input is coordinates, which need no gradient. Recomputation (remat) is not counted.

    Args:
      model: student encoder.
      config: experiment config.
      local_batch: point clouds per chip.
      chips: number of chips.
    """
    forward = count_student(model, points=config.model.points)
    first = forward.pop("first")
    parts = {name: 3 * local_batch * count for name, count in forward.items()}
    # All of these are in the tokenizer, except for Uni3D's small position embedding.
    parts["tokenizer"] -= local_batch * first
    parts["losses"] = count_losses(
        config.loss, local_batch=local_batch, dim=config.model.out_dim, chips=chips
    )
    return parts


def count_program(jaxpr: Any) -> int:
    """Returns the operations of the matrix products in a traced program, recomputation included.

    The body of a loop of known length is multiplied by its trip count; of the branches of a
    conditional, the most expensive one is counted.

    Args:
      jaxpr: `jax.stages.Traced.jaxpr`, or a jaxpr inside it; per device under `shard_map`.
    """
    total = 0
    for equation in getattr(jaxpr, "jaxpr", jaxpr).eqns:
        inner = [count_program(sub) for sub in _sub_jaxprs(equation.params)]
        if equation.primitive.name == "dot_general":
            left, right = (variable.aval.shape for variable in equation.invars)
            (contracted, _), (batch, _) = equation.params["dimension_numbers"]
            inputs = math.prod(left[axis] for axis in contracted)
            shared = math.prod(left[axis] for axis in batch)
            total += shared * count_matmul(
                math.prod(left) // (inputs * shared), inputs, math.prod(right) // (inputs * shared)
            )
        elif equation.primitive.name == "cond":
            total += max(inner)
        elif equation.primitive.name == "pallas_call":
            total += sum(inner) * math.prod(equation.params["grid_mapping"].grid)
        else:
            total += sum(inner) * equation.params.get("length", 1)
    return total


def _sub_jaxprs(params: dict[str, Any]) -> Iterator[Any]:
    """Yields the jaxprs among the parameters of an equation."""
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(item, "eqns") or hasattr(item, "jaxpr"):
                yield item


def _count_set_abstraction(model: point_bert.PointBert, groups: int) -> tuple[int, int, int]:
    """Counts OpenShape's tokenizer: three layers per point, and a lift of token and centre."""
    points = groups * model.group_size
    widths = (9, *tokenizer.HIDDEN, model.sa_dim)
    maps = [count_matmul(points, *pair) for pair in itertools.pairwise(widths)]
    return sum(maps), count_matmul(groups, model.sa_dim + 3, model.dim), maps[0]


def _count_mini_point_net(model: uni3d.Uni3D, groups: int) -> tuple[int, int, int]:
    """Counts Uni3D's tokenizer, factored as in `tokenizer.MiniPointNet`, and its positions."""
    points = groups * model.group_size
    first = count_matmul(points, 6, tokenizer.POINT_WIDTH)
    position = count_matmul(groups, 3, uni3d.POSITION_WIDTH)
    encode = (
        first
        + count_matmul(points, tokenizer.POINT_WIDTH, tokenizer.LOCAL_WIDTH)
        + count_matmul(points, tokenizer.POINT_WIDTH, tokenizer.JOINED_WIDTH)
        + count_matmul(groups, tokenizer.LOCAL_WIDTH, tokenizer.JOINED_WIDTH)
        + count_matmul(points, tokenizer.JOINED_WIDTH, model.encoder_dim)
    )
    lift = count_matmul(groups, model.encoder_dim, model.dim)
    maps = lift + position + count_matmul(groups, uni3d.POSITION_WIDTH, model.dim)
    return encode, maps, first + position
