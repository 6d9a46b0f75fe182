# SPDX-License-Identifier: Apache-2.0
"""Programs of the kernels for NVIDIA GPUs, as XLA compiles them for an H100 that is not there."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gpu_parts
from mrd_jax.analysis import chips, gpu_targets, program
from mrd_jax.kernels import attention, points_triton
from mrd_jax.models import grouping

pytestmark = pytest.mark.gpu

# Point clouds per GPU, points, groups and points per group of configs/mrd_pointbert.py.
BATCH, POINTS, GROUPS, SIZE = 64, 10_000, 384, 64


@functools.cache
def place():
    (device,) = chips.make_devices("h100:1")
    return jax.sharding.SingleDeviceSharding(device)


def compiled(function, *shapes, dtype=np.float32):
    arrays = [jax.ShapeDtypeStruct(shape, dtype, sharding=place()) for shape in shapes]
    lowered = jax.jit(function).lower(*arrays)
    return lowered.compile(compiler_options=gpu_targets.COMPILER_OPTIONS)


def searches():
    """Returns each function and its inputs."""
    clouds, centres = (BATCH, POINTS, 3), (BATCH, GROUPS, 3)
    within = functools.partial(grouping.ball_query, radius=0.2, count=SIZE)
    return {
        "farthest": (lambda xyz: grouping.farthest_point_sample(xyz, GROUPS), clouds),
        "ball": (within, clouds, centres),
        "nearest": (functools.partial(grouping.knn, count=SIZE), clouds, centres),
    }


@pytest.mark.parametrize("name", ["farthest", "ball", "nearest"])
def test_grouping_is_two_launches_and_keeps_only_the_points(name):
    """One launch arranges the points, one searches; no sort, and no array of distances."""
    found = compiled(*searches()[name])
    report = program.describe(found, chips.CHIPS["h100"])
    assert found.as_text().count('custom_call_target="__gpu$xla.gpu.triton"') == 1
    assert (report["launches"], report["sorts"]) == (2, 0)
    arranged = np.prod(jax.eval_shape(
        points_triton._planes, jax.ShapeDtypeStruct((BATCH, POINTS, 3), np.float32)
    ).shape) * 4  # fmt: skip
    assert report["temporary_bytes"] <= 1.01 * arranged


@pytest.mark.parametrize("points", [64, points_triton.MAX_POINTS])
def test_smallest_and_largest_clouds_compile(points):
    def group(xyz):
        centres = grouping.gather(xyz, grouping.farthest_point_sample(xyz, 8))
        within = grouping.ball_query(xyz, centres, radius=0.2, count=7)
        return within, grouping.knn(xyz, centres, count=33)

    assert compiled(group, (2, points, 3)).as_text().count("__gpu$xla.gpu.triton") == 3


@pytest.mark.parametrize(("dtype", "uses_cudnn"), [("bfloat16", True), ("float32", False)])
def test_scores_of_513_tokens_stay_on_the_chip_in_bfloat16(dtype, uses_cudnn):
    def total(packed):
        return jnp.sum(attention.self_attention(packed, 8).astype(jnp.float32))

    found = compiled(jax.grad(total), (BATCH, 513, 3 * 512), dtype=dtype)
    text, scores = found.as_text(), BATCH * 8 * 513 * 513 * jnp.dtype(dtype).itemsize
    assert ("__cudnn$fmhaSoftmaxBackward" in text) == uses_cudnn
    assert (found.memory_analysis().temp_size_in_bytes < scores) == uses_cudnn


def test_benchmark_prints_a_line_with_kernels_and_one_without(capsys):
    gpu_parts.main("fps --batch 2 --points 300 --groups 40".split())
    with_kernels, without = map(json.loads, capsys.readouterr().out.splitlines())
    assert with_kernels["launches"] == 2 and without["launches"] > 40
    assert with_kernels["library_calls"] == {"__gpu$xla.gpu.triton": 1}
