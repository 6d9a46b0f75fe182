# SPDX-License-Identifier: Apache-2.0
"""Encoders as one file for `jax.export`: a StableHLO program for CPU, GPU and TPU, and its weights.

The file is a `.npz` with `program`, the bytes of `jax.export.Exported.serialize`; `weights/PATH`,
the arrays that the program takes as a dict; and `card`, a JSON object. The weights are beside the
program and not in it, since a serialised program is limited to 2 GB.
"""

import json
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from mrd_jax import atomic_io, storage
from mrd_jax.checkpoints import model_card, restore
from mrd_jax.encoder import embedding
from mrd_jax.kernels import attention

# Version of the layout of the file.
VERSION = 1
PLATFORMS = ("cpu", "cuda", "tpu")
_WEIGHTS = "weights/"


def write(
    path: storage.PathLike,
    *,
    card: model_card.ModelCard,
    variables: Mapping[str, Any],
    batch_size: int = 0,
) -> None:
    """Exports an encoder and writes it atomically.

    Args:
      path: `.npz` file to write.
      card: model card of the encoder.
      variables: its `params` and `batch_stats`.
      batch_size: point clouds per call; 0 for any number, which are embedded one by one.

    Raises:
      ImportError: flatbuffers is not installed.
    """
    weights = flatten(variables)
    program = export_program(card, weights, batch_size=batch_size)
    fields = {
        "version": VERSION,
        "batch_size": batch_size,
        "platforms": PLATFORMS,
        "card": card.as_dict(),
    }
    atomic_io.write_npz(
        path,
        program=np.frombuffer(program, np.uint8),
        card=np.array(json.dumps(fields)),
        **weights,
    )


def flatten(variables: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the arrays of an encoder by their names in the file."""
    leaves = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)), sep="/")
    return {_WEIGHTS + name: np.asarray(leaf) for name, leaf in leaves.items()}


def export_program(
    card: model_card.ModelCard, weights: Mapping[str, np.ndarray], *, batch_size: int = 0
) -> bytearray:
    """Exports the program (weights, xyz, rgb) -> embeddings.

    Args:
      card: model card of the encoder.
      weights: the result of `flatten`; only shapes and types matter.
      batch_size: point clouds per call; 0 for any number, which are embedded one by one.

    Returns:
      Serialised program: xyz and rgb, float32 [batch, points, 3], become [batch, dim], unit norm.

    Raises:
      ImportError: flatbuffers is not installed.
    """
    model = restore.build(card).clone(attention=attention.PORTABLE)

    def embed(weights: Mapping[str, jax.Array], xyz: jax.Array, rgb: jax.Array) -> jax.Array:
        leaves = {name.removeprefix(_WEIGHTS): leaf for name, leaf in weights.items()}
        variables = flax.traverse_util.unflatten_dict(leaves, sep="/")

        def rows(xyz: jax.Array, rgb: jax.Array) -> jax.Array:
            return embedding.embed_clouds(variables, xyz, rgb, model=model, card=card)

        if batch_size:
            return rows(xyz, rgb)
        return jax.lax.map(lambda cloud: rows(cloud[0][None], cloud[1][None])[0], (xyz, rgb))

    batch = batch_size or export.symbolic_shape("batch")[0]
    cloud = jax.ShapeDtypeStruct((batch, card.points, 3), jnp.float32)
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights.items()}
    exported = export.export(jax.jit(embed), platforms=PLATFORMS)(shapes, cloud, cloud)
    try:
        return exported.serialize()
    except ImportError as error:  # JAX imports flatbuffers where it is used
        raise ImportError('flatbuffers is missing: pip install "mrd_jax[export]"') from error
