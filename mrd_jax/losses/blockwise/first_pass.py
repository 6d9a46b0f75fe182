# SPDX-License-Identifier: Apache-2.0
"""First pass over the global batch: row statistics, and the values that follow from them alone."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan, modalities
from mrd_jax.losses.blockwise import row_statistics, tiles

# Divergence of a contrast, whose target is the identity: -log R_ii.
CROSS_ENTROPY = "cross_entropy"

# {part: [local_batch]}
Rows = dict[str, jax.Array]


class Values(NamedTuple):
    """Values of comparisons.

    Attributes:
      values: F_i.
      slopes: dF_i / dN_i, the derivative with respect to the normaliser of the student's row.
    """

    values: Rows
    slopes: Rows


def computes(comparison: loss_plan.Comparison) -> bool:
    """Returns whether the first pass computes a comparison; if not, `later_passes.compare` does."""
    if comparison.divergence == CROSS_ENTROPY:
        return True
    return comparison.divergence in ("kl", "jeffrey") and len(comparison.targets) == 1


def run(
    comparisons: Sequence[loss_plan.Comparison],
    samples: tiles.Samples,
    scalars: loss_plan.Scalars,
    *,
    block: int,
    axis_name: str | None,
) -> tuple[tiles.Statistics, Values, Rows]:
    """Passes once over the global batch.

    Args:
      comparisons: all comparisons, contrasts included.
      samples: samples of this device and of all devices.
      scalars: temperatures and mixing weights.
      block: columns at a time.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      The statistics of all relations; the values of the comparisons that the first pass `computes`;
      and, for the R^PX of each contrast, 1 for a row whose largest entry is its own.
    """
    local = samples.local
    accumulator = _accumulator(comparisons)
    names = sorted({spec.name for spec in relations_of(comparisons)})
    references = {name: _inner_rows(*(local[letter].rows for letter in name)) for name in names}
    mirrored = [spec.name for _, spec in accumulator.pairs]
    if mirrored:
        stacked = jnp.stack([references[name] for name in mirrored])
        gathered = batch_axis.gather(stacked, axis_name, axis=1)

    def step(state: row_statistics.State, tile: tiles.Tile, take: Callable) -> row_statistics.State:
        block_references = (
            dict(zip(mirrored, take(gathered, axis=1), strict=True)) if mirrored else {}
        )
        transposed = tile.transpose(tiles.Statistics(block_references, {}))
        return accumulator.update(state, tile, transposed)

    zeros = jnp.zeros_like(references[names[0]])
    start = accumulator.init(zeros, global_batch=samples.gathered["P"].rows.shape[0])
    statistics = tiles.Statistics(references, {})
    state = tiles.loop(step, start, samples, statistics, scalars, block=block)

    normalisers = _normalisers(accumulator, state, samples, axis_name)
    statistics = tiles.Statistics(references, normalisers)
    values = _values(comparisons, accumulator, state, statistics, local, scalars)
    parts = (spec.name for spec, _ in accumulator.pairs)
    correct = dict(zip(parts, accumulator.is_correct(state), strict=True))
    return statistics, values, correct


def _accumulator(comparisons: Sequence[loss_plan.Comparison]) -> row_statistics.Accumulator:
    pairs, expectations, relations = [], [], []
    for c in comparisons:
        if c.divergence == CROSS_ENTROPY:
            if c.student.name[0] == "P":
                pairs.append((c.student, c.student._replace(name=c.student.name[::-1])))
                relations.append(c.student)
            continue
        relations += [c.student, *c.targets]
        if computes(c):
            expectations.append((c.targets[0], c))
            # KL(Q||R) is an expectation under Q alone.
            if c.divergence == "jeffrey":
                expectations.append((c.student, c))
    relations = sorted(set(relations))
    return row_statistics.Accumulator(
        similarities=tuple(spec for spec in relations if spec.family == "similarity"),
        expectations=tuple(expectations),
        distances=tuple(spec for spec in relations if spec.family != "similarity"),
        pairs=tuple(pairs),
    )


def _normalisers(
    accumulator: row_statistics.Accumulator,
    state: row_statistics.State,
    samples: tiles.Samples,
    axis_name: str | None,
) -> dict[loss_plan.RelationSpec, jax.Array]:
    """Computes the normalisers of the local rows of all relations."""
    normalisers = accumulator.log_sum_exp(state)
    local_batch = samples.positions.shape[0]
    for spec, rows in accumulator.log_sum_exp_of_columns(state, axis_name).items():
        normalisers[spec] = jax.lax.dynamic_slice_in_dim(rows, samples.positions[0], local_batch)
    for spec, magnitudes in zip(accumulator.distances, state.magnitudes, strict=True):
        total = batch_axis.psum(jnp.sum(magnitudes), axis_name)
        mean = total / number_of_pairs(spec, samples.local, axis_name)
        normalisers[spec] = jnp.broadcast_to(mean, magnitudes.shape)
    return normalisers


def _values(
    comparisons: Sequence[loss_plan.Comparison],
    accumulator: row_statistics.Accumulator,
    state: row_statistics.State,
    statistics: tiles.Statistics,
    local: modalities.Batch,
    scalars: loss_plan.Scalars,
) -> Values:
    """Computes the values and slopes that follow from the statistics."""
    result = Values({}, {})
    averages = accumulator.averages(state)
    for c in comparisons:
        if computes(c) and c.divergence != CROSS_ENTROPY:
            value, slope = _divergence(c, statistics.normalisers, averages)
            result.values[c.part], result.slopes[c.part] = value, slope
    for pair, positives in zip(accumulator.pairs, state.positives, strict=True):
        for spec in pair:
            relative = positives - statistics.references[spec.name]
            similarity = relative / scalars.temperatures[spec.temperature]
            mask = modalities.present(local, spec.required)
            loss = jnp.where(mask, statistics.normalisers[spec] - similarity, 0)
            result.values[spec.name], result.slopes[spec.name] = loss, jnp.ones_like(positives)
    return result


def _divergence(
    comparison: loss_plan.Comparison,
    normalisers: dict[loss_plan.RelationSpec, jax.Array],
    averages: dict[tuple[loss_plan.RelationSpec, str], jax.Array],
) -> tuple[jax.Array, jax.Array]:
    """Computes values and slopes of a Kullback-Leibler or Jeffrey divergence.

    KL(Q||R) = E_Q[log Q - log R] and log Q - log R = (l^Q - l^R) + (N^R - N^Q).
    """
    student, part = comparison.student, comparison.part
    (target,) = comparison.targets
    difference = normalisers[student] - normalisers[target]
    forward = difference - averages[target, part]
    if comparison.divergence == "kl":
        return forward, jnp.ones_like(forward)
    reverse = averages[student, part] - difference
    return forward + reverse, -reverse


def relations_of(comparisons: Sequence[loss_plan.Comparison]) -> list[loss_plan.RelationSpec]:
    """Returns the relations of all students and targets, without duplicates."""
    return sorted({spec for c in comparisons for spec in (c.student, *c.targets)})


def number_of_pairs(
    spec: loss_plan.RelationSpec, local: modalities.Batch, axis_name: str | None
) -> jax.Array:
    """Counts the ordered pairs of different valid samples in the global batch; at least 1."""
    count = _number_present(spec, local, axis_name)
    return jnp.maximum(count * (count - 1), 1)


def row_size(
    spec: loss_plan.RelationSpec, local: modalities.Batch, axis_name: str | None
) -> jax.Array:
    """Counts the valid entries of a valid row; at least 1."""
    return jnp.maximum(_number_present(spec, local, axis_name) - spec.exclude_self, 1)


def _number_present(
    spec: loss_plan.RelationSpec, local: modalities.Batch, axis_name: str | None
) -> jax.Array:
    mask = modalities.present(local, spec.required)
    return batch_axis.psum(jnp.sum(mask, dtype=jnp.float32), axis_name)


def _inner_rows(rows: jax.Array, others: jax.Array) -> jax.Array:
    """Returns x_i . y_i, [rows], in float32 or better."""
    dtype = jnp.promote_types(rows.dtype, jnp.float32)
    return jnp.sum(rows.astype(dtype) * others.astype(dtype), axis=-1)
