# SPDX-License-Identifier: Apache-2.0
"""Averages the weights of encoders that share their architecture and their conventions.

Weights that come from the same initial weights often average to an encoder with the strengths of
both, at the cost of one (model soups, Wortsman et al. 2022). Those of runs with different seeds do
not: units of the same meaning stand at different places.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from mrd_jax.checkpoints import model_card, restore

# Arguments of `models.build_model` that do not change embeddings, so that runs may differ in them.
TRAINING_ONLY = (
    "attention",
    "drop_path",
    "micro_batch",
    "patch_choice",
    "patch_dropout",
    "remat",
)
# Fields of a model card about the origin of the weights, with the values of an average.
ORIGIN: dict[str, Any] = {"source": "mrd_jax", "source_file": "", "source_sha256": ""}

Stored = restore.StoredStudent | restore.StoredEncoder


@dataclasses.dataclass(frozen=True)
class Average:
    """The average of some encoders.

    Attributes:
      variables: `params` and `batch_stats`, numpy arrays.
      card: its model card.
      distances: norm of the difference between the parameters of each encoder and their average,
        in units of the norm of the average.
    """

    variables: dict[str, Any]
    card: model_card.ModelCard
    distances: tuple[float, ...]


def average(encoders: Mapping[str, Stored]) -> Average:
    """Averages the variables of encoders, batch-norm statistics included, with equal weights.

    Args:
      encoders: two or more encoders by name, as `restore.find_student` returns them.

    Raises:
      ValueError: there are fewer than two encoders, or they differ in architecture, teacher or the
        conventions of their point clouds; the message lists every difference.
      CorruptCheckpointError: stored variables do not match their manifest.
    """
    if len(encoders) < 2:
        raise ValueError(f"there are {len(encoders)} encoders to average; expected two or more")
    cards = {name: stored.card for name, stored in encoders.items()}
    _require_alike(cards)
    trees = [stored.read_variables() for stored in encoders.values()]
    # One leaf at a time in float64, so that the result does not depend on the order.
    mean = jax.tree.map(_mean, *trees)
    return Average(
        mean, _card(list(cards.values())), tuple(_distance(tree, mean) for tree in trees)
    )


def _require_alike(cards: Mapping[str, model_card.ModelCard]) -> None:
    """Compares architecture and conventions of all encoders with those of the first."""
    (first, wanted), *others = ((name, _comparable(card)) for name, card in cards.items())
    lines = [
        f"  {field}: {found.get(field, 'absent')!r} in {name}, {wanted.get(field, 'absent')!r} in "
        f"{first}"
        for name, found in others
        for field in sorted(found.keys() | wanted.keys())
        if found.get(field) != wanted.get(field)
    ]
    if lines:
        raise ValueError(
            "the encoders differ, and only encoders of one architecture, teacher and preparation "
            "can be averaged:\n" + "\n".join(lines)
        )


def _comparable(card: model_card.ModelCard) -> dict[str, Any]:
    """Returns the fields that must be equal, with the defaults of those that an old card lacks."""
    student = model_card.student_of(restore.build(card))
    fields = {name: value for name, value in card.as_dict().items() if name not in ORIGIN}
    fields.pop("student")
    return fields | {
        f"student.{name}": value for name, value in student.items() if name not in TRAINING_ONLY
    }


def _card(cards: Sequence[model_card.ModelCard]) -> model_card.ModelCard:
    """Returns the model card of the average: that of the first, without a false origin."""
    if all(card.source_sha256 == cards[0].source_sha256 for card in cards):
        return cards[0]
    return dataclasses.replace(cards[0], **ORIGIN)


def _mean(*leaves: np.ndarray) -> np.ndarray:
    return np.mean([np.asarray(leaf, np.float64) for leaf in leaves], axis=0).astype(
        leaves[0].dtype
    )


def _distance(tree: Mapping[str, Any], mean: Mapping[str, Any]) -> float:
    pairs = zip(jax.tree.leaves(tree["params"]), jax.tree.leaves(mean["params"]), strict=True)
    apart = size = 0.0
    for leaf, centre in pairs:
        apart += float(np.sum(np.square(leaf - centre), dtype=np.float64))
        size += float(np.sum(np.square(centre), dtype=np.float64))
    return (apart / size) ** 0.5
