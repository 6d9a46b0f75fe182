# SPDX-License-Identifier: Apache-2.0
"""Model card: architecture, teacher and input conventions of an encoder.

Every checkpoint and every encoder folder holds one.
"""

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
from mrd_jax.models import axes

# Allowed values of fields that are enumerations.
CHOICES = {
    "up_axis": (batch_spec.UP_AXIS,),
    "from_y_up": ("rotate", "swap"),
    "normalisation": (batch_spec.NORMALISATION,),
    "source": ("mrd_jax", "openshape", "uni3d"),
    "module_up_axis": axes.CHOICES,
}


class CardError(ValueError):
    """The model card is corrupt, incomplete or inconsistent."""


class CardMismatchError(ValueError):
    """The model card of an encoder differs from what the caller expects."""


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """Model card of a student encoder.

    Attributes:
      student: arguments of `models.build_model`, including `name`, with dtype as text; see
        `student_of`.
      size: name of a published size, such as "openshape-4" or "uni3d-b"; "" for any other.
      parameters: number of parameters of the student.
      teacher: name of the model whose features the embeddings are compared with; "" if unknown.
      teacher_dim: dimension of the teacher's features, and of the embeddings.
      up_axis: up axis of the point clouds, "z".
      from_y_up: conversion of data with y up: "swap" exchanges columns 1 and 2, a reflection
        (OpenShape, Uni3D); "rotate" is the quarter turn (x, -z, y) (data_prep).
      normalisation: normalisation of the point clouds; "unit_sphere" means centred at the origin,
        with largest norm 1.
      colour_fill: value, 0 to 1, of all three channels of point clouds without colours.
      points: number of points per point cloud.
      source: origin of the weights: "mrd_jax", "openshape" or "uni3d".
      source_file: name of the converted file; "" if trained by mrd_jax.
      source_sha256: SHA-256 of the converted file; "" if trained by mrd_jax.
      licence: licence of the weights as their owner states it; "" if unknown.
      module_up_axis: up axis of the point clouds that the Flax module takes. If it is "y", as for
        some released encoders, `Encoder.embed` turns clouds back by the inverse of `from_y_up`.
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
    module_up_axis: str = batch_spec.UP_AXIS

    def __post_init__(self):
        """Validates all fields.

        Raises:
          CardError: fields are invalid; lists each with its value and what was expected.
        """
        faults = [
            f"{field.name} is {getattr(self, field.name)!r}; expected {_kind(field).__name__}"
            for field in dataclasses.fields(self)
            if not _is(getattr(self, field.name), _kind(field))
        ]
        if not faults:
            faults = self._value_faults()
        if faults:
            raise CardError("invalid model card: " + "; ".join(faults))

    def _value_faults(self) -> list[str]:
        """Lists the invalid values of fields whose types are right."""
        faults = [
            f"{name} is {getattr(self, name)!r}; expected one of {', '.join(choices)}"
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
                f"{self.teacher_dim}; they must be equal"
            )
        return faults

    def expect(self, **expected: Any) -> None:
        """Checks that the card has expected values.

        Args:
          **expected: expected values by field.

        Raises:
          CardMismatchError: fields differ; lists both values of each.
          TypeError: model cards have no such field.
        """
        unknown = sorted(set(expected) - {field.name for field in dataclasses.fields(self)})
        if unknown:
            raise TypeError(f"model cards have no fields {unknown}")
        lines = [
            f"  {name}: {getattr(self, name)!r} on the card, {want!r} expected"
            for name, want in expected.items()
            if getattr(self, name) != want
        ]
        if lines:
            raise CardMismatchError(
                "the encoder was trained under other conventions:\n" + "\n".join(lines) + "\n"
                "Choose a checkpoint with the expected card, or use the teacher and the point "
                "clouds that this card describes."
            )

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """Returns the card as JSON text."""
        return json.dumps(self.as_dict(), indent=1)


def from_dict(fields: Mapping[str, Any]) -> ModelCard:
    """Makes a model card from the result of `ModelCard.as_dict`.

    Raises:
      CardError: a field is unknown, missing or invalid.
    """
    names = {field.name for field in dataclasses.fields(ModelCard)}
    if "module_up_axis" not in fields:
        # Version 0.1 lacks the field. It fed clouds with z up to Uni3D's encoders, which take y up.
        released = fields.get("source") == "uni3d"
        fields = {**fields, "module_up_axis": "y" if released else batch_spec.UP_AXIS}
    unknown, missing = sorted(set(fields) - names), sorted(names - set(fields))
    if unknown or missing:
        raise CardError(
            f"the model card has unknown fields {unknown} and lacks {missing}: another version of "
            "mrd_jax wrote it, or it was edited; write the checkpoint again"
        )
    return ModelCard(**fields)


def from_json(text: str) -> ModelCard:
    """Makes a model card from the result of `ModelCard.to_json`.

    Raises:
      CardError: the text is not a JSON object, or a field is unknown, missing or invalid.
    """
    return from_dict(read_object(text))


def read_object(text: str) -> dict[str, Any]:
    """Parses the JSON object of a model card.

    Raises:
      CardError: the text is not a JSON object.
    """
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CardError(
            f"the model card is not JSON ({error}); write the checkpoint again"
        ) from error
    if not isinstance(fields, dict):
        raise CardError(f"the model card is a JSON {type(fields).__name__}; expected an object")
    return fields


def from_run(config: ConfigDict, *, metadata: Mapping[str, Any]) -> ModelCard:
    """Makes the model card of the student that a run trains.

    Args:
      config: config of the run.
      metadata: metadata of its data set, see `mrd_jax.data.dataset_metadata.read`.

    Raises:
      ValueError: an earlier version prepared the data set, without all conventions.
    """
    if "from_y_up" not in metadata:
        raise ValueError(
            "the metadata of the data set lack from_y_up: an earlier version prepared it; run "
            "data_prep.build again with --overwrite"
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
    """Returns the arguments of `models.build_model` that build a model, as JSON values.

    Defaults are included, since they may change in later versions.

    Args:
      model: instance of one of `models.MODELS`.
    """
    (name,) = (name for name, kind in models.MODELS.items() if type(model) is kind)
    (dtype,) = (name for name, kind in models.DTYPES.items() if model.dtype == kind)
    own = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in models.MODULE_ONLY
    }
    return {"name": name} | own | {"dtype": dtype}


def size_of(student: Mapping[str, Any]) -> str:
    """Returns the name of the published size that has these fields; "" if there is none.

    Args:
      student: arguments of `models.build_model`.
    """
    if models.has_relation_head(student):
        return ""
    for size, fields in models.RELEASED.items():
        if all(student.get(name) == value for name, value in fields.items()):
            return size
    return ""


def abstract_variables(model: nn.Module, *, points: int) -> dict[str, Any]:
    """Returns shapes and types of the variables of a student, without computing them.

    Args:
      model: student encoder.
      points: number of points per point cloud.
    """
    cloud = jax.ShapeDtypeStruct((1, points, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), cloud, cloud)
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def count_parameters(variables: Mapping[str, Any]) -> int:
    """Returns the parameter count of a student, from its variables or their shapes."""
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(variables["params"]))


def _kind(field: dataclasses.Field) -> Any:
    """Returns the type that `isinstance` checks for a field."""
    return dict if field.name == "student" else field.type


def _is(value: Any, kind: Any) -> bool:
    """Returns whether a JSON value has a type; integers may stand for floats, booleans may not."""
    if isinstance(value, bool):
        return False
    return isinstance(value, (int, float) if kind is float else kind)
