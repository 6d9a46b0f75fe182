# SPDX-License-Identifier: Apache-2.0
"""Kernels against plain loops: attention, grouping, chunked pooling and the losses."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mrd_jax import losses
from mrd_jax.kernels import attention, chunked_pooling, platforms
from mrd_jax.models import grouping
from mrd_jax.selfcheck import reference
from mrd_jax.selfcheck.results import SKIPPED, TOLERANCES, Context, Result, compare

# Heads of the recipe's width.
HEADS, WIDTH = 2, 64
RADIUS = 0.2


def unsupported(implementation: str, **sizes: Any) -> str:
    """Returns why this platform lacks an implementation of attention; "" if it has it.

    Args:
      implementation: one of `attention.IMPLEMENTATIONS`.
      **sizes: arguments of `attention.check`.
    """
    try:
        platform = platforms.of_device(jax.local_devices()[0])
        attention.check(implementation, platform=platform, **sizes)
    except ValueError as error:
        return str(error)
    return ""


def check_attention(context: Context) -> Iterator[Result]:
    """Compares values and gradients of every implementation of attention with a loop."""
    # An odd number of tokens: the class token is added to the groups.
    batch, tokens = (2, 17) if context.quick else (4, 513)
    rng = np.random.default_rng(0)
    dim = HEADS * WIDTH
    for dtype, tolerance in TOLERANCES.items():
        packed = jnp.asarray(rng.normal(size=(batch, tokens, 3 * dim)), dtype)
        cotangent = jnp.asarray(rng.normal(size=(batch, tokens, dim)), dtype)
        expected = reference.attention(
            np.asarray(packed, np.float64), HEADS, np.asarray(cotangent, np.float64)
        )
        for implementation in attention.IMPLEMENTATIONS:
            name = f"attention/{dtype}/{implementation}"
            sizes: dict[str, Any] = dict(dim=dim, heads=HEADS, tokens=tokens, dtype=dtype)
            if reason := unsupported(implementation, **sizes):
                yield Result(name, SKIPPED, reason)
                continue

            def evaluate(packed, cotangent, implementation=implementation):
                mixed, vjp = jax.vjp(
                    lambda x: attention.self_attention(x, HEADS, implementation), packed
                )
                return mixed, *vjp(cotangent)

            with jax.default_matmul_precision("highest"):
                found = jax.jit(evaluate)(packed, cotangent)
            yield compare(name, found, expected, tolerance=tolerance)


def check_grouping(context: Context) -> Iterator[Result]:
    """Compares sampling and neighbour search with loops; indices must be equal.

    Coordinates are multiples of 1/64: distances are exact, and many are equal.
    """
    batch, points, centres, count = (2, 200, 12, 16) if context.quick else (2, 10_000, 48, 64)
    xyz = (np.random.default_rng(0).integers(-64, 65, (batch, points, 3)) / 64).astype(np.float32)

    def evaluate(xyz):
        index = grouping.farthest_point_sample(xyz, centres)
        chosen = grouping.gather(xyz, index)
        inside = grouping.ball_query(xyz, chosen, radius=RADIUS, count=count)
        return index, inside, grouping.knn(xyz, chosen, count=count)

    found = jax.jit(evaluate)(xyz)
    expected: list[list[Any]] = [[], [], []]
    for cloud in xyz:
        index = reference.farthest_points(cloud, centres)
        chosen = cloud[index]
        expected[0].append(index)
        expected[1].append([reference.ball(cloud, c, radius=RADIUS, count=count) for c in chosen])
        expected[2].append([reference.nearest(cloud, c, count=count) for c in chosen])
    for name, indices, wanted in zip(("fps", "ball_query", "knn"), found, expected, strict=True):
        yield compare(f"grouping/{name}", indices, np.array(wanted), tolerance=0)


def check_pooling(context: Context) -> Iterator[Result]:
    """Compares chunked max-pooling and its gradients with a loop over groups."""
    del context  # cheap: several chunks on every platform
    rng = np.random.default_rng(0)
    groups = rng.normal(size=(2048, 16, 4)).astype(np.float32)
    kernel, cotangent = (rng.normal(size=size).astype(np.float32) for size in ((4, 8), (2048, 8)))

    def evaluate(groups, kernel, cotangent):
        pooled, vjp = jax.vjp(
            lambda *arrays: chunked_pooling.group_maximum(chunked_pooling.product, *arrays),
            groups,
            kernel,
        )
        return pooled, *vjp(cotangent)

    with jax.default_matmul_precision("highest"):
        found = jax.jit(evaluate)(groups, kernel, cotangent)
    expected = reference.group_maximum(groups, kernel, cotangent)
    yield compare("pooling", found, expected, tolerance=TOLERANCES["float32"])


def check_losses(context: Context) -> Iterator[Result]:
    """Compares the blockwise losses with the plain ones, and the contrastive term with a loop."""
    batch, dim, block = (24, 16, 7) if context.quick else (512, 256, 100)
    rng = np.random.default_rng(0)
    rows = {name: rng.normal(size=(batch, dim)) for name in ("points", "image", "text")}
    rows = {name: row / np.linalg.norm(row, axis=1, keepdims=True) for name, row in rows.items()}
    arrays = {name: jnp.asarray(row, jnp.float32) for name, row in rows.items()}
    present = {name: np.ones(batch, bool) for name in ("has_image", "has_text")}
    values = {}
    for form in ("plain", "blockwise"):
        config = ConfigDict(context.config.loss)
        config.form, config.block, config.dtype = form, block, "float32"
        weights = losses.init_loss_params(config)

        def evaluate(points, config=config, weights=weights):
            embeddings = arrays | present | {"points": points, "log_scale": weights["log_scale"]}
            return losses.mrd_loss(embeddings, weights, config)

        (_, parts), gradient = jax.jit(jax.value_and_grad(evaluate, has_aux=True))(arrays["points"])
        values[form] = parts, gradient
    tolerance = TOLERANCES["float32"]
    yield compare("losses/blockwise", values["blockwise"], values["plain"], tolerance=tolerance)
    scale = float(np.exp(context.config.loss.log_scale_init))
    expected = reference.info_nce(rows["points"], rows["image"], scale=scale)
    found = values["plain"][0]["contrastive_image"]
    if not context.config.loss.image_weight:
        yield Result("losses/contrastive", SKIPPED, "config.loss.image_weight is 0")
    else:
        yield compare("losses/contrastive", found, np.array(expected), tolerance=tolerance)
