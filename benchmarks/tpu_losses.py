# SPDX-License-Identifier: Apache-2.0
"""Compiles the objective alone for a TPU slice, without a TPU; prints one JSON line.

python -m benchmarks.tpu_losses --topology v5e:8x8 --batch 16384 --form blockwise

Value and gradient of the default objective, with the embeddings split over the chips.
`--contrastive` drops the relation terms, so that the difference is their cost. Requires the `tpu`
extra.
"""

import argparse
import functools
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from configs import base
from mrd_jax import losses
from mrd_jax.analysis import chips, flops, program
from mrd_jax.cli import command
from mrd_jax.distributed import backends

FIELDS = ("fits", "temporary_bytes", "peak_bytes", "estimate_s", "collectives")


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.tpu_losses")
    parser.add_argument("--topology", default="v5e:8x8", help="TPU slice")
    parser.add_argument("--batch", type=int, default=16_384, help="global batch size")
    parser.add_argument("--dim", type=int, default=1_280, help="embedding dimension")
    parser.add_argument("--form", default="blockwise", choices=("plain", "blockwise"))
    parser.add_argument(
        "--block", type=int, help="columns per block (default: as in configs/base.py)"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--contrastive", action="store_true", help="drop the relation terms")
    return parser.parse_args(arguments)


def loss_config(options: argparse.Namespace) -> ConfigDict:
    """Returns the config of the default objective with the options of the command line."""
    config = base.loss()
    config.update(form=options.form, dtype=options.dtype, block=options.block or config.block)
    if options.contrastive:
        config.update(lambda_intra=0.0, lambda_image=0.0, lambda_text=0.0)
    return config


def lower(
    config: ConfigDict, devices: Sequence[jax.Device], *, batch: int, dim: int
) -> jax.stages.Lowered:
    """Lowers the value and the gradients of the objective, as in the training step.

    Args:
      config: `config.loss` of a run.
      devices: devices that the batch is split over.
      batch: global batch size.
      dim: embedding dimension.
    """
    mesh = Mesh(np.asarray(devices), (backends.AXIS,))
    split, whole = PartitionSpec(backends.AXIS), PartitionSpec()

    def body(points: jax.Array, teacher: Any, weights: Any) -> Any:
        def value(points: jax.Array, weights: Any) -> jax.Array:
            embeddings = teacher | {"points": points, "log_scale": weights["log_scale"]}
            return losses.mrd_loss(embeddings, weights, config, axis_name=backends.AXIS)[0]

        loss, (to_points, to_weights) = jax.value_and_grad(value, argnums=(0, 1))(points, weights)
        return jax.lax.psum((loss, to_weights), backends.AXIS), to_points

    def shapes(tree: Any, spec: PartitionSpec) -> Any:
        place = functools.partial(jax.ShapeDtypeStruct, sharding=NamedSharding(mesh, spec))
        return jax.tree.map(lambda leaf: place(leaf.shape, leaf.dtype), tree)

    rows = jax.ShapeDtypeStruct((batch, dim), jnp.float32)
    features = jax.ShapeDtypeStruct((batch, dim), jnp.float16)
    mask = jax.ShapeDtypeStruct((batch,), jnp.bool_)
    teacher = {"image": features, "text": features, "has_image": mask, "has_text": mask}
    weights = jax.eval_shape(lambda: losses.init_loss_params(config))
    mapped = jax.shard_map(
        body,
        mesh=mesh,
        in_specs=(split, split, whole),
        out_specs=(whole, split),
        check_vma=False,
    )
    return jax.jit(mapped).lower(
        shapes(rows, split), shapes(teacher, split), shapes(weights, whole)
    )


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Compiles the objective and prints the report."""
    options = parse_options(arguments)
    jax.config.update("jax_platforms", "cpu")
    chip, _ = chips.parse_slice(options.topology)
    devices = chips.make_devices(options.topology)
    if options.batch % len(devices):
        raise ValueError(
            f"--batch is {options.batch}, which does not divide over {len(devices)} chips"
        )
    config = loss_config(options)
    lowered = lower(config, devices, batch=options.batch, dim=options.dim)
    started = time.perf_counter()
    measured = program.describe(lowered.compile(), chip)
    per_chip = options.batch // len(devices)
    operations = flops.count_losses(
        config, local_batch=per_chip, dim=options.dim, chips=len(devices)
    )
    settings = {name: value for name, value in vars(options).items() if name != "debug"}
    report = {"benchmark": "tpu_losses", **settings, "block": config.block}
    report |= {"chips": len(devices), "floor_s": operations / chip.peak}
    report |= {name: measured[name] for name in FIELDS}
    report["compile_s"] = round(time.perf_counter() - started, 1)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
