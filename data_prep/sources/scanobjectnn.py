# SPDX-License-Identifier: Apache-2.0
"""ScanObjectNN (Uy et al., ICCV 2019): scans of real objects in 15 classes.

OpenShape's file is `xyz_label.npy` (2,890 shapes, also below meta_data/scanobjectnn), a pickle that
is loaded into memory as a whole. The original HDF5 files hold 2,048 points per shape and a training
split as well as a test split. The name of a source selects a variant, as in
`scanobjectnn_pb_t50_rs`:

| variant | file |
| --- | --- |
| obj_bg | main_split/test_objectdataset.h5: objects with background |
| obj_only | main_split_nobg/test_objectdataset.h5: without background |
| pb_t25 | main_split/test_objectdataset_augmented25_norot.h5: boxes shifted by up to 25% |
| pb_t25_r | main_split/test_objectdataset_augmented25rot.h5: also rotated |
| pb_t50_r | main_split/test_objectdataset_augmentedrot.h5: shifted by up to 50%, rotated |
| pb_t50_rs | main_split/test_objectdataset_augmentedrot_scale75.h5: also scaled, the hardest |

The folders may be below `h5_files`; the files may also be in the input folder itself. The mask of
background points in the HDF5 files is not read. y is up in all files. Clouds without colour become
grey (0.4). `cat_name_pt_feat.npy` in the same folder holds the released class features in the order
of the labels. `data_prep.sources.published` describes how invalid input is handled.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.foreign import safe_pickle
from data_prep.sources import benchmark, published

# Class names in the order of the labels of the data set's authors.
NAMES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
FOLDERS = ("meta_data/scanobjectnn", "scanobjectnn", "")
RELEASED_FILE = "xyz_label.npy"
# Variant -> (folder, suffix of the file name).
VARIANTS = {
    "obj_bg": ("main_split", ""),
    "obj_only": ("main_split_nobg", ""),
    "pb_t25": ("main_split", "_augmented25_norot"),
    "pb_t25_r": ("main_split", "_augmented25rot"),
    "pb_t50_r": ("main_split", "_augmentedrot"),
    "pb_t50_rs": ("main_split", "_augmentedrot_scale75"),
}


@dataclasses.dataclass(frozen=True)
class ScanObjectNN(benchmark.Benchmark):
    """One variant of ScanObjectNN.

    Attributes:
      variant: key of `VARIANTS` for the HDF5 files; "" for OpenShape's file.
    """

    variant: str = ""

    def class_set(self, input_dir: Path) -> published.ClassSet:
        """Returns the 15 classes by label, with their released features if the folder has them.

        Raises:
          ValueError: the released features are those of another number of classes.
        """
        features = published.find_file(input_dir, benchmark.CLASS_FEATURES, folders=FOLDERS)
        if features is None:
            return published.ClassSet(names=NAMES)
        classes = published.read_class_features(features)
        if len(classes.names) != len(NAMES):
            raise ValueError(
                f"{features}: {len(classes.names)} classes, expected the {len(NAMES)} of "
                "ScanObjectNN"
            )
        return classes

    def items(self, input_dir: Path) -> list[benchmark.Item]:
        """Lists the shapes in the order of the files, test before train.

        Raises:
          ValueError: the files of the variant are missing or have other content.
        """
        names = self.class_set(input_dir).names
        if not self.variant:
            return _released_items(Path(input_dir), names)
        test = find_variant(Path(input_dir), self.variant)
        if test is None:
            folder, suffix = VARIANTS[self.variant]
            raise ValueError(f"{input_dir}: no {folder}/test_objectdataset{suffix}.h5 in it")
        items = benchmark.list_hdf5(test, split="test", names=names, variant=self.variant)
        train = test.with_name(test.name.replace("test_", "training_", 1))
        if train.is_file():
            items += benchmark.list_hdf5(train, split="train", names=names, variant=self.variant)
        return items


def find_variant(input_dir: Path, variant: str) -> Path | None:
    """Returns the test file of a variant, or None."""
    folder, suffix = VARIANTS[variant]
    folders = [f"h5_files/{folder}", folder]
    # File names are the same with and without background, so an input folder that is the folder of
    # other variants does not count.
    other_folders = {name for name, _ in VARIANTS.values()} - {folder}
    if input_dir.resolve().name not in other_folders:
        folders.append("")
    return published.find_file(input_dir, f"test_objectdataset{suffix}.h5", folders=folders)


def _released_items(input_dir: Path, names: Sequence[str]) -> list[benchmark.Item]:
    """Lists the clouds of OpenShape's file."""
    path = published.find_file(input_dir, RELEASED_FILE, folders=FOLDERS)
    if path is None:
        found = [f"scanobjectnn_{name}" for name in VARIANTS if find_variant(input_dir, name)]
        hint = f"; for the HDF5 files in it, pass --source with one of {found}" if found else ""
        raise ValueError(f"{input_dir}: no {RELEASED_FILE} of OpenShape in it{hint}")
    content = safe_pickle.load(path)
    if not isinstance(content, dict) or not {"xyz", "label"} <= content.keys():
        raise ValueError(f"{path}: expected a dict with 'xyz' and 'label'")
    clouds, labels = content["xyz"], np.asarray(content["label"]).reshape(-1)
    colours = content.get("rgb", [None] * len(clouds))
    if not len(clouds) == len(labels) == len(colours):
        raise ValueError(
            f"{path}: {len(clouds)} clouds, {len(labels)} labels and {len(colours)} colours; "
            "expected equal numbers"
        )
    rows = enumerate(zip(clouds, labels, colours, strict=True))
    return [
        benchmark.InMemoryItem(
            id=f"xyz_label/{index:05d}",
            split="test",
            label=benchmark.class_name(label, names=names, path=path),
            variant="openshape",
            xyz=xyz,
            rgb=rgb,
        )
        for index, (xyz, label, rgb) in rows
    ]
