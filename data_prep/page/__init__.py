# SPDX-License-Identifier: Apache-2.0
"""Page about a build: counts, skipped items by reason, and a contact sheet of random shapes."""

import dataclasses
import io
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from data_prep import catalogue, record_builder, shapes
from data_prep import summary as summaries
from data_prep.captions import encoding
from data_prep.geometry.listing import printable
from data_prep.options import Options
from mrd_jax import atomic_io, pages

# Shapes on the page, pictures of each, and their longer side in pixels: a page of about 1 MB.
SHAPES, VIEWS, SIDE = 48, 4, 96
# Captions of a shape on the page.
MAX_CAPTIONS = 12


@dataclasses.dataclass(frozen=True)
class Reason:
    """Line of a table of reasons.

    Attributes:
      reason: text, with "N" for numbers that differ.
      count: number of items.
      examples: ids of the first items.
    """

    reason: str
    count: int
    examples: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Card:
    """One shape of the contact sheet; texts are printable.

    Attributes:
      id: id of the record.
      name: name of the shape, or its id.
      label: class name, or "".
      split: split of the record.
      credit: creator and licence, or "".
      captions: (kind, text) pairs of the record.
      faults: repairs and omissions.
      picture: data URI of the pictures side by side, or "".
      width: width of the picture in pixels.
      height: height of the picture in pixels.
    """

    id: str
    name: str
    label: str
    split: str
    credit: str
    captions: tuple[tuple[str, str], ...]
    faults: tuple[str, ...]
    picture: str = ""
    width: int = 0
    height: int = 0


def path_of(options: Options) -> Path:
    """Returns the page of a build: OUTPUT/SOURCE/preparation.html."""
    return options.target.parent / "preparation.html"


def write(
    options: Options,
    *,
    summary: summaries.Summary,
    prepared: catalogue.Catalogue,
    plan: record_builder.Plan,
    notes: Sequence[str],
) -> Path:
    """Writes the page of a build, which needs no other files and no network.

    Args:
      options: options of the build.
      summary: counts of the shapes stage.
      prepared: catalogue of the prepared shapes.
      plan: plan of the records.
      notes: further lines, such as those about captions.

    Returns:
      The path of the page.
    """
    splits = {shape_id: split for split, ids in plan.splits.items() for shape_id in ids}
    counts = {
        "items read": summary.read,
        "skipped": summary.skipped.total(),
        "shapes in the cache": summary.written,
        **{f"records, split {split}": len(ids) for split, ids in plan.splits.items()},
        "shapes in the cache that are in no split": summary.written - len(splits),
        "classes": len(plan.classes),
    }
    text = pages.load(__name__, "preparation.html").render(
        title=f"Data set {options.source}",
        counts=counts,
        facts={name: _fact(value) for name, value in options.content().items()},
        notes=[printable(note) for note in (*summary.notes, *notes)],
        skipped=_reasons(summary.skipped, summary.examples),
        faults=_reasons(summary.faults, summary.examples),
        total=len(splits),
        cards=_cards(prepared, plan, splits, seed=options.seed),
        views=VIEWS,
    )
    path = path_of(options)
    atomic_io.write_bytes(path, text.encode("utf-8", "replace"))
    return path


def _fact(value: Any) -> str:
    texts = value if isinstance(value, list) else [value]
    return printable(", ".join(map(str, texts)))


def _reasons(counts: Mapping[str, int], examples: Mapping[str, Sequence[str]]) -> list[Reason]:
    """Returns the reasons with their counts and examples, the most frequent ones first."""
    rows = []
    for reason, texts in summaries.group(counts):
        ids = [printable(each) for text in texts for each in examples.get(text, ())]
        count = sum(counts[text] for text in texts)
        rows.append(Reason(printable(reason), count, tuple(ids[: summaries.EXAMPLES])))
    return sorted(rows, key=lambda row: -row.count)


def _cards(
    prepared: catalogue.Catalogue,
    plan: record_builder.Plan,
    splits: Mapping[str, str],
    *,
    seed: int,
) -> list[Card]:
    """Returns the cards of random records, in the order of the shards."""
    chosen = set(random.Random(seed).sample(sorted(splits), min(SHAPES, len(splits))))
    added: dict[str, encoding.Added] = {}
    for shard in plan.shards:
        if shard.captions and shard.ids & chosen:
            added |= encoding.load(shard.captions)
    return [
        _card(shape, added.get(shape.id), split=splits[shape.id]) for shape in prepared.load(chosen)
    ]


def _card(shape: shapes.Shape, added: encoding.Added | None, *, split: str) -> Card:
    captions: Sequence[tuple[str, str]] = shape.captions
    if added is not None:
        captions = encoding.extend_captions(captions, added)
    card = Card(
        id=printable(shape.id),
        name=printable(shape.name or shape.id),
        label=printable(shape.label),
        split=split,
        credit=printable(", ".join(text for text in (shape.creator, shape.licence) if text)),
        captions=tuple((kind, printable(text)) for kind, text in captions[:MAX_CAPTIONS]),
        faults=tuple(dict.fromkeys(map(printable, shape.faults))),
    )
    if not shape.images:
        return card
    strip = _strip(shape.images)
    buffer = io.BytesIO()
    strip.save(buffer, "JPEG", quality=85)
    uri = pages.data_uri(buffer.getvalue(), "image/jpeg")
    return dataclasses.replace(card, picture=uri, width=strip.width, height=strip.height)


def _strip(images: Sequence[bytes]) -> PIL.Image.Image:
    """Returns evenly spaced pictures side by side on white."""
    count = min(VIEWS, len(images))
    strip = PIL.Image.new("RGB", (VIEWS * SIDE, SIDE), "white")
    for place, index in enumerate(np.linspace(0, len(images) - 1, count).round().astype(int)):
        with PIL.Image.open(io.BytesIO(images[index])) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
        strip.paste(picture, (place * SIDE, 0))
    return strip
