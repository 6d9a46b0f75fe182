# SPDX-License-Identifier: Apache-2.0
"""Evaluation of the student on the held-out split, with the variables of any step."""

import collections
import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from ml_collections import FrozenConfigDict

from mrd_jax import models, storage
from mrd_jax.data import dataset_metadata, read_ahead, source
from mrd_jax.distributed import backends, processes
from mrd_jax.encoder import embedding
from mrd_jax.evaluation import held_out_split, retrieval, zero_shot

# Fields of a record that are embedded.
_POINT_FIELDS = ("xyz", "rgb")
# Batches whose embeddings may be computed before the first of them is gathered.
_BATCHES_AHEAD = 2


class Evaluation(NamedTuple):
    """Result of one evaluation.

    Attributes:
      metrics: metric values by name, such as "test/top1".
      embeddings: float32 [shapes, dim], unit norm, in the order of the held-out split.
      relation_embeddings: those that the relations of the objective are computed from: by the
        relation head if the student has one, otherwise the same.
    """

    metrics: dict[str, float]
    embeddings: np.ndarray
    relation_embeddings: np.ndarray

    def with_metrics(self, values: Mapping[str, float]) -> "Evaluation":
        """Returns the evaluation with these metrics in addition."""
        return self._replace(metrics={**self.metrics, **values})


class Evaluator:
    """Embeds the held-out split and computes zero-shot and retrieval metrics.

    The teacher features of the split are read once. Points are read again at every evaluation,
    because they may not fit in memory.

    Attributes:
      config: config of the run.
      directory: folder of the data set that has the held-out split.
      records: records of the held-out split.
      held_out: teacher features, labels and names of the held-out split.
    """

    def __init__(self, config: FrozenConfigDict, *, model: nn.Module, backend: backends.Backend):
        """Opens the held-out split that `config.data` names.

        Args:
          config: config of the run.
          model: student to evaluate.
          backend: backend that runs the embedding step on all devices.

        Raises:
          ValueError: the split does not exist, or the data set in `config.data.test_directory` was
            prepared with another teacher or other conventions than those of the run.
        """
        data = config.data
        self.config = config
        self.directory = data.test_directory or data.directory
        if data.test_directory:
            dataset_metadata.check_test_set(data.test_directory, config)
        fingerprint = dataset_metadata.fingerprint(dataset_metadata.read(self.directory))
        processes.require_same({"test set": fingerprint})
        self.records = source.open_split(self.directory, data.test_split)
        self.held_out = held_out_split.load_held_out(self.directory, data.test_split)
        if data.test_directory:
            self.held_out = held_out_split.without_unseen(self.held_out)
        self._backend = backend
        if models.has_relation_head(config.model):
            model = model.clone(all_heads=True)
        self._embed_step = backend.embed(
            functools.partial(embedding.embed_step, model=model, config=config)
        )

    def embed(
        self,
        variables: dict[str, Any],
        records: source.RecordSource,
        indices: np.ndarray | None = None,
    ) -> np.ndarray:
        """Embeds records of a split, on all devices of all processes.

        Args:
          variables: `params` and `batch_stats` of the student, on the devices.
          records: records of the split.
          indices: positions of the records to embed; None for all.

        Returns:
          [records, dim] float32, unit norm, by `config.eval_head`, in the order of the split or of
          the indices.
        """
        heads = self._embed_heads(variables, records, indices)
        return embedding.choose_head(heads, self.config.eval_head)

    def _embed_heads(
        self,
        variables: dict[str, Any],
        records: source.RecordSource,
        indices: np.ndarray | None = None,
    ) -> np.ndarray:
        """Embeds records by all heads, [records, heads, dim], or [records, dim] by the only one."""
        indices = np.arange(len(records)) if indices is None else indices
        rows: list[np.ndarray] = []
        running: collections.deque[jax.Array] = collections.deque()
        for batch in self._batches(records, indices):
            running.append(self._embed_step(variables, self._backend.place_batch(batch)))
            # The devices compute the next batches while the host gathers one.
            if len(running) > _BATCHES_AHEAD:
                rows.append(self._backend.gather(running.popleft()))
        rows += map(self._backend.gather, running)
        return np.concatenate(rows)[: len(indices)]

    def run(self, variables: dict[str, Any]) -> Evaluation:
        """Computes the `test/...` metrics of the held-out split.

        Retrieval by class is not among them: it takes minutes on Objaverse-LVIS, so it is computed
        only once, in the final evaluation.

        Args:
          variables: `params` and `batch_stats` of the student, on the devices.
        """
        heads = self._embed_heads(variables, self.records)
        embeddings = embedding.choose_head(heads, self.config.eval_head)
        return Evaluation(
            measure(embeddings, self.held_out),
            embeddings,
            embedding.choose_head(heads, "relation"),
        )

    def _batches(
        self, records: source.RecordSource, indices: np.ndarray
    ) -> Iterator[dict[str, np.ndarray]]:
        """Yields this process's rows of each global batch; the last record pads the last batch."""
        size = self.config.batch_size
        local = size // jax.process_count()
        count = -(-len(indices) // size)
        padded = np.pad(indices, (0, count * size - len(indices)), mode="edge")
        own = padded.reshape(count, jax.process_count(), local)[:, jax.process_index()]

        def load(number: int) -> dict[str, np.ndarray]:
            rows = [records.read(index, _POINT_FIELDS) for index in own[number].tolist()]
            return {name: np.stack([row[name] for row in rows]) for name in _POINT_FIELDS}

        return read_ahead.iterate(
            load,
            indices=lambda number: own[number].tolist(),
            records=records,
            batch_size=local,
            length=count,
            threads=read_ahead.thread_count(records.directory, self.config.data.read_threads),
        )


def measure(embeddings: np.ndarray, shapes: held_out_split.HeldOut) -> dict[str, float]:
    """Computes the metrics that `Evaluator.run` reports.

    Args:
      embeddings: [shapes, dim], in the order of the split.
      shapes: held-out split.
    """
    accuracies = zero_shot.zero_shot(embeddings, shapes)
    recalls = retrieval.retrieval(embeddings, shapes, by_class=False)
    return {f"test/{name}": value for name, value in accuracies.items()} | {
        f"test/retrieval/{name}": value for name, value in recalls.items()
    }


def metric_names() -> list[str]:
    """Returns the names of all metrics that an evaluation can report.

    They are those of a split of one shape that has every annotation.
    """
    feature = np.ones((1, 1), np.float32)
    shape = {
        "id": "shape", "name": "name", "label": 0, "picture": "", "creator": "", "licence": "",
        "image_features": feature, "text_features": feature, "caption_kinds": ["name"],
    }  # fmt: skip
    shapes = held_out_split.collect(
        [shape],
        class_names=("class",),
        class_features=feature,
        unseen_ids=["shape"],
        pictures=storage.path("."),
    )
    return sorted(measure(feature, shapes))
