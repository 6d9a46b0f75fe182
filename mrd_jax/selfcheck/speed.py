# SPDX-License-Identifier: Apache-2.0
"""Times on this device: attention, grouping, the step at several batches, and the data pipeline."""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec, loader, source
from mrd_jax.kernels import attention, platforms
from mrd_jax.models import grouping
from mrd_jax.selfcheck import kernels, timing, tiny
from mrd_jax.selfcheck.results import FAIL, PASS, SKIPPED, Context, Result
from mrd_jax.training import run as run_lib

# Samples per device of the timed steps.
BATCHES = {"cpu": (1, 2), "tpu": (32, 64, 128), "gpu": (32, 64, 128)}
# Ratio of two times up to which they count as the same.
SAME_TIME = 1.05
# Largest memory in use, relative to what the compiler said.
MEMORY_MARGIN = 1.2
# Records of the timed data pipeline, which reads them again and again.
RECORDS = 256


def time_attention(context: Context) -> Iterator[Result]:
    """Times values and gradients of every implementation at the sizes of the recipe.

    The last result says which one is the fastest, and how to select it.
    """
    model = context.config.model
    batch, tokens = (2, 17) if context.quick else (32, model.groups + 1)
    dim, heads = (kernels.WIDTH, 1) if context.quick else (model.dim, model.heads)
    packed = jnp.ones((batch, tokens, 3 * dim), model.dtype)
    times: dict[str, float] = {}
    sizes: dict[str, Any] = dict(dim=dim, heads=heads, tokens=tokens, dtype=model.dtype)
    for implementation in attention.IMPLEMENTATIONS:
        name = f"time/attention/{implementation}"
        if reason := kernels.unsupported(implementation, **sizes):
            yield Result(name, SKIPPED, reason)
            continue

        def total(x, implementation=implementation):
            return jnp.sum(attention.self_attention(x, heads, implementation).astype(jnp.float32))

        times[implementation] = 1e3 * timing.seconds(jax.jit(jax.grad(total)), packed)
        yield Result(name, PASS, "", {"ms": times[implementation], "batch": batch, **sizes})
    choices = attention.choices(**sizes)
    platform = platforms.of_device(context.devices[0])
    yield advise_attention(times, chosen=choices.get(platform, choices["default"]))


def advise_attention(times: Mapping[str, float], *, chosen: str) -> Result:
    """Names the fastest implementation of attention and the line of a config that selects it.

    Args:
      times: milliseconds by implementation, "auto" included.
      chosen: what "auto" selects on this platform.
    """
    fastest = min(times, key=lambda name: times[name])
    line = f"config.model.attention = {fastest!r}"
    taken = f"'auto', which selects {chosen!r},"
    ratio = times["auto"] / times[fastest]
    detail = f"{taken} is within {SAME_TIME - 1:.0%} of the fastest; nothing has to be set"
    if ratio > SAME_TIME:
        detail = f"{taken} takes {ratio:.2f} times as long as {fastest!r}: set {line}"
    values = {"fastest": fastest, "auto_selects": chosen, "ratio_to_fastest": ratio}
    return Result("time/attention/choice", PASS, detail, values)


def time_grouping(context: Context) -> Iterator[Result]:
    """Times sampling and neighbour search at the sizes of the recipe."""
    model = context.config.model
    batch, points, groups, count = 32, model.points, model.groups, model.group_size
    if context.quick:
        batch, points, groups, count = 2, 96, 8, 8
    xyz = jax.random.uniform(jax.random.key(0), (batch, points, 3), minval=-1.0)
    centres = xyz[:, :groups]
    functions: dict[str, Callable[..., Any]] = {
        "fps": lambda xyz, _: grouping.farthest_point_sample(xyz, groups),
        "ball_query": functools.partial(grouping.ball_query, radius=kernels.RADIUS, count=count),
        "knn": functools.partial(grouping.knn, count=count),
    }
    for name, function in functions.items():
        duration = timing.seconds(jax.jit(function), xyz, centres, repeats=5)
        values = {"ms": 1e3 * duration, "batch": batch, "points": points, "groups": groups}
        yield Result(f"time/{name}", PASS, "", values)


def time_steps(context: Context) -> Iterator[Result]:
    """Times the step at growing batches, and compares its memory with what the compiler said."""
    config = tiny.shrink(context.config) if context.quick else context.config
    devices = context.devices
    batches: Sequence[int] = context.batches or BATCHES[devices[0].platform]
    if context.quick:
        batches = (config.batch_size // len(devices),)
    for batch in batches:
        name = f"step/{batch} per device"
        if context.is_late():
            yield Result(name, SKIPPED, f"{context.seconds:.0f} s have passed (--seconds)")
            continue
        try:
            values = _time_step(config, batch * len(devices), devices)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            yield Result(name, SKIPPED, "does not fit into the memory of a device")
            return
        context.samples_per_second = max(context.samples_per_second, values["samples_per_second"])
        yield Result(name, PASS, "", values)
        yield compare_memory(name.replace("step/", "memory/"), values)


def _time_step(
    config: ConfigDict, batch_size: int, devices: Sequence[jax.Device]
) -> dict[str, Any]:
    """Compiles and times a step; bytes are per device."""
    config = ConfigDict(config)
    config.batch_size, config.spmd = batch_size, "shard_map"
    config.data.hard_negatives = 0
    before = memory_in_use(devices)
    run = run_lib.build_run(config, devices=devices)
    state, placed = run.initial_state(), run.backend.place_batch(batch_spec.fake_batch(config))
    started = time.perf_counter()
    traceable: Any = run.train_step()
    step = traceable.lower(state, placed).compile()
    compiled = time.perf_counter()
    memory = step.memory_analysis()
    count, times = (3 if jax.default_backend() == "cpu" else 12), []
    for _ in range(count):
        began = time.perf_counter()
        state, metrics = step(state, placed)
        jax.block_until_ready(metrics)
        times.append(time.perf_counter() - began)
    seconds = float(np.median(times[1:]))
    reserved = (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes
    )
    after = memory_in_use(devices)
    return {
        "ms": 1e3 * seconds,
        "samples_per_second": batch_size / seconds,
        "batch_size": batch_size,
        "compile_s": compiled - started,
        "loss": float(metrics["loss"]),
        "compiler_bytes": reserved,
        "temporary_bytes": memory.temp_size_in_bytes,
        "other_bytes": before.get("bytes_in_use"),
        "earlier_peak_bytes": before.get("peak_bytes_in_use"),
        "peak_bytes": after.get("peak_bytes_in_use"),
        "memory_bytes": after.get("bytes_limit"),
    }


def memory_in_use(devices: Sequence[jax.Device]) -> dict[str, int]:
    """Returns the largest of each figure of the devices' memory statistics.

    Returns:
      Bytes, such as "bytes_in_use", "peak_bytes_in_use" (since the process started) and
      "bytes_limit"; {} where the backend has no statistics.
    """
    figures: dict[str, int] = {}
    for device in devices:
        for name, count in (device.memory_stats() or {}).items():
            figures[name] = max(count, figures.get(name, 0))
    return figures


def compare_memory(name: str, values: Mapping[str, Any]) -> Result:
    """Checks that a step did not take more memory than the compiler said.

    A backend counts its peak from the start of the process: the step is measured if it raised that
    peak, and otherwise took no more than an earlier check.

    Args:
      name: name of the result.
      values: values of a timed step.
    """
    peak, reserved = values["peak_bytes"], values["compiler_bytes"]
    found = {"compiler_bytes": reserved}
    if peak is None:
        detail = f"the device does not report its memory; the compiler reserves {reserved:,} bytes"
        return Result(name, SKIPPED, detail, found)
    expected = reserved + values["other_bytes"]
    found |= {"peak_bytes": peak, "expected_bytes": expected, "ratio": peak / expected}
    if peak <= MEMORY_MARGIN * expected:
        return Result(name, PASS, "", found)
    if peak <= values["earlier_peak_bytes"]:
        detail = f"an earlier check took {peak:,} bytes; the compiler reserves {reserved:,}"
        return Result(name, SKIPPED, detail, found | {"ratio": None})
    detail = f"peak {peak:,} bytes, but the compiler said {expected:,}"
    return Result(name, FAIL, detail, found)


def time_pipeline(context: Context) -> Iterator[Result]:
    """Measures records per second of the data pipeline, beside what the fastest step consumes."""
    config = tiny.shrink(context.config) if context.quick else ConfigDict(context.config)
    config.data.train_split, config.data.hard_negatives = "train", 0
    config.data.caption_kinds = config.data.caption_groups = config.data.caption_chances = ()
    config.batch_size = 16
    data = tiny.write_data(
        context.folder / "timed",
        count=16 if context.quick else RECORDS,
        points=config.data.points,
        dim=config.teacher.dim,
    )
    records = source.open_split(str(data), "train", cache=config.data.cache)
    batches = loader.train_stream(records, config)
    next(batches)
    started, count, least = time.perf_counter(), 0, 0.2 if context.quick else 5.0
    while (passed := time.perf_counter() - started) < least:
        next(batches)
        count += config.batch_size
    rate, appetite = count / passed, context.samples_per_second
    values = {"records_per_second": rate, "step_consumes_per_second": appetite or None}
    detail = ""
    if rate < appetite:
        detail = f"the step consumes {appetite:.0f} records/s, one process reads {rate:.0f}"
    yield Result("pipeline", PASS, detail, values)
