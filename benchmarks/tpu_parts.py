# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler estimates for one part of a student alone; one JSON line per part.

python -m benchmarks.tpu_parts --batch 16 fps ball_query gather tokenizer attention transformer

Tokenizer, attention and transformer with their gradients. Needs libtpu, but no TPU.
"""

import argparse
import json
import re
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax import models
from mrd_jax.analysis import ahead, chips, hlo, schedule
from mrd_jax.kernels import attention, attention_rows
from mrd_jax.models import grouping

PARTS = ("fps", "ball_query", "knn", "gather", "tokenizer", "attention", "transformer")


def parse_arguments() -> argparse.Namespace:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="+", choices=PARTS)
    parser.add_argument("--topology", default="v5e:1x1", help="of which one chip is taken")
    parser.add_argument("--batch", type=int, default=16, help="clouds")
    parser.add_argument("--points", type=int, default=10_000, help="of a cloud")
    parser.add_argument("--groups", type=int, default=512)
    parser.add_argument("--group_size", type=int, default=32)
    parser.add_argument("--dim", type=int, default=512, help="of a token, in heads of 64")
    parser.add_argument("--attention", default="auto", choices=attention.WAYS)
    return parser.parse_args()


def student(options: argparse.Namespace) -> Any:
    """OpenShape's scaling 4 with the sizes of the command line, in bfloat16, with remat."""
    changes = dict(
        groups=options.groups, group_size=options.group_size, points=options.points, out_dim=1280,
        dim=options.dim, heads=options.dim // attention_rows.WIDTH,
        dtype="bfloat16", remat=True, attention=options.attention,
    )  # fmt: skip
    return models.build_model(models.RELEASED["openshape-4"] | changes)


def build(part: str, options: argparse.Namespace) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function and the shapes of its arguments."""
    model, batch = student(options), options.batch
    cloud = jax.ShapeDtypeStruct((batch, options.points, 3), jnp.float32)
    centres = jax.ShapeDtypeStruct((batch, model.groups, 3), jnp.float32)
    of_groups = batch, model.groups, model.group_size
    tokens = jax.ShapeDtypeStruct((batch, model.groups + 1, model.dim), model.dtype)

    def gradient(layer, rows, *, of_rows=True):
        """Of the layer's parameters and, but for what has none, of its rows, with the values."""
        variables = jax.eval_shape(layer.init, jax.random.key(0), rows)
        params = variables.pop("params")

        def both(params, state, rows):
            def apply(params, some):
                return layer.apply(state | {"params": params}, some if of_rows else rows)

            found, pull = jax.vjp(apply, params, rows)
            return found, pull(jnp.ones_like(found))

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
            way = model.heads, model.attention
            mixed, pull = jax.vjp(lambda x: attention.self_attention(x, *way), packed)
            return mixed, pull(to_mixed)

        return mix, (packed, tokens)
    return gradient(model.make_transformer(), tokens)


class _Trained:
    """The tokenizer in training, its new statistics left out."""

    def __init__(self, model: Any):
        self._layer = model.make_tokenizer()

    def init(self, key: jax.Array, rows: jax.Array) -> Any:
        return self._layer.init(key, rows, True, None)

    def apply(self, variables: Any, rows: jax.Array) -> jax.Array:
        return self._layer.apply(variables, rows, True, None, mutable=["batch_stats"])[0]


def measure(part: str, options: argparse.Namespace) -> dict[str, Any]:
    """Compiles a part for one chip and reads the estimate."""
    chip, _ = chips.find(options.topology)
    place = jax.sharding.SingleDeviceSharding(chips.devices(options.topology)[0])
    function, shapes = build(part, options)
    shapes = jax.tree.map(
        lambda one: jax.ShapeDtypeStruct(one.shape, one.dtype, sharding=place), shapes
    )
    started = time.perf_counter()
    compiled = jax.jit(function).lower(*shapes).compile()
    seconds = time.perf_counter() - started
    text = compiled.as_text()
    found = schedule.read(hlo.parse(text))
    kernels = ahead.KERNEL_MARGIN * sum(found.kernel_operations.values()) / chip.peak
    return {
        "benchmark": "tpu_parts", **(vars(options) | {"parts": part}),
        "estimate_s": sum(found.cycles.values()) / chip.clock + kernels,
        "kernels_s": kernels,
        "bytes": sum(found.bytes.values()),
        "temporary_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "sorts": len(re.findall(r" sort\(", text)),
        # Of which the compiler has no estimate.
        "gathers": len(re.findall(r" gather\(", text)),
        "compile_s": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    """Measures and prints."""
    options = parse_arguments()
    # A TPU of this machine stays free: compiling needs none.
    jax.config.update("jax_platforms", "cpu")
    for part in options.parts:
        print(json.dumps(measure(part, options)), flush=True)


if __name__ == "__main__":
    main()
