# SPDX-License-Identifier: Apache-2.0
"""The objective in whole matrices against column blocks, forward and gradient; one JSON line.

python -m benchmarks.losses --batch 4096 --dim 1280 --threads 1
"""

import argparse
import json
import os
from typing import Any

from benchmarks import student_step


def parse_arguments() -> argparse.Namespace:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2048, help="samples, all on one device")
    parser.add_argument("--dim", type=int, default=1280, help="of an embedding")
    parser.add_argument(
        "--block", type=int, help="columns at a time; configs/base.py's if left out"
    )
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--forms", nargs="+", default=["plain", "blockwise"])
    parser.add_argument("--repeats", type=int, default=5, help="timed calls; the median counts")
    parser.add_argument("--threads", type=int, help="CPU cores to use; all where left out")
    return parser.parse_args()


def objective(options: argparse.Namespace, *, form: str) -> tuple[Any, tuple[Any, ...]]:
    """Value and gradient of the default objective, and arguments for it."""
    import jax
    import jax.numpy as jnp

    from configs import base
    from mrd_jax import losses

    config = base.loss()
    config.update(form=form, dtype=options.dtype, block=options.block or config.block)
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (options.batch, options.dim)
    points, image, text = (jax.random.normal(key, shape) for key in keys)
    # Alike across modalities, as after some training; one in eight lacks its text.
    teacher = {
        "image": image + points,
        "text": text + points,
        "has_image": jnp.ones(shape[:1], dtype=bool),
        "has_text": jnp.arange(options.batch) % 8 > 0,
    }

    def value(points: jax.Array, weights: Any, teacher: Any) -> tuple[jax.Array, Any]:
        embeddings = teacher | {"points": points, "log_scale": weights["log_scale"]}
        return losses.mrd_loss(embeddings, weights, config)

    arguments = (points, losses.init_loss_params(config), teacher)
    return jax.value_and_grad(value, argnums=(0, 1), has_aux=True), arguments


def ratio(found: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Each figure of the plain form over that of the blockwise one, where both were measured."""
    if not {"plain", "blockwise"} <= found.keys():
        return {}
    whole, blocks = found["plain"], found["blockwise"]
    return {
        "plain_over_blockwise": {
            figure: round(whole[figure] / blocks[figure], 2) for figure in whole
        }
    }


def main() -> None:
    """Measures each form and prints."""
    options = parse_arguments()
    if options.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    import jax

    report = {"benchmark": "losses", **vars(options), "device": jax.devices()[0].device_kind}
    found = {}
    for form in options.forms:
        function, arguments = objective(options, form=form)
        compiled = jax.jit(function).lower(*arguments).compile()
        timing = student_step.measure(compiled, *arguments, repeats=options.repeats)
        temporary = compiled.memory_analysis().temp_size_in_bytes / 1e6
        found[form] = {"s": timing.wall, "cpu_s": timing.cpu, "temporary_mb": temporary}
        report[form] = timing.rounded() | {"temporary_mb": round(temporary, 1)}
    report |= ratio(found)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
