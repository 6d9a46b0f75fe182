# SPDX-License-Identifier: Apache-2.0
"""Conventions of the point clouds that an encoder takes: number of points, axes, scale, colours."""

import dataclasses
from typing import Any

import numpy as np

from mrd_jax.data import batch_spec


@dataclasses.dataclass(frozen=True)
class Conventions:
    """Conventions of an encoder's point clouds, with the field names of its model card.

    Attributes:
      points: points per point cloud.
      up_axis: vertical axis, "z".
      from_y_up: how y up becomes z up: "swap" exchanges columns 1 and 2, "rotate" is the quarter
        turn (x, -z, y).
      normalisation: "unit_sphere".
      colour_fill: value, 0 to 1, of all colour channels of point clouds without colours.

    Raises:
      ValueError: a field has a value that is not supported.
    """

    points: int
    up_axis: str
    from_y_up: str
    normalisation: str
    colour_fill: float

    def __post_init__(self):
        for name, values in (
            ("up_axis", (batch_spec.UP_AXIS,)),
            ("from_y_up", tuple(_FROM_Y_UP)),
            ("normalisation", (batch_spec.NORMALISATION,)),
        ):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {values}")

    @classmethod
    def of(cls, card: Any, *, points: int | None = None) -> "Conventions":
        """Returns the conventions in an encoder's model card.

        Args:
          card: a `mrd_jax.checkpoints.model_card.ModelCard`.
          points: points per point cloud; None for the number in the card.

        Raises:
          ValueError: a field of the card has a value that is not supported.
        """
        fields = {field.name: getattr(card, field.name) for field in dataclasses.fields(cls)}
        return cls(**fields | ({} if points is None else {"points": points}))

    def turn_y_up(self, xyz: np.ndarray) -> np.ndarray:
        """Returns points [points, 3] with y up as points with z up."""
        return _FROM_Y_UP[self.from_y_up](xyz)


# "swap" is a reflection: it exchanges left and right.
_FROM_Y_UP = {
    "swap": lambda xyz: xyz[:, [0, 2, 1]],
    "rotate": lambda xyz: xyz[:, [0, 2, 1]] * [1, -1, 1],
}
