# SPDX-License-Identifier: Apache-2.0
"""Compiles parts of a student for a TPU and prints the compiler's estimates, one JSON line each.

python -m benchmarks.tpu_parts --batch 16 fps ball_query gather tokenizer attention transformer

Tokenizer, attention and transformer include their gradients. Requires the `tpu` extra, but no TPU.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax import models
from mrd_jax.analysis import chips, hlo, program, schedule
from mrd_jax.cli import command
from mrd_jax.kernels import attention, attention_rows
from mrd_jax.models import grouping

PARTS = ("fps", "ball_query", "knn", "gather", "tokenizer", "attention", "transformer")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.tpu_parts")
    add_options(parser)
    return parser.parse_args(arguments)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the parts and their sizes."""
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--topology", default="v5e:1x1", help="topology, of which one chip is used")
    parser.add_argument("--batch", type=int, default=16, help="number of point clouds")
    parser.add_argument("--points", type=int, default=10_000, help="points per cloud")
    parser.add_argument("--groups", type=int, default=512)
    parser.add_argument("--group_size", type=int, default=32)
    parser.add_argument("--dim", type=int, default=512, help="token dimension, in heads of 64")
    parser.add_argument("--attention", default="auto", choices=attention.IMPLEMENTATIONS)


def build_student(options: argparse.Namespace) -> Any:
    """Builds OpenShape's scaling 4 with the sizes of the command line, in bfloat16 with remat."""
    changes = dict(
        groups=options.groups, group_size=options.group_size, points=options.points, out_dim=1280,
        dim=options.dim, heads=options.dim // attention_rows.WIDTH,
        dtype="bfloat16", remat=True, attention=options.attention,
    )  # fmt: skip
    return models.build_model(models.RELEASED["openshape-4"] | changes)


def build(part: str, options: argparse.Namespace) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """Returns the function of a part and the shapes of its arguments."""
    model, batch = build_student(options), options.batch
    cloud = jax.ShapeDtypeStruct((batch, options.points, 3), jnp.float32)
    centres = jax.ShapeDtypeStruct((batch, model.groups, 3), jnp.float32)
    of_groups = batch, model.groups, model.group_size
    tokens = jax.ShapeDtypeStruct((batch, model.groups + 1, model.dim), model.dtype)

    def gradient(layer, rows, *, of_rows=True):
        """Returns the values and the gradients by parameters and, if `of_rows`, by input rows."""
        variables = jax.eval_shape(layer.init, jax.random.key(0), rows)
        params = variables.pop("params")

        def both(params, state, rows):
            def apply(params, inputs):
                return layer.apply(state | {"params": params}, inputs if of_rows else rows)

            outputs, pull = jax.vjp(apply, params, rows)
            return outputs, pull(jnp.ones_like(outputs))

        return both, (params, variables, rows)

    if part == "fps":
        return lambda xyz: grouping.farthest_point_sample(xyz, model.groups), (cloud,)
    if part == "ball_query":
        return model.neighbours, (cloud, centres)
    if part == "knn":
        return lambda *x: grouping.knn(*x, count=model.group_size), (cloud, centres)
    if part == "gather":
        return model.describe, (cloud, cloud, centres, jax.ShapeDtypeStruct(of_groups, jnp.int32))
    if part == "tokenizer":
        rows = jax.ShapeDtypeStruct((*of_groups, 9), jnp.float32)
        return gradient(_Trained(model), rows, of_rows=False)
    if part == "attention":
        packed = jax.ShapeDtypeStruct((*tokens.shape[:2], 3 * model.dim), model.dtype)

        def mix(packed, to_mixed):
            arguments = model.heads, model.attention
            mixed, pull = jax.vjp(lambda x: attention.self_attention(x, *arguments), packed)
            return mixed, pull(to_mixed)

        return mix, (packed, tokens)
    return gradient(model.make_transformer(), tokens)


class _Trained:
    """The tokenizer in training mode, without its updated batch statistics."""

    def __init__(self, model: Any):
        self._layer = model.make_tokenizer()

    def init(self, key: jax.Array, rows: jax.Array) -> Any:
        return self._layer.init(key, rows, True, None)

    def apply(self, variables: Any, rows: jax.Array) -> jax.Array:
        return self._layer.apply(variables, rows, True, None, mutable=["batch_stats"])[0]


def measure(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compiles a part for one chip and returns its report."""
    chip, _ = chips.parse_slice(options.topology)
    place = jax.sharding.SingleDeviceSharding(chips.make_devices(options.topology)[0])
    function, shapes = build(part, options)
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place), shapes
    )
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*shapes).compile()
    seconds = time.perf_counter() - started
    text = compiled.as_text()
    summary = schedule.summarize(hlo.parse(text))
    kernels = program.KERNEL_MARGIN * sum(summary.kernel_operations.values()) / chip.peak
    settings = {name: value for name, value in vars(options).items() if name != "debug"}
    return {
        "benchmark": "tpu_parts", **(settings | {"parts": part}),
        "estimate_s": sum(summary.cycles.values()) / chip.clock + kernels,
        "kernels_s": kernels,
        "bytes": sum(summary.bytes.values()),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "sorts": len(re.findall(r" sort\(", text)),
        # The compiler does not estimate gathers.
        "gathers": len(re.findall(r" gather\(", text)),
        "compile_s": round(seconds, 1),
    }  # fmt: skip


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles the parts and prints their reports."""
    options = parse_options(arguments)
    # Compilation needs no TPU, and leaves one that the machine has to other programs.
    jax.config.update("jax_platforms", "cpu")
    for part in options.parts:
        print(json.dumps(measure(part, options)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
