# SPDX-License-Identifier: Apache-2.0
"""ModelNet40 (Wu et al., CVPR 2015) in the three forms in which it is passed on.

| form | files in the input folder | points | up | splits |
| --- | --- | --- | --- | --- |
| openshape | test_split.json, test_pc.npy (also below meta_data/modelnet40) | 10,000 | y | test |
| off | CLASS/train/*.off, CLASS/test/*.off (also below ModelNet40) | drawn here | z | both |
| hdf5 | ply_data_*.h5, shape_names.txt (also below modelnet40_ply_hdf5_2048) | 2,048 | y | both |

`cat_name_pt_feat.npy` beside them holds the released class features. There is no colour: OpenShape
writes 100 of 255 for it and means 0.4, which is what records hold. `test_pc.npy` is one pickle, so
it is in memory as a whole once; the other forms are read shape by shape.

What happens to bad input stands in `data_prep.sources.published`; an OFF file that is malformed, or
has no faces, is counted and left out. A class folder without files stays among the names.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import shapes
from data_prep.foreign import limits, safe_pickle
from data_prep.geometry import meshes
from data_prep.sources import benchmark, off, published

# Folders below the input folder where each form may lie.
PLACES = {
    "openshape": ("meta_data/modelnet40", "modelnet40", ""),
    "off": ("ModelNet40", ""),
    "hdf5": ("modelnet40_ply_hdf5_2048", ""),
}
# One such file tells the form.
PATTERNS = {
    "openshape": ("test_split.json", "test_pc.npy"),
    "off": ("*/test/*.off", "*/train/*.off"),
    "hdf5": ("ply_data_*.h5",),
}
# What OpenShape stores where there is no colour.
COLOURLESS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class Mesh(benchmark.Item):
    """One OFF file."""

    path: str

    def read(self, *, points: int, rng: np.random.Generator) -> tuple[Any, Any, bool]:
        """Draws points from the surface. shapes.SkipShape where there is none."""
        try:
            triangles = off.surface(*off.parse(limits.read_file(Path(self.path))))
            xyz, _ = meshes.sample_points(triangles, points=points, rng=rng)
        except (meshes.MeshError, limits.LimitError) as error:
            raise shapes.SkipShape(str(error)) from error
        return xyz, None, False


class ModelNet40(benchmark.Benchmark):
    """Whichever form the input folder holds."""

    def class_set(self, input_dir: Path) -> published.ClassSet:
        """The classes, with released features where those are there.

        Raises:
          ValueError: the folder holds no form or several, or its files do not fit together.
        """
        form, folder = _find(input_dir)
        features = published.find_file(
            input_dir, benchmark.CLASS_FEATURES, folders=PLACES["openshape"] + PLACES[form]
        )
        return benchmark.named_classes(_LABELS[form](folder), features)

    def items(self, input_dir: Path) -> list[benchmark.Item]:
        """Lists the shapes: of OpenShape in the order of its list, else test before train.

        Raises:
          ValueError: as `class_set`.
        """
        form, folder = _find(input_dir)
        classes = self.class_set(input_dir)
        names = {label: benchmark.as_released(label, classes) for label in _LABELS[form](folder)}
        items = benchmark.mark_repeated(_ITEMS[form](folder, names))
        if not items:
            raise ValueError(f"{folder}: no shape in it; expected the files of form {form!r}")
        return items


def _find(input_dir: Path) -> tuple[str, Path]:
    """The form that a folder holds, and where. ValueError where that is not one."""
    found = {}
    for form, places in PLACES.items():
        for folder in (Path(input_dir) / place for place in places):
            here = (path for pattern in PATTERNS[form] for path in folder.glob(pattern))
            if form not in found and next(here, None):
                found[form] = folder
    if len(found) != 1:
        raise ValueError(
            f"{input_dir}: expected ModelNet40 in one form, found {sorted(found)}; the forms are "
            "test_split.json with test_pc.npy (openshape), CLASS/test/*.off (off), and "
            "ply_data_test*.h5 with shape_names.txt (hdf5)"
        )
    return found.popitem()


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing; it belongs to this form of ModelNet40")
    return path


def _released_list(folder: Path) -> list[dict[str, str]]:
    path = _existing(folder / "test_split.json")
    return published.read_list(path, keys=("name", "category"))


def _released_items(folder: Path, names: Mapping[str, str]) -> list[benchmark.Item]:
    """The clouds of `test_pc.npy` with the names and classes of `test_split.json`."""
    entries = _released_list(folder)
    path = _existing(folder / "test_pc.npy")
    clouds = safe_pickle.load(path)
    if len(clouds) != len(entries) or not all(isinstance(cloud, dict) for cloud in clouds):
        raise ValueError(
            f"{path}: {len(clouds)} entries, expected a dict for each of the {len(entries)} shapes "
            "of test_split.json"
        )
    return [
        benchmark.Loaded(
            id=entry["name"],
            split="test",
            label=names[entry["category"]],
            form="openshape",
            xyz=cloud.get("xyz"),
            rgb=_colours(cloud.get("rgb")),
        )
        for entry, cloud in zip(entries, clouds, strict=True)
    ]


def _colours(rgb: Any) -> np.ndarray | None:
    """0..255 as 0..1; None for the mark of a cloud without colour."""
    if rgb is None or np.all(np.asarray(rgb) == COLOURLESS):
        return None
    return np.asarray(rgb) / 255.0


def _mesh_labels(folder: Path) -> list[str]:
    found = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path.name for path in found if (path / "test").is_dir())


def _mesh_items(folder: Path, names: Mapping[str, str]) -> list[benchmark.Item]:
    """Every OFF file, class by class."""
    return [
        Mesh(id=path.stem, split=split, label=names[label], form="off", path=str(path))
        for split in ("test", "train")
        for label in _mesh_labels(folder)
        for path in sorted((folder / label / split).glob("*.off"))
    ]


def _stored_labels(folder: Path) -> list[str]:
    return _existing(folder / "shape_names.txt").read_text("utf-8").split()


def _stored_items(folder: Path, names: Mapping[str, str]) -> list[benchmark.Item]:
    """Every row of every file; a label counts the lines of `shape_names.txt`."""
    ordered = [names[label] for label in _stored_labels(folder)]
    return [
        item
        for split in ("test", "train")
        for path in sorted(folder.glob(f"ply_data_{split}*.h5"))
        for item in benchmark.list_hdf5(path, split=split, names=ordered, form="hdf5")
    ]


_LABELS: Mapping[str, Callable[[Path], list[str]]] = {
    "openshape": lambda folder: [entry["category"] for entry in _released_list(folder)],
    "off": _mesh_labels,
    "hdf5": _stored_labels,
}
_ITEMS: Mapping[str, Callable[[Path, Mapping[str, str]], list[benchmark.Item]]] = {
    "openshape": _released_items,
    "off": _mesh_items,
    "hdf5": _stored_items,
}
