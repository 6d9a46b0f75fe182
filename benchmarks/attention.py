# SPDX-License-Identifier: Apache-2.0
"""Times attention head by head and in JAX's implementation, with gradients; prints one JSON line.

python -m benchmarks.attention --threads 1
"""

import argparse
import json
import sys
from collections.abc import Sequence

from benchmarks import student_step
from mrd_jax.cli import command


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.attention")
    parser.add_argument("--batch", type=int, default=8, help="number of point clouds")
    parser.add_argument(
        "--tokens", type=int, default=385, help="tokens per point cloud (OpenShape 4: 385)"
    )
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="width of a head")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls; prints their median")
    parser.add_argument("--threads", type=int, help="CPU cores to use; default: all")
    return parser.parse_args(arguments)


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures both implementations on the shapes of one layer and prints the report."""
    options = parse_options(arguments)
    student_step.limit_threads(options.threads)
    import jax

    from mrd_jax.kernels import attention

    shape = (options.batch, options.tokens, options.heads, options.width)
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value, gradient = (jax.random.normal(k, shape) for k in keys)
    report = student_step.header("attention", options)
    functions = {"library": jax.nn.dot_product_attention, "head_by_head": attention.head_by_head}
    for name, function in functions.items():

        def with_gradients(query, key, value, gradient, function=function):
            return jax.vjp(function, query, key, value)[1](gradient)

        forward = student_step.measure(
            jax.jit(function), query, key, value, repeats=options.repeats
        )
        both = student_step.measure(
            jax.jit(with_gradients), query, key, value, gradient, repeats=options.repeats
        )
        report[name] = {"forward": forward.rounded(), "with_gradients": both.rounded()}
    report["ratio"] = {
        part: round(report["head_by_head"][part]["cpu_s"] / report["library"][part]["cpu_s"], 2)
        for part in ("forward", "with_gradients")
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
