# SPDX-License-Identifier: Apache-2.0
"""Data sources of `data_prep.build`, and the interface that they implement."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from data_prep import shape_names, shapes
from data_prep.sources import (
    folder,
    furniture,
    modelnet40,
    objaverse,
    objaverse_lvis,
    openshape,
    published,
    scanobjectnn,
)
from data_prep.sources.kicad import parts


class Item(Protocol):
    """Item of a source that can be prepared as one shape; picklable and cheap to list.

    An item may also have a `fingerprint`: a text that identifies everything besides the id that
    determines the shape, such as the file it comes from. A shape is prepared again when the
    fingerprint of its item changes. An item that may be skipped as `shapes.FILE_MISSING` has a
    method `file_exists()`, so that the shape is prepared once its file is available.
    """

    id: str


class Source(Protocol):
    """Converts a folder of raw data to shapes, splits and classes.

    Attributes:
      family: name of the shape cache; sources of one family prepare the same shapes.
      from_y_up: conversion from y up to z up: "rotate" (quarter turn about x) or "swap" (exchanges
        y and z, which mirrors the shape).
    """

    family: str
    from_y_up: str

    def items(self, input_dir: Path) -> list[Item]:
        """Lists the items of a folder in a deterministic order.

        Raises:
          ValueError: the folder has no items.
        """

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one item.

        Raises:
          shapes.SkipShape: the item cannot be used; the message is the reason.
        """

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Returns split name -> ids in the order of `prepared`. A shape may be in no split."""

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """Returns the class names for zero-shot evaluation, sorted."""


@runtime_checkable
class Grouped(Protocol):
    """Source that knows which of its shapes are alike, so that they are not independent samples."""

    def groups(self, input_dir: Path, prepared: Sequence[shapes.Shape]) -> dict[str, str]:
        """Returns id -> name of the group; without the shapes whose group is not known.

        No group is in two splits. Groups are no part of the prepared shapes, so that they can be
        added to those that exist.
        """


SOURCES: dict[str, Source | published.Published] = {
    "furniture": furniture.Furniture(test="BlendSwap-CC-0"),
    "furniture_ccby": furniture.Furniture(test="BlendSwap-CC-BY"),
    # For tuning hyperparameters; excludes both test catalogues.
    "furniture_kator": furniture.Furniture(test="KatorLegaz", train=("Reallusion", "Scopia")),
    "kicad_parts": parts.KicadParts(),
    "folder": folder.Folder(),
    "objaverse": objaverse.Objaverse(),
    # Training lists of OpenShape's paper. The lists differ, so each has its own cache.
    "openshape": openshape.OpenShape("openshape"),
    "openshape_no_lvis": openshape.OpenShape("openshape_no_lvis", "split/train_no_lvis.json"),
    "openshape_shapenet": openshape.OpenShape(
        "openshape_shapenet", "split/ablation/train_shapenet_only.json"
    ),
    "objaverse_lvis": objaverse_lvis.ObjaverseLvis("objaverse_lvis"),
    "modelnet40": modelnet40.ModelNet40("modelnet40"),
    "scanobjectnn": scanobjectnn.ScanObjectNN("scanobjectnn"),
} | {
    f"scanobjectnn_{variant}": scanobjectnn.ScanObjectNN(f"scanobjectnn_{variant}", variant)
    for variant in scanobjectnn.VARIANTS
}
# Families whose shapes come from files that `data_prep.geometry` reads. The others have published
# arrays of points.
FILE_FAMILIES = ("folder", "furniture", "kicad_parts", "objaverse")


def find(name: str, *, label_from: str | None = None) -> Source | published.Published:
    """Returns a source.

    Args:
      name: name in `SOURCES`.
      label_from: value of --label_from, for the source `folder` only.

    Raises:
      ValueError: the name is unknown, or the source does not take `label_from`.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown source {name!r}, expected one of {sorted(SOURCES)}")
    source = SOURCES[name]
    if not label_from:
        return source
    if not isinstance(source, folder.Folder):
        raise ValueError(
            f"--label_from is for --source folder; the classes of {name!r} come with its data"
        )
    return dataclasses.replace(source, label_from=shape_names.check_label_from(label_from))
