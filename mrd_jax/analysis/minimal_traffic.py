# SPDX-License-Identifier: Apache-2.0
"""Bytes that a training step moves to and from main memory at least, if products are library calls.

The count assumes that each matrix product is a call of a library, which reads its operands and
writes its result once; that attention is one operation, whose scores stay on the chip; and that
what lies between two of these is a single pass over its inputs and outputs. Kernels themselves,
grouping and the losses are small and not counted. Written for a program without hand-written
kernels around the products, such as XLA's on a GPU; docs/gpus.md lists the passes.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mrd_jax.models import point_bert, tokenizer, uni3d

# Passes of AdamW over an array of the parameters' size, in float32: reads the gradient, the
# parameter and both moments, and writes the last three.
OPTIMIZER_PASSES = 7


def count_step(
    model: nn.Module, config: ConfigDict, *, local_batch: int, parameters: int
) -> dict[str, int]:
    """Returns the bytes of a step on each device, by part.

    Args:
      model: student encoder.
      config: experiment config; reads model.points and model.remat.
      local_batch: point clouds per device.
      parameters: number of parameters that a device updates.
    """
    groups = jax.eval_shape(
        lambda xyz, keys: model.choose_centres(xyz, train=True, keys=keys),
        jax.ShapeDtypeStruct((1, config.model.points, 3), jnp.float32),
        jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)),
    ).shape[1]
    size = jnp.dtype(model.dtype).itemsize
    tokens = local_batch * (groups + 1)
    points = local_batch * groups * model.group_size
    layers = _point_layers(model)
    return {
        "tokenizer": size * count_point_layers(
            layers, points=points, group_size=model.group_size, remat=model.remat
        ),
        "transformer": size * tokens * count_blocks(
            model.dim, model.mlp_dim, depth=model.depth, remat=model.remat,
            gates=1 if model.block_options().mlp == "gelu" else 2,
        ),
        "optimizer": 4 * OPTIMIZER_PASSES * parameters,
    }  # fmt: skip


def count_blocks(dim: int, mlp_dim: int, *, depth: int, gates: int, remat: bool) -> int:
    """Returns the elements that the blocks of a transformer move per token.

    Args:
      dim: width of the tokens.
      mlp_dim: hidden width of the MLP.
      depth: number of blocks; the last computes its first token only.
      gates: hidden layers of the MLP: 1, or 2 if it is gated.
      remat: whether all of a block but its attention is computed again.
    """
    hidden = gates * mlp_dim
    # Input and output. Attention reads queries, keys and values.
    products = (dim + 3 * dim) + (dim + dim) + (dim + hidden) + (mlp_dim + dim)
    attention = 3 * dim + dim
    activation = hidden + mlp_dim
    # Adds a branch to the residual and normalises the sum: two arrays in, two out; twice.
    sums = 2 * 4 * dim
    forward = products + attention + activation + sums
    # Products of the gradient with kernel and input; attention reads five arrays, writes three; the
    # activation reads its input and a gradient, writes one; the sums read three, write one.
    backward = 2 * products + 8 * dim + (2 * hidden + mlp_dim) + 2 * 4 * dim
    # Not the attention, and nothing after the activation.
    recomputed = forward - attention - (mlp_dim + dim) - sums // 2 if remat else 0
    # Keys and values of all tokens for one query: norm, product and attention.
    last = (2 + 3 + 2) * dim + (4 + 2 * 3 + 4) * dim + ((2 + 3) * dim if remat else 0)
    return (depth - 1) * (forward + backward + recomputed) + last


def count_point_layers(
    layers: Sequence[tuple[int, int, bool]], *, points: int, group_size: int, remat: bool
) -> int:
    """Returns the elements that the layers of a tokenizer move.

    Args:
      layers: inputs and outputs of each, and whether the result is the maximum over the group.
      points: number of points in all groups.
      group_size: points of a group.
      remat: whether the layers are computed again.
    """
    total = points * layers[0][0]  # written by the gather
    for number, (inputs, outputs, pooled) in enumerate(layers):
        product = points * inputs + points * outputs // (group_size if pooled else 1)
        moments = points * inputs
        # The coordinates have no gradient, the other inputs have.
        total += product + moments + product * (2 if number else 1) + product * remat
    return total


def _point_layers(model: nn.Module) -> list[tuple[int, int, bool]]:
    if isinstance(model, point_bert.PointBert):
        first, second = tokenizer.HIDDEN
        return [(9, first, False), (first, second, False), (second, model.sa_dim, True)]
    if isinstance(model, uni3d.Uni3D):
        width, joined = tokenizer.POINT_WIDTH, tokenizer.JOINED_WIDTH
        return [
            (6, width, False), (width, tokenizer.LOCAL_WIDTH, True), (width, joined, False),
            (joined, model.encoder_dim, True),
        ]  # fmt: skip
    raise TypeError(f"no layers are listed for {type(model).__name__}; expected PointBert or Uni3D")
