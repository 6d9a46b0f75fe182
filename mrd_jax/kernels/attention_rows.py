# SPDX-License-Identifier: Apache-2.0
"""Self-attention of short sequences as TPU kernels: whole rows of scores, in vector memory only.

One program is as many heads of one cloud as fit. It reads their columns of the packed queries, keys
and values as the product with the kernel wrote them; scores never reach main memory, and the
backward pass computes them anew. Heads are 64 wide, so two share the 128 lanes of a register: what
belongs to the other head is masked rather than moved, which costs a matrix unit nothing. In the
product of weights and values the masked half holds ones, and so returns the sums of the weights.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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
    return dim == heads * WIDTH and _columns(dim, tokens=tokens, itemsize=itemsize) > 0


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
    blocks = _blocks(packed)
    results = (
        jax.ShapeDtypeStruct((batch, tokens, width // 3), packed.dtype),
        jax.ShapeDtypeStruct(blocks.shape, jnp.float32),
    )
    mixed, normaliser = _call(
        _forward_kernel,
        [packed] * 3,
        results,
        grid=blocks.shape[:2],
        in_specs=blocks.parts,
        out_specs=(blocks.parts[0], blocks.normaliser),
        products=2,
        interpret=interpret,
    )
    return mixed, normaliser.reshape(batch, heads, tokens)


def backward(
    packed: jax.Array,
    mixed: jax.Array,
    normaliser: jax.Array,
    gradient: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """The gradient of `packed`, from what `forward` took and gave and the gradient of `mixed`."""
    blocks = _blocks(packed)
    own = blocks.parts[0]
    (found,) = _call(
        _backward_kernel,
        [*[packed] * 3, mixed, normaliser.reshape(blocks.shape), gradient],
        [jax.ShapeDtypeStruct(packed.shape, packed.dtype)],
        grid=blocks.shape[:2],
        in_specs=(*blocks.parts, own, blocks.normaliser, own),
        out_specs=(blocks.rows,),
        products=5,
        interpret=interpret,
    )
    return found


def _columns(dim: int, *, tokens: int, itemsize: int) -> int:
    """Columns of queries that one program takes, as many as fit; 0 where a pair does not."""
    for programs in range(1, dim // LANES + 1):
        columns = dim // programs
        # Of the backward pass: columns of five arrays and whole rows of a sixth, twice, so that the
        # next program's arrive meanwhile; and four float32 matrices of scores.
        memory = 2 * tokens * (5 * columns + 3 * dim) * itemsize + 4 * 4 * tokens * tokens
        if dim % (programs * LANES) == 0 and memory <= VECTOR_MEMORY:
            return columns
    return 0


class _Blocks(NamedTuple):
    """How arrays are divided among the programs of a cloud.

    Attributes:
      shape: batch, programs of a cloud, heads of a program, tokens: that of the normalisers.
      parts: columns of queries, of keys and of values, in packed rows; the first are also those of
        rows that are not packed.
      normaliser: what belongs to the program's heads.
      rows: whole packed rows, to which the programs of a cloud add their columns one by one.
    """

    shape: tuple[int, int, int, int]
    parts: Sequence[pl.BlockSpec]
    normaliser: pl.BlockSpec
    rows: pl.BlockSpec


def _blocks(packed: jax.Array) -> _Blocks:
    batch, tokens, width = packed.shape
    columns = _columns(width // 3, tokens=tokens, itemsize=packed.dtype.itemsize)
    programs, heads = width // 3 // columns, columns // WIDTH

    def part(number):
        def place(cloud, program):
            return cloud, 0, number * programs + program

        return pl.BlockSpec((1, tokens, columns), place)

    return _Blocks(
        (batch, programs, heads, tokens),
        [part(number) for number in range(3)],
        pl.BlockSpec((1, 1, heads, tokens), lambda cloud, program: (cloud, program, 0, 0)),
        pl.BlockSpec((1, tokens, width), lambda cloud, program: (cloud, 0, 0)),
    )


def _forward_kernel(query, key, value, mixed, normaliser):
    for pair in range(mixed.shape[2] // LANES):
        at = slice(pair * LANES, (pair + 1) * LANES)
        found = []
        for half in range(2):
            own = _own_lanes(half)
            scaled = _keep(query[0, :, at], own, scale=WIDTH**-0.5)
            scores = _product(scaled, key[0, :, at], (1, 1))
            highest = jnp.max(scores, axis=1, keepdims=True)
            weights = jnp.exp(scores - highest).astype(value.dtype)
            sums = _product(weights, _keep(value[0, :, at], own, fill=1.0), (1, 0))
            total = sums[:, WIDTH : WIDTH + 1] if half == 0 else sums[:, :1]
            found.append(sums / total)
            logarithm = jnp.broadcast_to(highest + jnp.log(total), (total.shape[0], 8))
            normaliser[0, 0, pl.ds(2 * pair + half, 1), :] = logarithm.T[:1]
        mixed[0, :, at] = _merge(found).astype(mixed.dtype)


def _backward_kernel(query, key, value, mixed, normaliser, gradient, to_packed):
    """Scores are [keys, queries] here, so that what belongs to a query is a row to begin with."""
    columns, dim, dtype = mixed.shape[2], to_packed.shape[2] // 3, to_packed.dtype
    first = pl.program_id(1) * columns if columns < dim else 0
    for pair in range(columns // LANES):
        at = slice(pair * LANES, (pair + 1) * LANES)
        to_mixed = gradient[0, :, at]
        # The gradient of the softmax subtracts the same amount from a whole row of weights.
        common = to_mixed.astype(jnp.float32) * mixed[0, :, at].astype(jnp.float32)
        found = []
        for half in range(2):
            own = _own_lanes(half)
            scaled = _keep(query[0, :, at], own, scale=WIDTH**-0.5)
            scores = _product(key[0, :, at], scaled, (1, 1))
            weights = jnp.exp(scores - normaliser[0, 0, pl.ds(2 * pair + half, 1), :])
            to_weights = _product(value[0, :, at], _keep(to_mixed, own), (1, 1))
            shared = _product(jnp.broadcast_to(own, (8, LANES)), common, (1, 1))[:1]
            to_scores = (weights * (to_weights - shared)).astype(dtype)
            to_query = _product(to_scores, key[0, :, at], (0, 0)) * WIDTH**-0.5
            to_key = _product(to_scores, scaled, (1, 0))
            found.append((to_query, to_key, _product(weights.astype(dtype), to_mixed, (1, 0))))
        for part, halves in enumerate(zip(*found, strict=True)):
            place = pl.multiple_of(first + part * dim + pair * LANES, LANES)
            to_packed[0, :, pl.ds(place, LANES)] = _merge(halves).astype(dtype)


def _call(
    kernel: Callable[..., None],
    arrays: Sequence[jax.Array],
    results: Sequence[jax.ShapeDtypeStruct],
    *,
    products: int,
    interpret: bool,
    **division: Any,
) -> Sequence[jax.Array]:
    """Runs a kernel; `products` of a matrix of scores are taken for each head.

    The first three arrays are one, packed. `division` is the grid and the blocks.
    """
    batch, tokens, width = arrays[0].shape
    # As the matrix unit sees it: rows in full registers, and the lanes of two heads for one.
    padded, heads = -(-tokens // LANES) * LANES, width // (3 * WIDTH)
    ends: list[Any] = [arrays[0], *arrays[3:], *results]
    cost = pl.CostEstimate(
        flops=products * batch * heads * 2 * padded * padded * LANES,
        transcendentals=batch * heads * padded * padded,
        bytes_accessed=sum(one.size * jnp.dtype(one.dtype).itemsize for one in ends),
    )
    return pl.pallas_call(
        kernel,
        out_shape=list(results),
        # Programs of one cloud write to the same rows, one after another.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "arbitrary")),
        cost_estimate=cost,
        interpret=interpret,
        **division,
    )(*arrays)


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
