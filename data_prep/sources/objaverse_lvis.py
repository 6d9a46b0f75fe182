# SPDX-License-Identifier: Apache-2.0
"""Objaverse-LVIS as OpenShape released it: 46,832 shapes of 1,156 classes, for zero-shot tests.

The input folder holds `meta_data/split/lvis.json`, `meta_data/lvis_cat_name_pt_feat.npy` and the
unpacked archives of Objaverse. A label's class is its position among the sorted categories of the
list, and so is the row of its feature. Shapes keep the released features of their images and
texts, their names unfiltered; all of them are in the split "test".

What happens to bad input stands in `data_prep.sources.published`.
"""

import dataclasses
from pathlib import Path

from data_prep import shapes
from data_prep.sources import openshape, published

SPLIT_LIST = "split/lvis.json"
CLASS_FEATURES = "lvis_cat_name_pt_feat.npy"
KEYS = ("uid", "category", "group", "data_path")


@dataclasses.dataclass(frozen=True)
class ObjaverseLvis(published.Published):
    """The whole list, as a test split."""

    def class_set(self, input_dir: Path) -> published.ClassSet:
        """The sorted categories, with their features where those are there.

        Raises:
          ValueError: the list is missing, or the features are not one for each category.
        """
        entries = _entries(input_dir)
        names = tuple(sorted({entry["category"] for entry in entries}))
        path = published.find_file(input_dir, CLASS_FEATURES)
        if path is None:
            return published.ClassSet(names=names)
        return published.read_class_features(path, names=names)

    def items(self, input_dir: Path) -> list[openshape.Item]:
        """Lists the shapes in the order of the list. ValueError where the list is missing."""
        items = [
            openshape.Item(
                id=entry["uid"],
                root=str(input_dir),
                path=entry["data_path"],
                source=f"{self.family}/{openshape.OBJAVERSE}",
                split="test",
                group=entry["group"],
                label=entry["category"],
            )
            for entry in _entries(input_dir)
        ]
        return openshape.mark_repeated(items)

    def prepare(
        self, item: openshape.Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Reads one file, as `openshape.read_shape` says."""
        return openshape.read_shape(item, points=points, seed=seed)


def _entries(input_dir: Path) -> list[dict[str, str]]:
    return published.read_list(published.existing_file(input_dir, SPLIT_LIST), keys=KEYS)
