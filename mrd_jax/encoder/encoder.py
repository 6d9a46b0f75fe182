# SPDX-License-Identifier: Apache-2.0
"""Saving, loading and use of encoders, stored in a folder of their own or in a training run."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from mrd_jax import atomic_io, hub, models, storage
from mrd_jax.checkpoints import model_card, paths, restore
from mrd_jax.distributed import backends
from mrd_jax.encoder import class_head, embedding, hub_card

# Records are stored in float16, so a norm of 1 may read as 1.0005.
_MAX_NORM = 1.001

# A point cloud: xyz [points, 3] and rgb [points, 3].
Cloud = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """A 3D encoder with its variables and its model card.

    Attributes:
      model: Flax module of the encoder.
      variables: `params` and `batch_stats`, replicated over `devices`.
      card: model card: architecture, teacher and conventions of the point clouds.
      devices: local devices that batches are split over.
      head: head that embeds, one of `embedding.HEADS`.
      classes: class head of a fine-tuned encoder; None for any other.
    """

    model: nn.Module
    variables: dict[str, Any]
    card: model_card.ModelCard
    devices: tuple[jax.Device, ...]
    head: str = "contrastive"
    classes: class_head.ClassHead | None = None

    def embed(self, clouds: Iterable[Cloud], *, batch_size: int = 32) -> np.ndarray:
        """Embeds point clouds that follow the conventions of the model card.

        A row depends only on its own cloud, up to rounding: not on the batch size, the other
        clouds of the batch or the number of devices.

        Args:
          clouds: (xyz [points, 3], rgb [points, 3] in 0..1) each. A batch is read from the
            iterable while the devices work on the previous one.
          batch_size: clouds per batch, over all devices; rounded up to a multiple of their number.

        Returns:
          float32 [clouds, dim], unit norm, in the order of the clouds.

        Raises:
          ValueError: batch_size is not positive; a cloud does not follow the model card (the
            message gives its position and the fault); or an embedding is not finite.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; expected a positive number")
        rows = [np.zeros((0, self.card.teacher_dim), np.float32)]
        in_flight = None
        for batch, count in self._batches(clouds, _round_up(batch_size, len(self.devices))):
            dispatched = self._body(self.variables, self._backend.place_batch(batch)), count
            if in_flight:
                rows.append(_fetch(*in_flight))
            in_flight = dispatched
        if in_flight:
            rows.append(_fetch(*in_flight))
        embeddings = np.concatenate(rows)
        finite = np.isfinite(embeddings).all(axis=1)
        if not finite.all():
            raise ValueError(
                f"the embedding of cloud {int(np.argmin(finite))} is not finite: the checkpoint's "
                "weights are corrupt or overflow in this dtype"
            )
        return embeddings

    @functools.cached_property
    def _backend(self) -> backends.ShardMapBackend:
        return backends.ShardMapBackend(self.devices)

    @functools.cached_property
    def _body(self) -> Any:
        def body(variables: Any, batch: Mapping[str, jax.Array]) -> jax.Array:
            return embedding.embed_clouds(
                variables,
                batch["xyz"],
                batch["rgb"],
                model=self.model,
                card=self.card,
                head=self.head,
            )

        return self._backend.embed(body)

    def _batches(
        self, clouds: Iterable[Cloud], size: int
    ) -> Iterator[tuple[dict[str, np.ndarray], int]]:
        """Yields batches with their number of clouds; a short one is padded with its last cloud."""
        pending: list[Cloud] = []
        compiled = False  # whether a full batch has been yielded
        for position, cloud in enumerate(clouds):
            pending.append(self._validate(cloud, position))
            if len(pending) == size:
                yield _stack(pending, size), size
                pending, compiled = [], True
        if pending:
            # Fewer clouds than one batch need not pay for a full one.
            size = size if compiled else _round_up(len(pending), len(self.devices))
            yield _stack(pending, size), len(pending)

    def _validate(self, cloud: Cloud, position: int) -> Cloud:
        """Returns the cloud as float32; raises ValueError if it does not follow the model card."""
        xyz, rgb = (np.asarray(part, np.float32) for part in cloud)
        fault = None
        shape = (self.card.points, 3)
        if xyz.shape != shape or rgb.shape != shape:
            fault = f"xyz is {list(xyz.shape)} and rgb {list(rgb.shape)}; expected {list(shape)}"
        elif not (np.isfinite(xyz).all() and np.isfinite(rgb).all()):
            fault = "it has non-finite values"
        elif rgb.min() < 0 or rgb.max() > 1:
            fault = f"rgb spans {rgb.min():g} to {rgb.max():g}; expected 0 to 1"
        elif (norm := np.linalg.norm(xyz, axis=1).max()) > _MAX_NORM:
            fault = f"its largest norm is {norm:g}; expected at most 1 (unit_sphere)"
        if fault:
            raise ValueError(
                f"cloud {position} does not follow the model card: {fault}. Prepare it with "
                "read_cloud or prepare_cloud of data_prep.geometry.clouds."
            )
        return xyz, rgb


def save(
    directory: storage.PathLike,
    *,
    variables: Mapping[str, Any],
    card: model_card.ModelCard,
    classes: class_head.ClassHead | None = None,
) -> None:
    """Writes an encoder folder atomically, as a repository on the Hugging Face Hub expects it.

    `model.safetensors` has the variables, `config.json` the model card, `README.md` the same for
    readers, and `manifest.json` the checksums of the variables. The class head of a fine-tuned
    encoder is in `class_head.safetensors`, with the names of the classes.

    Args:
      directory: new or empty folder.
      variables: `params` and `batch_stats` of the encoder.
      card: its model card.
      classes: class head on its embeddings; None for none.

    Raises:
      FileExistsError: the folder is not empty.
      ValueError: the variables do not match the model card; the message lists every difference.
    """
    target = storage.path(directory)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} exists already; choose another folder or remove it first")
    variables = {"batch_stats": {}} | dict(variables)
    fault = restore.difference(variables, restore.abstract(card))
    parameters = model_card.count_parameters(variables)
    if not fault and parameters != card.parameters:
        fault = f"  params: parameter count {parameters}, {card.parameters} on the card"
    if fault:
        raise ValueError(f"the variables do not match the encoder on the model card:\n{fault}")
    storage.make_folder(target.parent)
    with atomic_io.replacing(target, last=paths.CARD_FILE) as staging:
        staging.mkdir()
        restore.write_encoder(staging, variables, card=card)
        if classes is not None:
            class_head.write(staging, classes)
        (staging / paths.README_FILE).write_text(hub_card.markdown(card))


def load(
    path: storage.PathLike,
    *,
    teacher: str | None = None,
    teacher_dim: int | None = None,
    up_axis: str | None = None,
    from_y_up: str | None = None,
    normalisation: str | None = None,
    colour_fill: float | None = None,
    points: int | None = None,
    head: str = "contrastive",
    devices: Sequence[jax.Device] | None = None,
) -> Encoder:
    """Loads an encoder from an encoder folder or from a checkpoint of a training run.

    From a run that keeps a moving average of the parameters, the average is loaded, as in the
    run's own evaluation.

    Args:
      path: folder written by `save`, workdir of a run (its newest checkpoint is used), one
        checkpoint, or hf://USER/NAME[@REVISION] on the Hugging Face Hub.
      teacher: required name of the teacher; None accepts any, as for the other conventions.
      teacher_dim: required length of the embeddings.
      up_axis: required vertical axis of the point clouds.
      from_y_up: required conversion of y up to z up, "swap" or "rotate".
      normalisation: required normalisation of the point clouds.
      colour_fill: required colour of point clouds without colours.
      points: required number of points per cloud.
      head: head that embeds, of an encoder with a head of its own for the relations: "contrastive",
        "relation", or "mean", the normalised sum of their unit embeddings.
      devices: devices to embed on; all local devices by default.

    Raises:
      FileNotFoundError: the path has no encoder.
      CardMismatchError: a required value differs from the model card; the message lists every
        field with both values.
      CardError: the model card is missing, corrupt or of another version.
      CorruptCheckpointError: the stored arrays are not those that were saved.
      ValueError: the stored variables do not match the model card, or there is no such head.
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
    folder = hub.resolve(path)
    stored = restore.find_student(folder)
    stored.card.expect(**{name: value for name, value in expected.items() if value is not None})
    if head not in embedding.HEADS:
        raise ValueError(f"head is {head!r}; expected one of {embedding.HEADS}")
    if head != "contrastive" and not models.has_relation_head(stored.card.student):
        raise ValueError(
            f"head is {head!r}, but {path} has a contrastive head alone; use that, or train with "
            "config.model.relation_head = 'linear'"
        )
    devices = tuple(jax.local_devices() if devices is None else devices)
    variables = backends.ShardMapBackend(devices).place_state(stored.read_variables())
    # The class head was trained on the embeddings of the contrastive head.
    classes = class_head.read(folder) if head == "contrastive" else None
    return Encoder(restore.build(stored.card), variables, stored.card, devices, head, classes)


def _stack(clouds: Sequence[Cloud], size: int) -> dict[str, np.ndarray]:
    padded = [*clouds, *[clouds[-1]] * (size - len(clouds))]
    xyz, rgb = (np.stack(parts) for parts in zip(*padded, strict=True))
    return {"xyz": xyz, "rgb": rgb}


def _round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _fetch(rows: jax.Array, count: int) -> np.ndarray:
    """Waits for the embeddings of a batch and copies them to the host, without the padding."""
    return np.asarray(rows)[:count]
