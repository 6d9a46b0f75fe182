# SPDX-License-Identifier: Apache-2.0
"""Saving a student for its users, loading it from wherever it was saved, and embedding clouds."""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from flax import linen as nn

from mrd_jax import atomic_io
from mrd_jax.checkpoints import manifest, model_card, paths, restore
from mrd_jax.distributed import backends
from mrd_jax.encoder import embedding

# Records keep half floats, so a norm of 1 may read as 1.0005.
_LARGEST_NORM = 1.001

# xyz [points, 3] and rgb [points, 3] of one cloud.
Cloud = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A student with its variables and its card.

    Attributes:
      model: the student.
      variables: `params` and `batch_stats`, on every one of `devices`.
      card: what it is, and what clouds it expects.
      devices: that batches are split over; local ones.
    """

    model: nn.Module
    variables: dict[str, Any]
    card: model_card.ModelCard
    devices: tuple[jax.Device, ...]

    def embed(self, clouds: Iterable[Cloud], *, batch_size: int = 32) -> np.ndarray:
        """Embeds clouds that obey the card, in their order.

        A row depends on its own cloud alone, up to float rounding: not on the batch size, the
        neighbours or the number of devices.

        Args:
          clouds: (xyz [points, 3], rgb [points, 3] in 0..1) each; read batch by batch, the next
            while the devices work on the last.
          batch_size: clouds a call over all devices, rounded up to a multiple of their number.

        Returns:
          float32 [clouds, dim], unit norm.

        Raises:
          ValueError: a cloud does not obey the card; names its position and what is wrong. Or
            batch_size is not positive, or an embedding is not finite.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected a positive number")
        rows = [np.zeros((0, self.card.teacher_dim), np.float32)]
        in_flight = None
        for batch, count in self._batches(clouds, _round_up(batch_size, len(self.devices))):
            computing = self._body(self.variables, self._backend.place_batch(batch)), count
            if in_flight:
                rows.append(_fetch(*in_flight))
            in_flight = computing
        if in_flight:
            rows.append(_fetch(*in_flight))
        embeddings = np.concatenate(rows)
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"the embedding of cloud {int(np.argmin(finite))} is not finite: the checkpoint's "
                "weights are damaged or overflow in this dtype"
            )
        return embeddings

    @functools.cached_property
    def _backend(self) -> backends.ShardMapBackend:
        return backends.ShardMapBackend(self.devices)

    @functools.cached_property
    def _body(self) -> Any:
        def body(variables: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
            rows: Any = self.model.apply(variables, batch["xyz"], batch["rgb"])
            return embedding.normalise(rows)

        return self._backend.embed(body)

    def _batches(
        self, clouds: Iterable[Cloud], size: int
    ) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Batches of one size, and how many clouds each holds; the last repeats its last cloud."""
        kept: list[Cloud] = []
        full = False
        for position, cloud in enumerate(clouds):
            kept.append(self._checked(cloud, position))
            if len(kept) == size:
                yield _stack(kept, size), size
                kept, full = [], True
        if kept:
            # Fewer clouds than one batch need not pay for a whole one.
            size = size if full else _round_up(len(kept), len(self.devices))
            yield _stack(kept, size), len(kept)

    def _checked(self, cloud: Cloud, position: int) -> Cloud:
        """The cloud as float32, if it obeys the card."""
        xyz, rgb = (np.asarray(part, np.float32) for part in cloud)
        fault = None
        shape = (self.card.points, 3)
        if xyz.shape != shape or rgb.shape != shape:
            fault = f"xyz is {list(xyz.shape)} and rgb {list(rgb.shape)}; expected {list(shape)}"
        elif not (np.isfinite(xyz).all() and np.isfinite(rgb).all()):
            fault = "not every number is finite"
        elif rgb.min() < 0 or rgb.max() > 1:
            fault = f"rgb spans {rgb.min():g} to {rgb.max():g}; expected 0 to 1"
        elif (largest := np.linalg.norm(xyz, axis=1).max()) > _LARGEST_NORM:
            fault = f"its largest norm is {largest:g}; expected at most 1 (unit_sphere)"
        if fault:
            raise ValueError(
                f"cloud {position} does not obey the card: {fault}. read_cloud and prepare_cloud "
                "of data_prep.geometry.clouds make clouds that do."
            )
        return xyz, rgb


def save(directory: str | os.PathLike, *, variables: Mapping[str, Any], card: model_card.ModelCard):
    """Writes an encoder, complete or not at all.

    Args:
      directory: a new or empty folder.
      variables: `params` and `batch_stats` of the student.
      card: of the student.

    Raises:
      FileExistsError: the folder holds something.
      ValueError: the variables are not those of the student on the card; lists every difference.
    """
    target = epath.Path(directory).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists already; choose another folder or remove it first")
    variables = {"batch_stats": {}} | dict(variables)
    fault = restore.difference(variables, restore.abstract(card))
    parameters = model_card.count_parameters(variables)
    if not fault and parameters != card.parameters:
        fault = f"  params hold {parameters} numbers, the card says {card.parameters}"
    if fault:
        raise ValueError(f"the variables are not those of the student on the card:\n{fault}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_io.replacing(target) as staging:
        with ocp.StandardCheckpointer() as writer:
            writer.save(staging / paths.VARIABLES, variables)
        described = json.dumps(manifest.describe(variables), indent=1)
        (staging / paths.CARD_FILE).write_text(card.to_json() + "\n")
        (staging / paths.MANIFEST_FILE).write_text(described)


def load(
    path: str | os.PathLike,
    *,
    teacher: str | None = None,
    teacher_dim: int | None = None,
    up_axis: str | None = None,
    from_y_up: str | None = None,
    normalisation: str | None = None,
    colour_fill: float | None = None,
    points: int | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> Encoder:
    """Loads an encoder that `save` wrote, or the newest or any checkpoint of a training run.

    Of a run that keeps a moving average of its parameters, that is what is loaded, as in its
    evaluation.

    Args:
      path: folder of `save`, the workdir of a run, or one of its checkpoints.
      teacher: name that the card must hold; None accepts any, as for all the following.
      teacher_dim: length of the embeddings.
      up_axis: of the clouds.
      from_y_up: how y up becomes z up.
      normalisation: of the clouds.
      colour_fill: of clouds without colours.
      points: of a cloud.
      devices: to embed on; every local one by default.

    Raises:
      FileNotFoundError: there is no encoder.
      mrd_jax.checkpoints.model_card.CardMismatchError: the card says otherwise; names every field and both values.
      mrd_jax.checkpoints.model_card.CardError: the card is missing, damaged or of another version.
      mrd_jax.checkpoints.manifest.CorruptCheckpointError: what is stored is not what was saved.
      ValueError: the stored variables are not those of the student on the card.
    """
    expected = {
        "teacher": teacher,
        "teacher_dim": teacher_dim,
        "up_axis": up_axis,
        "from_y_up": from_y_up,
        "normalisation": normalisation,
        "colour_fill": colour_fill,
        "points": points,
    }
    stored = restore.find_student(epath.Path(path).absolute())
    stored.card.expect(**{name: value for name, value in expected.items() if value is not None})
    devices = tuple(jax.local_devices() if devices is None else devices)
    variables = backends.ShardMapBackend(devices).place_state(stored.read_variables())
    return Encoder(restore.build(stored.card), variables, stored.card, devices)


def _stack(clouds: Sequence[Cloud], size: int) -> dict[str, np.ndarray]:
    padded = [*clouds, *[clouds[-1]] * (size - len(clouds))]
    xyz, rgb = (np.stack(parts) for parts in zip(*padded, strict=True))
    return {"xyz": xyz, "rgb": rgb}


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _fetch(rows: jax.Array, count: int) -> np.ndarray:
    """The rows that are not padding, on the host; waits for them."""
    return np.asarray(rows)[:count]
