# SPDX-License-Identifier: Apache-2.0
"""Parts of a fine-tuning run: those of any run, with another objective and another evaluation."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from mrd_jax.checkpoints import train_state
from mrd_jax.encoder import class_head
from mrd_jax.evaluation import evaluator, results
from mrd_jax.finetuning import classification
from mrd_jax.training import optimizer
from mrd_jax.training import run as run_lib

# Name of the row of results.
NAME = "fine-tuned"


@dataclasses.dataclass(frozen=True)
class FineTuning(run_lib.Run):
    """Run that trains an encoder and a class head on labelled shapes.

    Attributes:
      classes: names of the classes, in the order of the labels.
      kernel: float32 [dim, classes], initial kernel of the class head.
    """

    classes: tuple[str, ...] = ()
    kernel: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @property
    def objective(self) -> classification.Classification:
        """See `Run.objective`."""
        return classification.Classification(
            self.kernel,
            scale=self.config.finetune.head_scale,
            label_smoothing=self.config.finetune.label_smoothing,
            trainable_blocks=self.config.finetune.trainable_blocks,
            batch_size=self.config.batch_size,
        )

    def evaluate(
        self, state: train_state.TrainState, tested: evaluator.Evaluator
    ) -> evaluator.Evaluation:
        """See `Run.evaluate`; the metrics are those of the class head."""
        embeddings = tested.embed(state.variables(), tested.records)
        head = self.class_head(state)
        result = measure(embeddings, head=head, tested=tested)
        metrics = {f"test/{name}": value for name, value in result.metrics.items()}
        return evaluator.Evaluation(metrics, embeddings, embeddings)

    def track(self, tested: evaluator.Evaluator) -> None:
        """See `Run.track`; there are no relations to track."""

    def class_head(self, state: train_state.TrainState) -> class_head.ClassHead:
        """Returns the class head of a train state, on the host; every process calls it."""
        return self.objective.class_head(to_host(state.params["loss"]), self.classes)


def build(
    config: ConfigDict, *, devices: Sequence[jax.Device] | None = None
) -> tuple[FineTuning, evaluator.Evaluator]:
    """Builds a fine-tuning run and opens its test split.

    Args:
      config: config from `settings.resolve`.
      devices: devices of the run, over all processes; all devices by default.

    Raises:
      ValueError: the processes differ, or the test split does not fit the run.
    """
    plain = run_lib.build_run(config, devices=devices)
    tested = evaluator.Evaluator(plain.config, model=plain.model, backend=plain.backend)
    parts: dict[str, Any] = {
        field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)
    }
    blocks = config.finetune.trainable_blocks
    if blocks:
        parts["optimizer"] = optax.chain(plain.optimizer, optimizer.freeze(blocks))
    return FineTuning(
        **parts,
        classes=tested.held_out.class_names,
        kernel=classification.initial_kernel(config.finetune.head, tested.held_out),
    ), tested


def measure(
    embeddings: np.ndarray, *, head: class_head.ClassHead, tested: evaluator.Evaluator
) -> results.Result:
    """Computes the accuracies of a class head on the test split.

    Args:
      embeddings: [shapes, dim], unit norm, in the order of the split.
      head: class head.
      tested: evaluator of the split.
    """
    scores = head.logits(embeddings)
    return results.from_scores(scores, name=NAME, held_out=tested.held_out)


def to_host(tree: Any) -> Any:
    """Copies arrays to the host, also those that are sharded over processes."""

    def copy(leaf: jax.Array) -> np.ndarray:
        if leaf.is_fully_addressable:
            return np.asarray(leaf)
        return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

    return jax.tree.map(copy, tree)
