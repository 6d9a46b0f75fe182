# SPDX-License-Identifier: Apache-2.0
"""Self-attention of short sequences as TPU kernels: whole rows of scores, in vector memory only.

One program is one cloud, all heads. It reads the packed queries, keys and values as the product
with the kernel wrote them; scores never reach main memory, and the backward pass computes them
anew. Heads are 64 wide, so two share the 128 lanes of a register: what belongs to the other head
is masked rather than moved, which costs a matrix unit nothing. In the product of weights and
values the masked half holds ones, and so returns the sums of the weights.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

# Width of a head, and lanes of a register, which hold a pair of heads.
WIDTH, LANES = 64, 128
# Bytes of vector memory that a program may take: the smallest of the generations have 16 MiB.
VECTOR_MEMORY = 15 * 2**20


def applies(*, dim: int, heads: int, tokens: int, itemsize: int) -> bool:
    """Whether the kernels take these sizes; `itemsize` is bytes of a number."""
    # Of the backward pass: what eight rows of `dim` hold for each token, twice, so that the next
    # cloud arrives meanwhile; and four float32 matrices of scores.
    memory = 2 * 8 * tokens * dim * itemsize + 4 * 4 * tokens * tokens
    return dim == heads * WIDTH and heads % 2 == 0 and memory <= VECTOR_MEMORY


def forward(
    packed: jax.Array, *, heads: int, interpret: bool = False
) -> tuple[jax.Array, jax.Array]:
    """Mixes values.

    Args:
      packed: [batch, tokens, 3 * dim], queries, keys and values.
      heads: of each.
      interpret: run as ordinary JAX, on any device.

    Returns:
      [batch, tokens, dim] in the type of `packed`, and float32 [batch, heads, tokens], logarithms
      of the sums that normalise the weights.
    """
    batch, tokens, width = packed.shape
    results = (
        jax.ShapeDtypeStruct((batch, tokens, width // 3), packed.dtype),
        jax.ShapeDtypeStruct((batch, heads, tokens), jnp.float32),
    )
    mixed, normaliser = _call(_forward_kernel, (packed,), results, products=2, interpret=interpret)
    return mixed, normaliser


def backward(
    packed: jax.Array,
    mixed: jax.Array,
    normaliser: jax.Array,
    gradient: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """The gradient of `packed`, from what `forward` took and gave and the gradient of `mixed`."""
    results = (jax.ShapeDtypeStruct(packed.shape, packed.dtype),)
    arrays = (packed, mixed, normaliser, gradient)
    (found,) = _call(_backward_kernel, arrays, results, products=5, interpret=interpret)
    return found


def _forward_kernel(packed, mixed, normaliser):
    for pair in range(mixed.shape[2] // LANES):
        at = _lanes(pair)
        query, key, value = (packed[0, :, _lanes(pair, part, mixed.shape[2])] for part in range(3))
        found = []
        for half in range(2):
            own = _own_lanes(half)
            scores = _product(_keep(query, own, scale=WIDTH**-0.5), key, (1, 1))
            highest = jnp.max(scores, axis=1, keepdims=True)
            weights = jnp.exp(scores - highest).astype(value.dtype)
            sums = _product(weights, _keep(value, own, fill=1.0), (1, 0))
            total = sums[:, WIDTH : WIDTH + 1] if half == 0 else sums[:, :1]
            found.append(sums / total)
            logarithm = jnp.broadcast_to(highest + jnp.log(total), (total.shape[0], 8))
            normaliser[0, pl.ds(2 * pair + half, 1), :] = logarithm.T[:1]
        mixed[0, :, at] = _merge(found).astype(mixed.dtype)


def _backward_kernel(packed, mixed, normaliser, gradient, to_packed):
    """Scores are [keys, queries] here, so that what belongs to a query is a row to begin with."""
    dim, dtype = mixed.shape[2], packed.dtype
    for pair in range(dim // LANES):
        query, key, value = (packed[0, :, _lanes(pair, part, dim)] for part in range(3))
        to_mixed = gradient[0, :, _lanes(pair)]
        # The gradient of the softmax subtracts the same amount from a whole row of weights.
        common = to_mixed.astype(jnp.float32) * mixed[0, :, _lanes(pair)].astype(jnp.float32)
        found = []
        for half in range(2):
            own = _own_lanes(half)
            scaled = _keep(query, own, scale=WIDTH**-0.5)
            scores = _product(key, scaled, (1, 1))
            weights = jnp.exp(scores - normaliser[0, pl.ds(2 * pair + half, 1), :])
            to_weights = _product(value, _keep(to_mixed, own), (1, 1))
            shared = _product(jnp.broadcast_to(own, (8, LANES)), common, (1, 1))[:1]
            to_scores = (weights * (to_weights - shared)).astype(dtype)
            to_query = _product(to_scores, key, (0, 0)) * WIDTH**-0.5
            to_key = _product(to_scores, scaled, (1, 0))
            found.append((to_query, to_key, _product(weights.astype(dtype), to_mixed, (1, 0))))
        for part, halves in enumerate(zip(*found, strict=True)):
            to_packed[0, :, _lanes(pair, part, dim)] = _merge(halves).astype(dtype)


def _call(
    kernel: Callable[..., None],
    arrays: Sequence[jax.Array],
    results: Sequence[jax.ShapeDtypeStruct],
    *,
    products: int,
    interpret: bool,
) -> Sequence[jax.Array]:
    """Runs a kernel cloud by cloud; `products` of a matrix of scores are taken for each head."""

    def whole(array):
        return pl.BlockSpec((1, *array.shape[1:]), lambda cloud: (cloud, 0, 0))

    batch, tokens, width = arrays[0].shape
    # As the matrix unit sees it: rows in full registers, and the lanes of two heads for one.
    padded, heads = -(-tokens // LANES) * LANES, width // (3 * WIDTH)
    ends: list[Any] = [*arrays, *results]
    cost = pl.CostEstimate(
        flops=products * batch * heads * 2 * padded * padded * LANES,
        transcendentals=batch * heads * padded * padded,
        bytes_accessed=sum(one.size * jnp.dtype(one.dtype).itemsize for one in ends),
    )
    return pl.pallas_call(
        kernel,
        grid=(batch,),
        in_specs=[whole(array) for array in arrays],
        out_specs=[whole(result) for result in results],
        out_shape=list(results),
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel",)),
        cost_estimate=cost,
        interpret=interpret,
    )(*arrays)


def _lanes(pair: int, part: int = 0, dim: int = 0) -> slice:
    """Where a pair of heads lies in its part (queries, keys, values) of a packed row."""
    start = part * dim + pair * LANES
    return slice(start, start + LANES)


def _own_lanes(half: int) -> jax.Array:
    """1 in the lanes of one head of a pair, else 0: float32 [1, lanes]."""
    lane = jax.lax.broadcasted_iota(jnp.int32, (1, LANES), 1)
    own = lane < WIDTH if half == 0 else lane >= WIDTH
    return own.astype(jnp.float32)


def _keep(x: jax.Array, own: jax.Array, *, scale: float = 1.0, fill: float = 0.0) -> jax.Array:
    """One head of a pair, scaled, and `fill` in the lanes of the other."""
    kept = x.astype(jnp.float32) * (own * scale)
    return (kept + fill * (1.0 - own) if fill else kept).astype(x.dtype)


def _merge(halves: Sequence[jax.Array]) -> jax.Array:
    """The first head's lanes of one array and the second's of another."""
    first, second = halves
    return jnp.where(_own_lanes(0) > 0, first, second)


def _product(left: jax.Array, right: jax.Array, contracted: tuple[int, int]) -> jax.Array:
    axes = ((contracted[:1], contracted[1:]), ((), ()))
    return jax.lax.dot_general(left, right, axes, preferred_element_type=jnp.float32)
