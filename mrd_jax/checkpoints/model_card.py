# SPDX-License-Identifier: Apache-2.0
"""The model card: what an encoder is and what clouds it was made for, inside every checkpoint."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from ml_collections import ConfigDict

from mrd_jax import models
from mrd_jax.data import batch_spec

# The fields that may hold few values, and these.
CHOICES = {
    "up_axis": (batch_spec.UP_AXIS,),
    "from_y_up": ("rotate", "swap"),
    "normalisation": (batch_spec.NORMALISATION,),
    "source": ("mrd_jax", "openshape", "uni3d"),
}


class CardError(ValueError):
    """A card that is damaged, incomplete or contradicts itself."""


class CardMismatchError(ValueError):
    """An encoder whose card is not what was asked for."""


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Everything a user of an encoder has to know to feed it and to read its embeddings.

    Attributes:
      student: fields that `models.build_model` takes, `name` included and dtype as text; see
        `student_of`.
      size: name of a published size, such as "openshape-4" or "uni3d-b"; "" for any other.
      parameters: numbers in the student's `params`.
      teacher: name of the model whose features the embeddings are compared with; "" if unknown.
      teacher_dim: length of its features, and of the embeddings.
      up_axis: of the clouds, "z".
      from_y_up: how data with y up became z up: "swap" exchanges columns 1 and 2, a reflection
        (OpenShape, Uni3D); "rotate" is the quarter turn (x, -z, y) (data_prep).
      normalisation: "unit_sphere": the mean at the origin, the largest norm 1.
      colour_fill: 0 to 1, all three channels of clouds without colours.
      points: of a cloud.
      source: who trained it: "mrd_jax", "openshape" or "uni3d".
      source_file: name of the converted file; "" for one trained here.
      source_sha256: of that file; "" for one trained here.
      licence: of the weights, as their owner states it; "" where nobody did.
    """

    student: dict[str, Any]
    size: str
    parameters: int
    teacher: str
    teacher_dim: int
    up_axis: str
    from_y_up: str
    normalisation: str
    colour_fill: float
    points: int
    source: str
    source_file: str
    source_sha256: str
    licence: str

    def __post_init__(self):
        """Checks every field.

        Raises:
          CardError: names every field that cannot be, what it holds and what it may hold.
        """
        faults = [
            f"{field.name} is {getattr(self, field.name)!r}; expected {_kind(field).__name__}"
            for field in dataclasses.fields(self)
            if not _is(getattr(self, field.name), _kind(field))
        ]
        if not faults:
            faults = self._value_faults()
        if faults:
            raise CardError("this card cannot be used: " + "; ".join(faults))

    def _value_faults(self) -> list[str]:
        faults = [
            f"{name} is {getattr(self, name)!r}; this version knows {', '.join(choices)}"
            for name, choices in CHOICES.items()
            if getattr(self, name) not in choices
        ]
        faults += [
            f"{name} is {getattr(self, name)}; expected a positive number"
            for name in ("parameters", "teacher_dim", "points")
            if getattr(self, name) < 1
        ]
        if not 0 <= self.colour_fill <= 1:
            faults.append(f"colour_fill is {self.colour_fill}; expected 0 to 1")
        if self.student.get("out_dim") != self.teacher_dim:
            faults.append(
                f"student.out_dim is {self.student.get('out_dim')!r} and teacher_dim is "
                f"{self.teacher_dim}; an embedding must be as long as the teacher's features"
            )
        return faults

    def expect(self, **expected: Any) -> None:
        """Refuses an encoder that was made for something else.

        Args:
          **expected: field of the card -> the value it must hold.

        Raises:
          CardMismatchError: names every field that differs, both values, and what to do.
          TypeError: a card has no such field.
        """
        unknown = sorted(set(expected) - {field.name for field in dataclasses.fields(self)})
        if unknown:
            raise TypeError(f"a model card has no fields {unknown}")
        lines = [
            f"  {name}: {getattr(self, name)!r} on the card, {want!r} expected"
            for name, want in expected.items()
            if getattr(self, name) != want
        ]
        if lines:
            raise CardMismatchError(
                "this encoder was made for something else:\n" + "\n".join(lines) + "\n"
                "Choose a checkpoint whose card says what you expect, or use this one with the "
                "teacher and the clouds that its card names."
            )

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """The card as text; `from_json` reads it."""
        return json.dumps(self.as_dict(), indent=1)


def from_dict(fields: Mapping[str, Any]) -> ModelCard:
    """The card that `ModelCard.as_dict` described.

    Raises:
      CardError: a field is unknown, missing or cannot hold its value.
    """
    known = [field.name for field in dataclasses.fields(ModelCard)]
    unknown, missing = sorted(set(fields) - set(known)), sorted(set(known) - set(fields))
    if unknown or missing:
        raise CardError(
            f"this card has unknown fields {unknown} and lacks {missing}; it was written by "
            "another version of mrd_jax, or edited: write the checkpoint again"
        )
    return ModelCard(**fields)


def from_json(text: str) -> ModelCard:
    """The card that `ModelCard.to_json` wrote.

    Raises:
      CardError: the text is not JSON, or a field is unknown, missing or cannot hold its value.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CardError(f"this card is not JSON ({error}); write the checkpoint again") from error
    if not isinstance(fields, dict):
        raise CardError(f"this card is JSON of {type(fields).__name__}; expected an object")
    return from_dict(fields)


def from_run(config: ConfigDict, *, metadata: Mapping[str, Any]) -> ModelCard:
    """The card of the student that a run trains.

    Args:
      config: of the run.
      metadata: of its data set, see `mrd_jax.data.source.read_metadata`.

    Raises:
      ValueError: the data set was prepared before it said all that a card says.
    """
    if "from_y_up" not in metadata:
        raise ValueError(
            "the data set does not say how y up became z up (from_y_up): an earlier version "
            "prepared it; run data_prep.build again with --overwrite"
        )
    model = models.build_model(config.model)
    student = student_of(model)
    return ModelCard(
        student=student,
        size=size_of(student),
        parameters=count_parameters(abstract_variables(model, points=config.model.points)),
        teacher=metadata["teacher"]["name"],
        teacher_dim=metadata["teacher"]["dim"],
        up_axis=metadata["up_axis"],
        from_y_up=metadata["from_y_up"],
        normalisation=metadata["normalisation"],
        colour_fill=config.augment.color_fill,
        points=config.model.points,
        source="mrd_jax",
        source_file="",
        source_sha256="",
        licence="",
    )


def student_of(model: nn.Module) -> dict[str, Any]:
    """The fields that build this model again, defaults included, since those may change.

    Args:
      model: one of `models.MODELS`.

    Returns:
      what `models.build_model` takes, in types of JSON.
    """
    (name,) = (name for name, kind in models.MODELS.items() if type(model) is kind)
    (dtype,) = (name for name, kind in models.DTYPES.items() if model.dtype == kind)
    own = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in models.NOT_OF_A_CONFIG
    }
    return {"name": name} | own | {"dtype": dtype}


def size_of(student: Mapping[str, Any]) -> str:
    """Name of the published size whose fields these are, whatever else they say; "" for none."""
    for size, fields in models.RELEASED.items():
        if all(student.get(name) == value for name, value in fields.items()):
            return size
    return ""


def abstract_variables(model: nn.Module, *, points: int) -> dict[str, Any]:
    """Shapes and types of a student's variables; nothing is computed.

    Args:
      model: the student.
      points: of a cloud.
    """
    cloud = jax.ShapeDtypeStruct((1, points, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), cloud, cloud)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def count_parameters(variables: Mapping[str, Any]) -> int:
    """How many numbers the `params` of these variables hold."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


def _kind(field: dataclasses.Field) -> Any:
    """The plain type of a field."""
    return dict if field.name == "student" else field.type


def _is(value: Any, kind: Any) -> bool:
    """Whether a value of JSON may stand where `kind` is wanted."""
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)
