# SPDX-License-Identifier: Apache-2.0
"""Compiles parts of a student for a GPU and prints what a part costs, two JSON lines each.

python -m benchmarks.gpu_parts --batch 64 --groups 384 --group_size 64 fps ball_query knn attention

The first line is of the formulation that a GPU runs, the second of plain array operations, as other
platforms run them. Attention and transformer include their gradients. Requires the extra `cuda12`
or `cuda13`, but no GPU: the compiler estimates no times.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any
from unittest import mock

import jax

from benchmarks import tpu_parts
from mrd_jax.analysis import chips, gpu_targets, program
from mrd_jax.cli import command
from mrd_jax.kernels import platforms

FIELDS = ("temporary_bytes", "bytes", "bytes_s", "launches", "sorts", "library_calls")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line, which is that of `tpu_parts` for another kind of chip."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.gpu_parts")
    tpu_parts.add_options(parser)
    parser.set_defaults(topology="h100:1")
    return parser.parse_args(arguments)


def measure(part: str, options: argparse.Namespace, *, kernels: bool) -> dict[str, Any]:
    """Compiles a part for one GPU, with its kernels or without, and returns its report."""
    chip, _ = chips.parse_topology(options.topology)
    place = jax.sharding.SingleDeviceSharding(chips.make_devices(options.topology)[0])
    function, shapes = tpu_parts.build(part, options)
    shapes = jax.tree.map(
        lambda shape: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place), shapes
    )
    with mock.patch.object(platforms, "compiles_cuda", lambda: kernels):
        lowered = jax.jit(function).lower(*shapes)
    report = program.describe(lowered.compile(gpu_targets.COMPILER_OPTIONS), chip)
    settings = {name: value for name, value in vars(options).items() if name != "debug"}
    figures = {name: report[name] for name in FIELDS}
    return {"benchmark": "gpu_parts", **settings, "parts": part, "kernels": kernels, **figures}


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles the parts and prints their reports."""
    options = parse_options(arguments)
    # Compilation needs no GPU, and leaves one that the machine has to other programs.
    jax.config.update("jax_platforms", "cpu")
    for part in options.parts:
        for kernels in (True, False):
            print(json.dumps(measure(part, options, kernels=kernels)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
