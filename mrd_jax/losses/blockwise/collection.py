# SPDX-License-Identifier: Apache-2.0
"""The first pass over the global batch: statistics, and the values that follow from them alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan, modalities
from mrd_jax.losses.blockwise import tallies, tiles

# The divergence of a contrast, whose target is the identity: -log R_ii.
CROSS_ENTROPY = "cross_entropy"

# {part: [local_batch]}
Rows = dict[str, jax.Array]


class Values(NamedTuple):
    """Of comparisons: F, and its derivative with respect to the normaliser of the student."""

    values: Rows
    slopes: Rows


def is_collected(comparison: loss_plan.Comparison) -> bool:
    """Whether this pass finds the values of a comparison; else `passes.compare` does."""
    if comparison.divergence == CROSS_ENTROPY:
        return True
    return comparison.divergence in ("kl", "jeffrey") and len(comparison.targets) == 1


def collect(
    comparisons: Sequence[loss_plan.Comparison],
    samples: tiles.Samples,
    scalars: loss_plan.Scalars,
    *,
    block: int,
    axis_name: str | None,
) -> tuple[tiles.Statistics, Values, Rows]:
    """Passes once over the global batch.

    Returns:
      The statistics of all relations; the values of the comparisons that are `is_collected`; and,
      for the R^PX of each contrast, 1 where a row's largest entry is its own.
    """
    local = samples.local
    tally = _tally(comparisons)
    names = sorted({which.name for which in relations_of(comparisons)})
    references = {name: _inner_rows(*(local[letter].rows for letter in name)) for name in names}
    mirrored = [which.name for _, which in tally.pairs]
    if mirrored:
        stacked = jnp.stack([references[name] for name in mirrored])
        everyones = batch_axis.gather(stacked, axis_name, axis=1)

    def step(state: tallies.State, tile: tiles.Tile, take: Callable) -> tallies.State:
        beside = dict(zip(mirrored, take(everyones, axis=1), strict=True)) if mirrored else {}
        return tally.add(state, tile, tile.flip(tiles.Statistics(beside, {})))

    zeros = jnp.zeros_like(references[names[0]])
    start = tally.start(zeros, global_batch=samples.everyone["P"].rows.shape[0])
    statistics = tiles.Statistics(references, {})
    state = tiles.sweep(step, start, samples, statistics, scalars, block=block)

    normalisers = tally.log_sum_exp(state)
    for which, rows in tally.log_sum_exp_of_columns(state, axis_name).items():
        normalisers[which] = jax.lax.dynamic_slice_in_dim(rows, samples.own[0], zeros.shape[0])
    for which, magnitudes in zip(tally.distant, state.magnitudes, strict=True):
        amount = batch_axis.total(jnp.sum(magnitudes), axis_name)
        mean = amount / number_of_pairs(which, local, axis_name)
        normalisers[which] = jnp.broadcast_to(mean, magnitudes.shape)
    found = Values({}, {})
    expectations = tally.expectations(state)
    for c in comparisons:
        if is_collected(c) and c.divergence != CROSS_ENTROPY:
            of_c = _divergence(c, normalisers, expectations)
            found.values[c.part], found.slopes[c.part] = of_c
    for pair, own in zip(tally.pairs, state.own, strict=True):
        for which in pair:
            similarity = (own - references[which.name]) / getattr(scalars, which.temperature)
            mask = modalities.present(local, which.present)
            found.values[which.name] = jnp.where(mask, normalisers[which] - similarity, 0)
            found.slopes[which.name] = jnp.ones_like(own)
    correct = dict(zip((which.name for which, _ in tally.pairs), tally.correct(state), strict=True))
    return tiles.Statistics(references, normalisers), found, correct


def _tally(comparisons: Sequence[loss_plan.Comparison]) -> tallies.Tally:
    pairs, expected, relations = [], [], []
    for c in comparisons:
        if c.divergence == CROSS_ENTROPY:
            if c.student.name[0] == "P":
                pairs.append((c.student, c.student._replace(name=c.student.name[::-1])))
                relations.append(c.student)
            continue
        relations += [c.student, *c.targets]
        if is_collected(c):
            expected.append((c.targets[0], c))
            # KL(Q||R) is an expectation under Q alone.
            if c.divergence == "jeffrey":
                expected.append((c.student, c))
    relations = sorted(set(relations))
    return tallies.Tally(
        similar=tuple(which for which in relations if which.family == "similarity"),
        expected=tuple(expected),
        distant=tuple(which for which in relations if which.family != "similarity"),
        pairs=tuple(pairs),
    )


def _divergence(
    comparison: loss_plan.Comparison,
    normalisers: dict[loss_plan.Relation, jax.Array],
    expectations: dict[tuple[loss_plan.Relation, str], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Values and slopes of a Kullback-Leibler or Jeffrey divergence.

    KL(Q||R) = E_Q[log Q - log R] and log Q - log R = (l^Q - l^R) + (N^R - N^Q).
    """
    student, part = comparison.student, comparison.part
    (target,) = comparison.targets
    between = normalisers[student] - normalisers[target]
    forward = between - expectations[target, part]
    if comparison.divergence == "kl":
        return forward, jnp.ones_like(forward)
    reverse = expectations[student, part] - between
    return forward + reverse, -reverse


def relations_of(comparisons: Sequence[loss_plan.Comparison]) -> list[loss_plan.Relation]:
    """All students and targets, each once."""
    return sorted({which for c in comparisons for which in (c.student, *c.targets)})


def number_of_pairs(
    which: loss_plan.Relation, local: modalities.Batch, axis_name: str | None
) -> jax.Array:
    """Ordered pairs of different samples that count in the global batch; at least 1."""
    count = _number_present(which, local, axis_name)
    return jnp.maximum(count * (count - 1), 1)


def row_size(
    which: loss_plan.Relation, local: modalities.Batch, axis_name: str | None
) -> jax.Array:
    """Entries of each row that counts; at least 1."""
    return jnp.maximum(_number_present(which, local, axis_name) - which.exclude_self, 1)


def _number_present(
    which: loss_plan.Relation, local: modalities.Batch, axis_name: str | None
) -> jax.Array:
    mask = modalities.present(local, which.present)
    return batch_axis.total(jnp.sum(mask, dtype=jnp.float32), axis_name)


def _inner_rows(rows: jax.Array, others: jax.Array) -> jax.Array:
    """[rows], x_i . y_i in float32 or better."""
    dtype = jnp.promote_types(rows.dtype, jnp.float32)
    return jnp.sum(rows.astype(dtype) * others.astype(dtype), axis=-1)
