# SPDX-License-Identifier: Apache-2.0
"""Example of a student encoder: a point set network without groups, attention or batch norm.

python docs/examples/student.py WORKDIR
"""

import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from configs import quickstart
from mrd_jax import models
from mrd_jax.training import train


# --8<-- [start:student]
class DeepSets(nn.Module):
    """Layers on every point, the maximum over the points, and a projection (Zaheer et al. 2017).

    Attributes:
      dim: width of the layers.
      depth: number of layers before the maximum.
      out_dim: length of the embedding.
      dtype: dtype of the activations; parameters and norms are float32.
      micro_batch: required field of every encoder; this one always runs the whole batch.
    """

    dim: int
    depth: int
    out_dim: int
    dtype: jax.typing.DTypeLike = jnp.float32
    micro_batch: int = 0

    @nn.compact
    def __call__(
        self,
        xyz: jax.Array,
        rgb: jax.Array,
        train: bool = False,
        axis_name: str | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Embeds point clouds.

        Args:
          xyz: [local_batch, points, 3], coordinates in the unit sphere, z up.
          rgb: [local_batch, points, 3], colours from 0 to 1.
          train: training instead of evaluation; no effect, since no layer depends on it.
          axis_name: mesh axis of the batch; unused, since samples share no statistics.
          keys: [local_batch] random keys, one per sample; unused, since nothing is random.

        Returns:
          [local_batch, out_dim] float32, before normalisation.
        """
        del train, axis_name, keys
        x = jnp.concatenate([xyz, rgb], axis=-1).astype(self.dtype)
        for _ in range(self.depth):
            x = nn.gelu(nn.LayerNorm(dtype=self.dtype)(nn.Dense(self.dim, dtype=self.dtype)(x)))
        x = jnp.max(x, axis=1)  # [local_batch, dim]
        return nn.Dense(self.out_dim, dtype=self.dtype)(x).astype(jnp.float32)


# --8<-- [end:student]


# --8<-- [start:config]
def get_config() -> ConfigDict:
    """Returns the quickstart config with this encoder."""
    config = quickstart.get_config()
    points = config.model.points
    config.model = ConfigDict()
    # Key of `models.MODELS`.
    config.model.name = "deep_sets"
    # Points per point cloud, as in the quickstart.
    config.model.points = points
    # Width and number of layers before the maximum.
    config.model.dim = 256
    config.model.depth = 4
    # Length of the teacher's features.
    config.model.out_dim = config.teacher.dim
    config.model.dtype = "float32"
    # 0 runs the whole batch at once; this encoder has no micro-batches.
    config.model.micro_batch = 0
    return config


# --8<-- [end:config]


# --8<-- [start:register]
def register() -> None:
    """Registers `config.model.name = "deep_sets"` for configs, model cards and checkpoints."""
    models.MODELS["deep_sets"] = DeepSets


if __name__ == "__main__":
    register()
    train.train_and_evaluate(get_config(), sys.argv[1])
# --8<-- [end:register]
