# SPDX-License-Identifier: Apache-2.0
"""The objective alone, compiled for a TPU slice that is not there; one JSON line.

python -m benchmarks.tpu_losses --topology v5e:8x8 --batch 16384 --form blockwise

Forward and gradient of the default objective, embeddings split over the chips. `--contrastive`
leaves the relations out: the difference is what they cost. Needs the `tpu` extra.
"""

import argparse
import functools
import json
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
from mrd_jax.analysis import ahead, chips, flops
from mrd_jax.distributed import backends

FIELDS = ("fits", "temporary_bytes", "peak_bytes", "estimate_s", "collectives")


def parse_arguments() -> argparse.Namespace:
    """Command line; see --help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--topology", default="v5e:8x8", help="slice")
    parser.add_argument("--batch", type=int, default=16_384, help="samples on all chips")
    parser.add_argument("--dim", type=int, default=1_280, help="of an embedding")
    parser.add_argument("--form", default="blockwise", choices=("plain", "blockwise"))
    parser.add_argument(
        "--block", type=int, help="columns at a time; configs/base.py's if left out"
    )
    parser.add_argument("--dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--contrastive", action="store_true", help="leave the relations out")
    return parser.parse_args()


def loss_config(options: argparse.Namespace) -> ConfigDict:
    """The default objective in the form that the command line asks for."""
    config = base.loss()
    config.update(form=options.form, dtype=options.dtype, block=options.block or config.block)
    if options.contrastive:
        config.update(lambda_intra=0.0, lambda_image=0.0, lambda_text=0.0)
    return config


def lower(
    config: ConfigDict, devices: Sequence[jax.Device], *, batch: int, dim: int
) -> jax.stages.Lowered:
    """Value and gradients of the objective, as the training step asks for them.

    Args:
      config: the loss options.
      devices: that the batch is split over.
      batch: samples on all of them.
      dim: length of an embedding.
    """
    mesh = Mesh(np.asarray(devices), (backends.AXIS,))
    split, whole = PartitionSpec(backends.AXIS), PartitionSpec()

    def body(points: jax.Array, teacher: Any, weights: Any) -> Any:
        def value(points: jax.Array, weights: Any) -> jax.Array:
            embeddings = teacher | {"points": points, "log_scale": weights["log_scale"]}
            return losses.mrd_loss(embeddings, weights, config, axis_name=backends.AXIS)[0]

        found, (to_points, to_weights) = jax.value_and_grad(value, argnums=(0, 1))(points, weights)
        return jax.lax.psum((found, to_weights), backends.AXIS), to_points

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


def main() -> None:
    """Compiles and prints."""
    options = parse_arguments()
    jax.config.update("jax_platforms", "cpu")
    chip, _ = chips.find(options.topology)
    devices = chips.devices(options.topology)
    if options.batch % len(devices):
        raise SystemExit(f"--batch {options.batch} does not divide over {len(devices)} chips")
    config = loss_config(options)
    lowered = lower(config, devices, batch=options.batch, dim=options.dim)
    started = time.perf_counter()
    found = ahead.of_compiled(lowered.compile(), chip)
    per_chip = options.batch // len(devices)
    needed = flops.losses(config, local_batch=per_chip, dim=options.dim, chips=len(devices))
    report = {"benchmark": "tpu_losses", **vars(options), "block": config.block}
    report |= {"chips": len(devices), "floor_s": needed / chip.peak}
    report |= {name: found[name] for name in FIELDS}
    report["compile_s"] = round(time.perf_counter() - started, 1)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
