# SPDX-License-Identifier: Apache-2.0
"""ScanObjectNN (Uy et al., ICCV 2019): scans of real objects in 15 classes.

OpenShape's form is `xyz_label.npy` (2,890 shapes, also below meta_data/scanobjectnn), a pickle that
is in memory as a whole once. The original HDF5 files hold 2,048 points a shape, with the training
split beside the test split; a variant is named by the source, such as `scanobjectnn_pb_t50_rs`:

| variant | file |
| --- | --- |
| obj_bg | main_split/test_objectdataset.h5: objects with background |
| obj_only | main_split_nobg/test_objectdataset.h5: without background |
| pb_t25 | main_split/test_objectdataset_augmented25_norot.h5: boxes moved by up to 25% |
| pb_t25_r | main_split/test_objectdataset_augmented25rot.h5: and turned |
| pb_t50_r | main_split/test_objectdataset_augmentedrot.h5: moved by up to 50%, turned |
| pb_t50_rs | main_split/test_objectdataset_augmentedrot_scale75.h5: and scaled, the hardest |

The folders may lie below `h5_files`; a file may also lie in the input folder itself. The mask of
the HDF5 files (which points are background) is not read. All forms have y up. Clouds without colour
become grey, 0.4. `cat_name_pt_feat.npy` beside the files holds the released class features, in the
order of the labels. What happens to bad input stands in `data_prep.sources.published`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.foreign import safe_pickle
from data_prep.sources import benchmark, published

# By label, as the authors of the data set number them.
NAMES = (
    *("bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"),
    *("shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"),
)
PLACES = ("meta_data/scanobjectnn", "scanobjectnn", "")
RELEASED_FILE = "xyz_label.npy"
# Variant -> (folder, end of the file's name).
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
    """One form of the set.

    Attributes:
      variant: of the HDF5 files; "" for OpenShape's form.
    """

    variant: str = ""

    def class_set(self, input_dir: Path) -> published.ClassSet:
        """The 15 classes by label, with released features where those are there.

        Raises:
          ValueError: there are features of another number of classes.
        """
        features = published.find_file(input_dir, benchmark.CLASS_FEATURES, folders=PLACES)
        if features is None:
            return published.ClassSet(names=NAMES)
        found = published.read_class_features(features)
        if len(found.names) != len(NAMES):
            raise ValueError(
                f"{features}: {len(found.names)} classes, expected the {len(NAMES)} of ScanObjectNN"
            )
        return found

    def items(self, input_dir: Path) -> list[benchmark.Item]:
        """Lists the shapes in the order of the files, test before train.

        Raises:
          ValueError: the files of the variant are missing or do not fit; names them.
        """
        names = self.class_set(input_dir).names
        if not self.variant:
            return _released_items(Path(input_dir), names)
        test = find_variant(Path(input_dir), self.variant)
        if test is None:
            folder, end = VARIANTS[self.variant]
            raise ValueError(f"{input_dir}: no {folder}/test_objectdataset{end}.h5 in it")
        items = benchmark.list_hdf5(test, split="test", names=names, form=self.variant)
        train = test.with_name(test.name.replace("test_", "training_", 1))
        if train.is_file():
            items += benchmark.list_hdf5(train, split="train", names=names, form=self.variant)
        return items


def find_variant(input_dir: Path, variant: str) -> Path | None:
    """The test file of a variant below a folder, or None."""
    folder, end = VARIANTS[variant]
    places = [f"h5_files/{folder}", folder]
    # Both folders have files of the same name, so one of them is not taken for the other.
    others = {place for place, _ in VARIANTS.values()} - {folder}
    if input_dir.resolve().name not in others:
        places.append("")
    return published.find_file(input_dir, f"test_objectdataset{end}.h5", folders=places)


def _released_items(input_dir: Path, names: Sequence[str]) -> list[benchmark.Item]:
    """The clouds of OpenShape's file."""
    path = published.find_file(input_dir, RELEASED_FILE, folders=PLACES)
    if path is None:
        found = [f"scanobjectnn_{name}" for name in VARIANTS if find_variant(input_dir, name)]
        hint = f"; for the HDF5 files there, --source is one of {found}" if found else ""
        raise ValueError(f"{input_dir}: no {RELEASED_FILE} of OpenShape in it{hint}")
    content = safe_pickle.load(path)
    if not isinstance(content, dict) or not {"xyz", "label"} <= content.keys():
        raise ValueError(f"{path}: expected a dict with 'xyz' and 'label'")
    clouds, labels = content["xyz"], np.asarray(content["label"]).reshape(-1)
    colours = content.get("rgb", [None] * len(clouds))
    if not len(clouds) == len(labels) == len(colours):
        raise ValueError(
            f"{path}: {len(clouds)} clouds, {len(labels)} labels and {len(colours)} colours; "
            "expected as many of each"
        )
    rows = enumerate(zip(clouds, labels, colours, strict=True))
    return [
        benchmark.Loaded(
            id=f"xyz_label/{index:05d}",
            split="test",
            label=benchmark.class_name(label, names=names, path=path),
            form="openshape",
            xyz=xyz,
            rgb=rgb,
        )
        for index, (xyz, label, rgb) in rows
    ]
