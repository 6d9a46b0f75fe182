# SPDX-License-Identifier: Apache-2.0
"""Objaverse-LVIS as released by OpenShape: 46,832 shapes of 1,156 classes for zero-shot evaluation.

The input folder holds `meta_data/split/lvis.json`, `meta_data/lvis_cat_name_pt_feat.npy` and the
unpacked archives of Objaverse. The classes are the sorted categories of the list, which is also the
order of the class features. The shapes keep their released image and text features, including
names that the GPT-4 filter would reject. All shapes are in the split "test".

`data_prep.sources.published` describes how invalid input is handled.
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
    """All shapes of the list as a test split."""

    def class_set(self, input_dir: Path) -> published.ClassSet:
        """Returns the sorted categories, with their released features if the folder has them.

        Raises:
          ValueError: the list is missing, or the number of features is not that of the categories.
        """
        entries = _entries(input_dir)
        names = tuple(sorted({entry["category"] for entry in entries}))
        path = published.find_file(input_dir, CLASS_FEATURES)
        if path is None:
            return published.ClassSet(names=names)
        return published.read_class_features(path, names=names)

    def items(self, input_dir: Path) -> list[openshape.Item]:
        """Lists the shapes in the order of the list.

        Raises:
          ValueError: the list is missing.
        """
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
        return openshape.mark_duplicates(items)

    def prepare(
        self, item: openshape.Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Reads one released file; see `openshape.read_shape`."""
        return openshape.read_shape(item, points=points, seed=seed)


def _entries(input_dir: Path) -> list[dict[str, str]]:
    return published.read_list(published.require_file(input_dir, SPLIT_LIST), keys=KEYS)
