# SPDX-License-Identifier: Apache-2.0
"""Objective of fine-tuning: cross entropy of a linear class head on the unit embedding."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mrd_jax.encoder import class_head, embedding
from mrd_jax.evaluation import held_out_split
from mrd_jax.training import objectives, optimizer


@dataclasses.dataclass(frozen=True)
class Classification:
    """Cross entropy with label smoothing, see `mrd_jax.training.objectives.Objective`.

    The logits are scale * (embedding @ kernel) + bias.

    Attributes:
      kernel: float32 [dim, classes], initial kernel.
      scale: factor on the cosine similarities.
      label_smoothing: probability that is spread evenly over all classes.
      trainable_blocks: see `optimizer.trainable_scales`.
      batch_size: samples of the global batch.
    """

    kernel: np.ndarray
    scale: float
    label_smoothing: float
    trainable_blocks: int
    batch_size: int

    def init_params(self) -> dict[str, Any]:
        """See `Objective.init_params`."""
        kernel = jnp.asarray(self.kernel, jnp.float32)
        return {"kernel": kernel, "bias": jnp.zeros(kernel.shape[1], jnp.float32)}

    def adapt(self, model: nn.Module) -> nn.Module:
        """See `Objective.adapt`; classes are told apart by the contrastive head."""
        return model

    def trainable(self, params: Any) -> Any:
        """See `Objective.trainable`."""

        def select(leaf: jax.Array, scale: jax.Array | float) -> jax.Array:
            frozen = jax.lax.stop_gradient(leaf)
            if isinstance(scale, float):
                return leaf if scale else frozen
            return jnp.where(scale > 0, leaf, frozen)

        scales = optimizer.trainable_scales(params, self.trainable_blocks)
        return jax.tree.map(select, params, scales)

    def loss(
        self,
        outputs: jax.Array,
        params: dict[str, Any],
        batch: dict[str, jax.Array],
        *,
        step: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, objectives.Metrics]:
        """See `Objective.loss`; the parts are the fraction of correct classes, and the total."""
        del step, axis_name
        rows = embedding.normalise(outputs.astype(jnp.float32))
        # A matrix product in reduced precision would disagree with the head on the host.
        cosines = jnp.matmul(rows, params["kernel"], precision=jax.lax.Precision.HIGHEST)
        logits = self.scale * cosines + params["bias"]
        targets = jax.nn.one_hot(batch["label"], logits.shape[-1])
        entropies = optax.softmax_cross_entropy(
            logits, optax.smooth_labels(targets, self.label_smoothing)
        )
        total = jnp.sum(entropies) / self.batch_size
        correct = jnp.argmax(logits, axis=-1) == batch["label"]
        return total, {"accuracy": jnp.sum(correct) / self.batch_size, "total": total}

    def metrics(self, params: dict[str, Any], *, step: jax.Array) -> objectives.Metrics:
        """See `Objective.metrics`; there are no others."""
        del params, step
        return {}

    def constrain(self, params: dict[str, Any]) -> dict[str, Any]:
        """See `Objective.constrain`; the class head is not bounded."""
        return params

    def class_head(self, params: dict[str, Any], names: tuple[str, ...]) -> class_head.ClassHead:
        """Returns the class head with the factor on its logits included.

        Args:
          params: parameters of the objective, on the host.
          names: [classes], names of the classes.
        """
        kernel = np.float32(self.scale) * np.asarray(params["kernel"], np.float32)
        return class_head.ClassHead(names, kernel, np.asarray(params["bias"], np.float32))


def initial_kernel(name: str, held_out: held_out_split.HeldOut) -> np.ndarray:
    """Returns the initial kernel of a class head, float32 [dim, classes].

    Args:
      name: "class_names", the teacher's features of the names, so that training starts from the
        zero-shot classifier; or "zeros", which gives all classes the same logit.
      held_out: held-out split, which has the classes and their features.
    """
    features = held_out.class_features.T
    return features if name == "class_names" else np.zeros_like(features)
