# SPDX-License-Identifier: Apache-2.0
"""Attention head by head against the library's, forward and with gradients; one JSON line.

python -m benchmarks.attention --threads 1
"""

import argparse
import json
import os

from benchmarks import student_step


def main() -> None:
    """Measures both on the shapes of one layer and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="clouds")
    parser.add_argument("--tokens", type=int, default=385, help="of a cloud (OpenShape 4: 385)")
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64, help="of a head")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls; the median counts")
    parser.add_argument("--threads", type=int, help="CPU cores to use; all where left out")
    options = parser.parse_args()
    if options.threads:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    import jax

    from mrd_jax.kernels import attention

    shape = (options.batch, options.tokens, options.heads, options.width)
    keys = jax.random.split(jax.random.key(0), 4)
    query, key, value, gradient = (jax.random.normal(k, shape) for k in keys)
    report = {"benchmark": "attention", **vars(options), "device": jax.devices()[0].device_kind}
    ways = {"library": jax.nn.dot_product_attention, "head_by_head": attention.head_by_head}
    for name, way in ways.items():

        def both(query, key, value, gradient, way=way):
            return jax.vjp(way, query, key, value)[1](gradient)

        forward = student_step.measure(jax.jit(way), query, key, value, repeats=options.repeats)
        whole = student_step.measure(
            jax.jit(both), query, key, value, gradient, repeats=options.repeats
        )
        report[name] = {"forward": forward.rounded(), "with_gradients": whole.rounded()}
    report["ratio"] = {
        part: round(report["head_by_head"][part]["cpu_s"] / report["library"][part]["cpu_s"], 2)
        for part in ("forward", "with_gradients")
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
