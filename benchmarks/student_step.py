# SPDX-License-Identifier: Apache-2.0
"""Time of one training pass of the student and of its parts; prints one JSON line.

python -m benchmarks.student_step --size quick --threads 2
python -m benchmarks.student_step --size 4 --batch 8
"""

import argparse
import dataclasses
import json
import os
import resource
import statistics
import time

# Sizes beside the released scalings: batch, points, then the fields of the model.
QUICK = dict(
    dim=256, depth=6, heads=4, mlp_dim=1024, sa_dim=96, groups=64, radius=0.4, group_size=32
)
DEFAULTS = {"quick": dict(batch=32, points=2048), "scaling": dict(batch=8, points=10_000)}


def parse_arguments() -> argparse.Namespace:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="quick", help="quick, or a released scaling 1 to 6")
    parser.add_argument("--batch", type=int, help="clouds per pass (32; 8 for a scaling)")
    parser.add_argument("--points", type=int, help="points per cloud (2048; 10000 for a scaling)")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", action="store_true", help="recompute blocks and tokenizer")
    parser.add_argument("--unroll", action="store_true", help="unroll the loop over the blocks")
    parser.add_argument("--repeats", type=int, default=5, help="timed passes; the median counts")
    parser.add_argument("--threads", type=int, help="CPU cores to use; all where left out")
    return parser.parse_args()


@dataclasses.dataclass(frozen=True)
class Timing:
    """Medians of one jitted function in milliseconds."""

    wall: float
    cpu: float

    def rounded(self) -> dict[str, float]:
        """Give both figures for printing."""
        return {"ms": round(self.wall, 1), "cpu_ms": round(self.cpu, 1)}


def measure(function, *arguments, repeats: int) -> Timing:
    """Time a compiled function; the first call, which touches fresh memory, does not count."""
    import jax

    jax.block_until_ready(function(*arguments))
    wall, cpu = [], []
    for _ in range(repeats):
        before = time.perf_counter(), time.process_time()
        jax.block_until_ready(function(*arguments))
        wall.append(time.perf_counter() - before[0])
        cpu.append(time.process_time() - before[1])
    return Timing(1e3 * statistics.median(wall), 1e3 * statistics.median(cpu))


def gigaflops(sizes: dict, batch: int) -> dict[str, float]:
    """Count the matrix products of a forward pass, without those of batch norm's moments."""
    dim, hidden, tokens = sizes["dim"], sizes["mlp_dim"], sizes["groups"] + 1
    rows = batch * sizes["groups"] * sizes["group_size"]
    tokenizer = 2 * rows * (9 * 64 + 64 * 64 + 64 * sizes["sa_dim"])
    block = 2 * tokens * (4 * dim * dim + 2 * dim * hidden) + 4 * tokens * tokens * dim
    # The last block answers one token, from keys and values of all.
    last = 4 * tokens * dim * dim + 2 * (2 * dim * dim + 2 * dim * hidden) + 4 * tokens * dim
    transformer = batch * ((sizes["depth"] - 1) * block + last)
    return {"tokenizer": tokenizer / 1e9, "transformer": transformer / 1e9}


def time_parts(model, variables, xyz, rgb, *, repeats: int) -> dict[str, Timing]:
    """Time sampling and grouping forward, tokenizer and transformer forward and backward."""
    import jax
    import jax.numpy as jnp

    from mrd_jax.models import grouping, tokenizer, transformer

    def sample(xyz):
        return grouping.farthest_point_sample(xyz, model.groups)

    def group(xyz, rgb, centres):
        return tokenizer.group_points(
            xyz, rgb, centres, radius=model.radius, group_size=model.group_size
        )

    encoder = tokenizer.SetAbstraction(model.sa_dim, model.dtype)
    blocks = transformer.Transformer(
        model.depth, model.heads, model.mlp_dim, dtype=model.dtype, remat=model.remat,
        scan=model.scan,
    )  # fmt: skip

    def of_part(name):
        return {kind: tree[name] for kind, tree in variables.items() if name in tree}

    def encode(variables, groups):
        return jnp.sum(encoder.apply(variables, groups, True, mutable="batch_stats")[0])

    def transform(variables, tokens):
        return jnp.sum(blocks.apply(variables, tokens).astype(jnp.float32))

    centres = grouping.gather(xyz, jax.jit(sample)(xyz))
    groups = jax.jit(group)(xyz, rgb, centres)
    tokens = jax.random.normal(jax.random.key(3), (xyz.shape[0], model.groups + 1, model.dim))
    tokens = tokens.astype(model.dtype)
    work = {
        "fps": (jax.jit(sample), xyz),
        "grouping": (jax.jit(group), xyz, rgb, centres),
        "tokenizer": (jax.jit(jax.grad(encode)), of_part("tokenizer"), groups),
        "transformer": (
            jax.jit(jax.grad(transform, argnums=(0, 1))), of_part("transformer"), tokens,
        ),
    }  # fmt: skip
    return {name: measure(*call, repeats=repeats) for name, call in work.items()}


def main() -> None:
    """Measure and print."""
    options = parse_arguments()
    if options.threads:
        # Before jax is imported: its thread pool takes as many threads as it may use cores.
        os.sched_setaffinity(0, set(range(options.threads)))
    import jax
    import jax.numpy as jnp

    from mrd_jax import models
    from mrd_jax.models import point_bert

    quick = options.size == "quick"
    sizes = QUICK if quick else point_bert.SCALINGS[int(options.size)]
    defaults = DEFAULTS["quick" if quick else "scaling"]
    batch, points = options.batch or defaults["batch"], options.points or defaults["points"]
    model = models.build_model(
        dict(name="point_bert", out_dim=384 if quick else 1280, dtype=options.dtype,
             remat=options.remat, scan=not options.unroll, points=points, **sizes)
    )  # fmt: skip
    xyz = jax.random.normal(jax.random.key(0), (batch, points, 3))
    xyz /= jnp.linalg.norm(xyz, axis=-1, keepdims=True)  # surfaces, as in the data
    rgb = jax.random.uniform(jax.random.key(1), xyz.shape)
    variables = jax.jit(model.init)(jax.random.key(2), xyz[:1], rgb[:1])

    def loss(params, xyz, rgb):
        output, state = model.apply(
            variables | {"params": params}, xyz, rgb, train=True, mutable=["batch_stats"]
        )
        return jnp.sum(output**2), state

    start = time.perf_counter()
    step = jax.jit(jax.grad(loss, has_aux=True)).lower(variables["params"], xyz, rgb).compile()
    compile_seconds = time.perf_counter() - start
    forward = measure(jax.jit(loss), variables["params"], xyz, rgb, repeats=options.repeats)
    whole = measure(step, variables["params"], xyz, rgb, repeats=options.repeats)
    parts = time_parts(model, variables, xyz, rgb, repeats=options.repeats)
    flops = {name: 3 * count for name, count in gigaflops(sizes, batch).items()}
    report = {
        "size": options.size, "batch": batch, "points": points, "dtype": options.dtype,
        "remat": options.remat, "threads": len(os.sched_getaffinity(0)),
        "device": jax.devices()[0].device_kind, "step": whole.rounded(),
        "forward": forward.rounded(),
        "backward_ms": round(whole.wall - forward.wall, 1),
        "parts": {name: part.rounded() for name, part in parts.items()},
        "step_gflop": round(sum(flops.values()), 1),
        "gflop_per_s": round(sum(flops.values()) / whole.wall * 1e3, 1),
        "parts_gflop_per_s": {n: round(flops[n] / parts[n].wall * 1e3, 1) for n in flops},
        "compile_s": round(compile_seconds, 1),
        "temporary_mb": round(step.memory_analysis().temp_size_in_bytes / 1e6),
        "peak_process_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
