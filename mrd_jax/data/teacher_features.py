# SPDX-License-Identifier: Apache-2.0
"""The teacher's features of a sample: one or several drawn per step, and their means.

Several features of a modality are distinct views or captions, drawn one after another; the first is
the one that is drawn if there is only one. A record with fewer views than asked for has empty
slots, which are masked: a feature that is repeated would count twice, as a positive of its shape
and as a negative of others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec, captions, source, views

# Fields of a record that hold the kinds and the features of a modality.
FIELDS = {
    "image": ("image_kinds", "image_features"),
    "text": ("caption_kinds", "text_features"),
}
# Records that `check_positives` reads, evenly spaced over the split.
CHECKED_RECORDS = 64

Draw = Callable[[Sequence[str]], int | None]


def draw(record: dict[str, Any], config: ConfigDict, *, rng: np.random.Generator) -> dict[str, Any]:
    """Draws the views and captions of a sample, and computes the means that the config asks for.

    Args:
      record: fields of a record.
      config: config of the run; reads data.image_positives, data.text_positives,
        data.caption_kinds, data.caption_groups, data.caption_chances, data.picture_probability,
        loss.relation_features and teacher.dim.
      rng: generator of this sample.

    Returns:
      image, text, has_image, has_text and, for the means, image_mean and text_mean, as in
      `batch_spec.batch_spec` without the batch axis.
    """
    draws: dict[str, Draw] = {
        "image": lambda kinds: views.draw(
            kinds, rng=rng, picture_probability=config.data.picture_probability
        ),
        "text": lambda kinds: captions.draw(kinds, rng=rng, config=config.data),
    }
    # A view and a caption are always drawn first, so that neither a missing modality nor the number
    # of positives changes them.
    first = {name: _draw_more((), 1, record[FIELDS[name][0]], draws[name]) for name in FIELDS}
    dim, row = config.teacher.dim, {}
    for name, (kinds, features) in FIELDS.items():
        count = batch_spec.positives(config, name)
        drawn = _draw_more(first[name], count - 1, record[kinds], draws[name])
        slots, filled = _fill(record[features], drawn, count=count, dim=dim)
        # Without an axis for a single positive.
        row[name], row[f"has_{name}"] = (slots, filled) if count > 1 else (slots[0], filled[0])
    if batch_spec.has_means(config):
        for name, (_, features) in FIELDS.items():
            chances = _probabilities(record, config.data, name)
            row[f"{name}_mean"] = mean(record[features], chances, dim=dim)
    return row


def mean(features: np.ndarray, chances: np.ndarray, *, dim: int) -> np.ndarray:
    """Computes the direction of the expected unit feature of a sample.

    Args:
      features: [features, dim], not normalised.
      chances: [features], probability of drawing each; zeros if none can be drawn.
      dim: dimension of a feature, for a record without any.

    Returns:
      [dim] float16, unit norm; zeros if no feature can be drawn.
    """
    rows = np.asarray(features, np.float32).reshape(-1, dim)
    norms = np.linalg.norm(rows, axis=1)
    average = (np.asarray(chances, np.float32) / np.maximum(norms, 1e-12)) @ rows
    return (average / max(float(np.linalg.norm(average)), 1e-12)).astype(np.float16)


def check_positives(records: source.RecordSource, config: ConfigDict) -> None:
    """Checks that records have as many views and captions as a run draws.

    A record may have fewer, see above. It is an error if none of `CHECKED_RECORDS` records, evenly
    spaced over the split, has as many.

    Args:
      records: training split.
      config: config of the run; reads the fields of `draw`.

    Raises:
      ValueError: no record has as many; names the field and the largest number found.
    """
    wanted = {name: batch_spec.positives(config, name) for name in FIELDS}
    if max(wanted.values()) == 1:
        return
    most = dict.fromkeys(FIELDS, 0)
    for index in np.unique(np.linspace(0, len(records) - 1, CHECKED_RECORDS).astype(int)).tolist():
        try:
            record = records.read(index, [kinds for kinds, _ in FIELDS.values()])
        except source.CorruptRecordError:
            continue  # the stream counts corrupt records, and stops at too many
        # Every image can be drawn, if only after the others; captions may be of excluded kinds.
        captions_drawn = int(np.count_nonzero(_probabilities(record, config.data, "text")))
        found = {"image": len(record["image_kinds"]), "text": captions_drawn}
        most = {name: max(most[name], found[name]) for name in FIELDS}
    for name, count in wanted.items():
        if count > max(most[name], 1):
            what = {"image": "images", "text": "captions that may be drawn"}[name]
            raise ValueError(
                f"config.data.{name}_positives is {count}, but records of split "
                f"{records.split!r} have at most {most[name]} {what}; expected at most "
                f"{max(most[name], 1)}"
            )


def _probabilities(record: dict[str, Any], config: ConfigDict, name: str) -> np.ndarray:
    """Returns the probability with which the first draw returns each feature of a modality."""
    kinds = record[FIELDS[name][0]]
    if name == "image":
        return views.probabilities(kinds, picture_probability=config.picture_probability)
    return captions.probabilities(kinds, config=config)


def _draw_more(drawn: Sequence[int], count: int, kinds: Sequence[str], draw_one: Draw) -> list[int]:
    """Draws from the positions that are not drawn yet; the number of draws is always `count`."""
    result = list(drawn)
    for _ in range(count):
        left = [i for i in range(len(kinds)) if i not in result]
        position = draw_one([kinds[i] for i in left])
        if position is not None:
            result.append(left[position])
    return result


def _fill(
    features: np.ndarray, drawn: Sequence[int], *, count: int, dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the drawn features, [count, dim], and the mask of the slots that they fill."""
    slots = np.zeros((count, dim), np.float16)
    if drawn:
        slots[: len(drawn)] = features[list(drawn)]
    return slots, np.arange(count) < len(drawn)
