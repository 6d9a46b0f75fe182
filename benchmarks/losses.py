# SPDX-License-Identifier: Apache-2.0
"""Times the objective and its gradient in the plain and the blockwise form; prints one JSON line.

python -m benchmarks.losses --batch 4096 --dim 1280 --threads 1
python -m benchmarks.losses --batch 256 --image_positives 4 --relation_features mean
"""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from benchmarks import student_step
from mrd_jax.cli import command


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.losses")
    parser.add_argument("--batch", type=int, default=2048, help="samples, all on one device")
    parser.add_argument("--dim", type=int, default=1280, help="embedding dimension")
    parser.add_argument("--block", type=int, help="columns at a time; default: configs/base.py")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--image_positives", type=int, default=1, help="images per sample")
    parser.add_argument("--text_positives", type=int, default=1, help="texts per sample")
    parser.add_argument("--relation_features", default="drawn", choices=("drawn", "mean"))
    parser.add_argument("--forms", nargs="+", default=["plain", "blockwise"])
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; prints their median")
    parser.add_argument("--threads", type=int, help="CPU cores to use; default: all")
    return parser.parse_args(arguments)


def objective(options: argparse.Namespace, *, form: str) -> tuple[Any, tuple[Any, ...]]:
    """Returns a function for value and gradient of the default objective, and its arguments."""
    import jax
    import jax.numpy as jnp

    from configs import base
    from mrd_jax import losses

    config = base.loss()
    config.update(form=form, dtype=options.dtype, block=options.block or config.block)
    config.relation_features = options.relation_features
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (options.batch, options.dim)
    points = jax.random.normal(keys[0], shape)
    has = {"image": jnp.ones(shape[:1], bool), "text": jnp.arange(options.batch) % 8 > 0}
    teacher = {}
    for key, name in zip(keys[1:], has, strict=True):
        # Correlated across modalities, as after some training; one sample in eight has no text.
        count = getattr(options, f"{name}_positives")
        drawn = jax.random.normal(key, (options.batch, count, options.dim)) + points[:, None]
        mask = jnp.repeat(has[name][:, None], count, axis=1)
        teacher[name] = drawn if count > 1 else drawn[:, 0]
        teacher[f"has_{name}"] = mask if count > 1 else mask[:, 0]
        if options.relation_features == "mean":
            teacher[f"{name}_mean"] = drawn[:, 0]

    def value(points: jax.Array, weights: Any, teacher: Any) -> tuple[jax.Array, Any]:
        embeddings = teacher | {"points": points, "log_scale": weights["log_scale"]}
        return losses.mrd_loss(embeddings, weights, config)

    arguments = (points, losses.init_loss_params(config), teacher)
    return jax.value_and_grad(value, argnums=(0, 1), has_aux=True), arguments


def ratio(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Returns the figures of the plain form divided by those of the blockwise form."""
    if not {"plain", "blockwise"} <= figures.keys():
        return {}
    plain, blockwise = figures["plain"], figures["blockwise"]
    return {
        "plain_over_blockwise": {
            name: round(value / blockwise[name], 2) for name, value in plain.items()
        }
    }


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures each form and prints the report."""
    options = parse_options(arguments)
    student_step.limit_threads(options.threads)
    import jax

    report = student_step.header("losses", options)
    figures = {}
    for form in options.forms:
        function, inputs = objective(options, form=form)
        compiled = jax.jit(function).lower(*inputs).compile()
        timing = student_step.measure(compiled, *inputs, repeats=options.repeats)
        temporary = compiled.memory_analysis().temp_size_in_bytes / 1e6
        figures[form] = {"s": timing.wall, "cpu_s": timing.cpu, "temporary_mb": temporary}
        report[form] = timing.rounded() | {"temporary_mb": round(temporary, 1)}
    report |= ratio(figures)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
