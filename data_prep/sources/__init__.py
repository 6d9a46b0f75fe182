# SPDX-License-Identifier: Apache-2.0
"""The table of data sources, and what a source must be able to do."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from data_prep import shapes
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


class Item(Protocol):
    """Something that a source can turn into one shape; picklable and cheap to list.

    An item may also have a `mark`, text that says what besides its id decides the shape, such as
    which of several files it comes from. Shapes prepared under another mark are prepared again.
    An item that may be skipped as `shapes.FILE_MISSING` has `is_there()`, which says whether its
    file has come since.
    """

    id: str


class Source(Protocol):
    """Turns a folder of raw data into shapes, and says how they are split.

    Attributes:
      family: name of the shape cache; sources of one family prepare the same shapes.
      from_y_up: how y up became z up: "rotate", a quarter turn, or "swap", two columns exchanged.
    """

    family: str
    from_y_up: str

    def items(self, input_dir: Path) -> list[Item]:
        """Lists what the folder holds, in a fixed order. ValueError where it holds nothing."""

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one item; may raise shapes.SkipShape(reason)."""

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Split name -> ids, in the order of `prepared`. A shape may be in no split."""

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """Class names of the zero-shot evaluation, sorted."""


SOURCES: dict[str, Source | published.Published] = {
    "furniture": furniture.Furniture(test="BlendSwap-CC-0"),
    "furniture_ccby": furniture.Furniture(test="BlendSwap-CC-BY"),
    # For choosing settings: neither test catalogue is in it.
    "furniture_kator": furniture.Furniture(test="KatorLegaz", train=("Reallusion", "Scopia")),
    "folder": folder.Folder(),
    "objaverse": objaverse.Objaverse(),
    # The training lists of OpenShape's paper. Each has a cache of its own: the lists differ.
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
