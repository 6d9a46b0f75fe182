# SPDX-License-Identifier: Apache-2.0
"""What a training step minimises: the part of a step that distillation does not share with others.

An objective has parameters of its own, which the train state holds as `params["loss"]`.
"""

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from mrd_jax import losses, models
from mrd_jax.losses import lambda_schedule, modalities, temperatures

Metrics = dict[str, jax.Array]

# Fields of a batch that hold the teacher's features; the means exist if the config asks for them.
FEATURES = ("image", "text", "has_image", "has_text", "image_mean", "text_mean")


class Objective(Protocol):
    """Loss of a run; its methods run inside a per-device body."""

    def init_params(self) -> dict[str, Any]:
        """Initialises the parameters of the objective."""

    def adapt(self, model: nn.Module) -> nn.Module:
        """Returns the encoder with the outputs that `loss` takes."""

    def trainable(self, params: Any) -> Any:
        """Returns the parameters {"student": ..., "loss": ...}, without gradient where frozen."""

    def loss(
        self,
        outputs: jax.Array,
        params: dict[str, Any],
        batch: dict[str, jax.Array],
        *,
        step: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, Metrics]:
        """Computes this device's share of the loss of the global batch.

        Args:
          outputs: outputs of the adapted encoder for this device's rows.
          params: parameters of the objective.
          batch: this device's rows, see `mrd_jax.data.batch_spec`.
          step: int32 scalar, number of updates before this one.
          axis_name: mesh axis that the batch is split over; None for one device.

        Returns:
          Scalar to differentiate, and its parts with their sum `total`. Summed over devices, they
          are those of the global batch.
        """

    def metrics(self, params: dict[str, Any], *, step: jax.Array) -> Metrics:
        """Returns metrics of the parameters of the objective, besides the parts of the loss."""

    def constrain(self, params: dict[str, Any]) -> dict[str, Any]:
        """Returns updated parameters of the objective, within their bounds."""


@dataclasses.dataclass(frozen=True)
class Distillation:
    """Multi-modal relation distillation, see `mrd_jax.losses`.

    Attributes:
      config: config of the run.
    """

    config: ConfigDict

    def init_params(self) -> dict[str, Any]:
        """See `Objective.init_params`."""
        return losses.init_loss_params(self.config.loss)

    def adapt(self, model: nn.Module) -> nn.Module:
        """See `Objective.adapt`; returns all heads if there is one for the relations."""
        return model.clone(all_heads=True) if self._has_relation_head else model

    def trainable(self, params: Any) -> Any:
        """See `Objective.trainable`."""
        return params

    def loss(
        self,
        outputs: jax.Array,
        params: dict[str, Any],
        batch: dict[str, jax.Array],
        *,
        step: jax.Array,
        axis_name: str | None,
    ) -> tuple[jax.Array, Metrics]:
        """See `Objective.loss`."""
        if self._has_relation_head:
            points, relation_points = jnp.unstack(outputs, axis=1)
            heads = {"points": points, modalities.RELATION_POINTS: relation_points}
        else:
            heads = {"points": outputs}
        embeddings = {
            **heads,
            "log_scale": params["log_scale"],
            **{name: batch[name] for name in FEATURES if name in batch},
        }
        return losses.mrd_loss(
            embeddings,
            params,
            self.config.loss,
            lambda_factor=self._lambda_factor(step),
            axis_name=axis_name,
        )

    def metrics(self, params: dict[str, Any], *, step: jax.Array) -> Metrics:
        """See `Objective.metrics`."""
        metrics = {
            **losses.mixing_weights(params, self.config.loss),
            "scale": jnp.exp(params["log_scale"]),
        }
        for key, name in temperatures.LEARNED.items():
            if name in params:
                metrics[f"{key}_temperature"] = jnp.exp(params[name])
        if not lambda_schedule.is_constant(self.config.loss):
            metrics["lambda_factor"] = jnp.asarray(self._lambda_factor(step))
        return metrics

    def constrain(self, params: dict[str, Any]) -> dict[str, Any]:
        """See `Objective.constrain`; bounds the contrastive scale."""
        # CLIP clips the parameter itself. Beyond a bound inside the loss, it would get no gradient.
        bounded = jnp.minimum(params["log_scale"], self.config.loss.log_scale_max)
        return params | {"log_scale": bounded}

    @property
    def _has_relation_head(self) -> bool:
        return models.has_relation_head(self.config.model)

    def _lambda_factor(self, step: jax.Array) -> jax.Array | float:
        return lambda_schedule.factor(self.config.loss, step, total_steps=self.config.total_steps)
