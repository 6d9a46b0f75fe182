# SPDX-License-Identifier: Apache-2.0
"""Times the training step of a student encoder, its parts, and embedding; prints one JSON line.

python -m benchmarks.student_step --size openshape-4 --threads 1
python -m benchmarks.student_step --size uni3d-s --batch 8 --points 10000 --dtype bfloat16
python -m benchmarks.student_step --batch 64 --micro_batch 4 --whole
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from mrd_jax.cli import command

# Size of the quickstart's encoder, in addition to the published sizes.
QUICK = dict(
    name="point_bert", dim=256, depth=4, heads=4, mlp_dim=512, sa_dim=128, groups=48, radius=0.3,
    group_size=32,
)  # fmt: skip


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.student_step")
    parser.add_argument("--size", default="quick", help="quick, openshape-1 to 6, uni3d-ti to g")
    parser.add_argument("--batch", type=int, default=8, help="point clouds per step")
    parser.add_argument("--points", type=int, default=10_000, help="points per point cloud")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", action="store_true", help="recompute blocks and tokenizer")
    parser.add_argument("--unroll", action="store_true", help="unroll the loop over the blocks")
    parser.add_argument(
        "--patch_dropout", type=float, default=0.0, help="fraction of groups to drop"
    )
    parser.add_argument(
        "--micro_batch",
        type=int,
        default=0,
        help="also time the step with micro-batches of this size",
    )
    parser.add_argument("--embed_only", action="store_true", help="no training: less memory")
    parser.add_argument("--whole", action="store_true", help="do not time the parts")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; prints their median")
    parser.add_argument("--threads", type=int, help="CPU cores to use; default: all")
    return parser.parse_args(arguments)


@dataclasses.dataclass(frozen=True)
class Timing:
    """Median times of a compiled function.

    Attributes:
      wall: wall-clock time, in seconds.
      cpu: CPU time over all cores, in seconds.
    """

    wall: float
    cpu: float

    def rounded(self) -> dict[str, float]:
        """Returns both times for printing."""
        return {"s": round(self.wall, 4), "cpu_s": round(self.cpu, 4)}


def limit_threads(count: int | None) -> None:
    """Restricts the process to `count` cores; call this before JAX starts its thread pool."""
    if count:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def header(benchmark: str, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the first fields of a report: benchmark, options and device."""
    import jax

    settings = {name: value for name, value in vars(options).items() if name != "debug"}
    return {"benchmark": benchmark, **settings, "device": jax.devices()[0].device_kind}


def measure(function, *arguments, repeats: int) -> Timing:
    """Times a compiled function; the first call, which allocates memory, is not timed."""
    import jax

    jax.block_until_ready(function(*arguments))
    wall, cpu = [], []
    for _ in range(repeats):
        before = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(*arguments))
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    return Timing(statistics.median(wall), statistics.median(cpu))


def build(options: argparse.Namespace, *, micro_batch: int = 0) -> Any:
    """Builds the encoder of the command line."""
    from mrd_jax import models

    fields = QUICK if options.size == "quick" else models.RELEASED[options.size]
    dims = {"point_bert": 1280, "uni3d": 1024}
    changes = dict(
        out_dim=dims[fields["name"]], dtype=options.dtype, remat=options.remat,
        scan=not options.unroll, points=options.points, patch_dropout=options.patch_dropout,
        micro_batch=micro_batch,
    )  # fmt: skip
    return models.build_model(fields | changes)


def time_parts(model, variables, xyz, rgb, *, repeats: int) -> dict[str, Timing]:
    """Times sampling and grouping (forward), tokenizer and transformer (forward and backward)."""
    import jax
    import jax.numpy as jnp

    encoder, blocks = model.make_tokenizer(), model.make_transformer()

    def variables_of(name):
        return {kind: tree[name] for kind, tree in variables.items() if name in tree}

    def encode(variables, groups):
        return jnp.sum(encoder.apply(variables, groups, True, mutable="batch_stats")[0])

    def transform(variables, tokens):
        return jnp.sum(blocks.apply(variables, tokens).astype(jnp.float32))

    centres = jax.jit(model.choose_centres)(xyz)
    index = jax.jit(model.neighbours)(xyz, centres)
    groups = jax.jit(model.describe)(xyz, rgb, centres, index)
    tokens = jax.random.normal(jax.random.key(3), (xyz.shape[0], model.groups + 1, model.dim))
    calls = {
        "fps": (jax.jit(model.choose_centres), xyz),
        "neighbours": (jax.jit(model.neighbours), xyz, centres),
        "tokenizer": (jax.jit(jax.grad(encode)), variables_of("tokenizer"), groups),
        "transformer": (
            jax.jit(jax.grad(transform, argnums=(0, 1))),
            variables_of("transformer"),
            tokens.astype(model.dtype),
        ),
    }
    return {name: measure(*call, repeats=repeats) for name, call in calls.items()}


def time_step(
    model, variables, xyz, rgb, *, repeats: int
) -> tuple[dict[str, Timing], dict[str, float]]:
    """Times forward pass, gradient and optimizer.

    Args:
      model: encoder.
      variables: its variables.
      xyz: [batch, points, 3].
      rgb: [batch, points, 3].
      repeats: timed calls.

    Returns:
      Timings by part, and compile time and temporary memory of the gradient.
    """
    import jax
    import jax.numpy as jnp
    import optax

    keys = jax.random.split(jax.random.key(4), len(xyz))

    def loss(params, xyz, rgb):
        output, state = model.apply(
            variables | {"params": params}, xyz, rgb, train=True, keys=keys, mutable=["batch_stats"]
        )
        return jnp.sum(output**2), state

    optimizer = optax.adamw(1e-3)

    def update(params, gradients, state):
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    params = variables["params"]
    started = time.perf_counter()
    gradient = jax.jit(jax.grad(loss, has_aux=True)).lower(params, xyz, rgb).compile()
    seconds = time.perf_counter() - started
    whole = measure(gradient, params, xyz, rgb, repeats=repeats)
    forward = measure(jax.jit(loss), params, xyz, rgb, repeats=repeats)
    update_arguments = params, gradient(params, xyz, rgb)[0], jax.jit(optimizer.init)(params)
    optimize = measure(jax.jit(update), *update_arguments, repeats=repeats)
    timings = {
        "forward": forward,
        "backward": Timing(whole.wall - forward.wall, whole.cpu - forward.cpu),
        "optimizer": optimize,
        "step": Timing(whole.wall + optimize.wall, whole.cpu + optimize.cpu),
    }
    temporary = gradient.memory_analysis().temp_size_in_bytes
    return timings, {"compile_s": round(seconds, 1), "temporary_mb": round(temporary / 1e6)}


def compare_micro_batches(model, whole, *arguments, repeats: int) -> dict[str, Any]:
    """Times the step with micro-batches and compares it with the step of the whole batch.

    Args:
      model: encoder with `micro_batch` set.
      whole: result of `time_step` for the whole batch.
      *arguments: further arguments of `time_step`.
      repeats: timed calls.

    Returns:
      Times, compile time and temporary memory, and their ratios to those of the whole batch.
    """
    timings, training = time_step(model, *arguments, repeats=repeats)
    step, step_whole = timings["step"], whole[0]["step"]
    return {
        "step": step.rounded(),
        **training,
        "time_ratio": round(step.wall / step_whole.wall, 2),
        "cpu_ratio": round(step.cpu / step_whole.cpu, 2),
        "memory_ratio": round(training["temporary_mb"] / whole[1]["temporary_mb"], 3),
    }


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints the report."""
    options = parse_options(arguments)
    limit_threads(options.threads)
    import jax
    import jax.numpy as jnp

    model = build(options)
    xyz = jax.random.normal(jax.random.key(0), (options.batch, options.points, 3))
    xyz /= jnp.linalg.norm(xyz, axis=-1, keepdims=True)  # points on a surface, as in the data
    rgb = jax.random.uniform(jax.random.key(1), xyz.shape)
    variables = jax.jit(model.init)(jax.random.key(2), xyz[:1], rgb[:1])
    timings = {"embed": measure(jax.jit(model.apply), variables, xyz, rgb, repeats=options.repeats)}
    parts, training, micro = {}, {}, {}
    if not options.embed_only:
        steps, training = time_step(model, variables, xyz, rgb, repeats=options.repeats)
        timings |= steps
    if options.micro_batch and not options.embed_only:
        micro = compare_micro_batches(
            build(options, micro_batch=options.micro_batch),
            (timings, training),
            *(variables, xyz, rgb),
            repeats=options.repeats,
        )
    if not (options.embed_only or options.whole):
        parts = time_parts(model, variables, xyz, rgb, repeats=options.repeats)
    report = {
        **header("student_step", options),
        "threads": len(os.sched_getaffinity(0)),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
        **{name: timing.rounded() for name, timing in timings.items()},
        "parts": {name: timing.rounded() for name, timing in parts.items()},
        **training,
        "micro_batches": micro,
        "peak_process_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
