# SPDX-License-Identifier: Apache-2.0
"""ModelNet40 (Wu et al., CVPR 2015) in the three formats in which it is distributed.

| format | files in the input folder | points | up | splits |
| --- | --- | --- | --- | --- |
| openshape | test_split.json, test_pc.npy (also below meta_data/modelnet40) | 10,000 | y | test |
| off | CLASS/train/*.off, CLASS/test/*.off (also below ModelNet40) | sampled | z | both |
| hdf5 | ply_data_*.h5, shape_names.txt (also below modelnet40_ply_hdf5_2048) | 2,048 | y | both |

`cat_name_pt_feat.npy` in the same folder holds the released class features. The shapes have no
colour: OpenShape stores 100 of 255 and means 0.4, which is what the records contain. `test_pc.npy`
is a single pickle and is loaded into memory as a whole; the other formats are read shape by shape.

`data_prep.sources.published` describes how invalid input is handled. OFF files that are malformed
or have no faces are skipped and counted. A class folder without files remains one of the classes.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import shapes
from data_prep.foreign import safe_pickle
from data_prep.geometry import clouds, scene, surface
from data_prep.sources import benchmark, published

# Format -> folders below the input folder that may contain its files.
FOLDERS = {
    "openshape": ("meta_data/modelnet40", "modelnet40", ""),
    "off": ("ModelNet40", ""),
    "hdf5": ("modelnet40_ply_hdf5_2048", ""),
}
# Format -> patterns of files that identify it.
PATTERNS = {
    "openshape": ("test_split.json", "test_pc.npy"),
    "off": ("*/test/*.off", "*/train/*.off"),
    "hdf5": ("ply_data_*.h5",),
}
# Value of all colour channels that OpenShape stores for shapes without colour.
COLOURLESS = 100


@dataclasses.dataclass(frozen=True, eq=False)
class OffItem(benchmark.Item):
    """Mesh in an OFF file."""

    path: str

    def read(self, *, points: int, rng: np.random.Generator) -> tuple[Any, Any, bool]:
        """Samples points from the surface; z is up.

        Raises:
          shapes.SkipShape: the file has no usable surface.
        """
        try:
            content = clouds.read_content(self.path, fill=1)
            if content.surface is None:
                raise shapes.SkipShape("no faces")
            xyz, _ = surface.sample_points(content.surface, points=points, rng=rng)
        except (clouds.CloudError, scene.MeshError) as error:
            raise shapes.SkipShape(str(error)) from error
        return xyz, None, False


class ModelNet40(benchmark.Benchmark):
    """ModelNet40 in the format that the input folder contains."""

    def class_set(self, input_dir: Path) -> published.ClassSet:
        """Returns the classes, with their released features if the folder has them.

        Raises:
          ValueError: the folder holds no format or several, or its files are inconsistent.
        """
        format_name, folder = _detect_format(input_dir)
        features = published.find_file(
            input_dir,
            benchmark.CLASS_FEATURES,
            folders=FOLDERS["openshape"] + FOLDERS[format_name],
        )
        return benchmark.load_classes(_LABELS[format_name](folder), features)

    def items(self, input_dir: Path) -> list[benchmark.Item]:
        """Lists the shapes: OpenShape's in the order of its list, others test before train.

        Raises:
          ValueError: the folder holds no format or several, or its files are inconsistent.
        """
        format_name, folder = _detect_format(input_dir)
        classes = self.class_set(input_dir)
        labels = _LABELS[format_name](folder)
        names = {label: benchmark.released_name(label, classes) for label in labels}
        items = benchmark.mark_duplicates(_ITEMS[format_name](folder, names))
        if not items:
            raise ValueError(f"{folder}: no shapes found in format {format_name!r}")
        return items


def _detect_format(input_dir: Path) -> tuple[str, Path]:
    """Returns the format of the files in a folder, and the folder that contains them.

    Raises:
      ValueError: the folder holds no format or several.
    """
    found = {}
    for format_name, folders in FOLDERS.items():
        for folder in (Path(input_dir) / name for name in folders):
            files = (path for pattern in PATTERNS[format_name] for path in folder.glob(pattern))
            if format_name not in found and next(files, None):
                found[format_name] = folder
    if len(found) != 1:
        raise ValueError(
            f"{input_dir}: expected ModelNet40 in one format, found {sorted(found)}; the formats "
            "are test_split.json with test_pc.npy (openshape), CLASS/test/*.off (off), and "
            "ply_data_test*.h5 with shape_names.txt (hdf5)"
        )
    return found.popitem()


def _require_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError(f"{path} is missing; this format of ModelNet40 requires it")
    return path


def _released_list(folder: Path) -> list[dict[str, str]]:
    path = _require_file(folder / "test_split.json")
    return published.read_list(path, keys=("name", "category"))


def _released_items(folder: Path, names: Mapping[str, str]) -> list[benchmark.Item]:
    """Pairs the clouds of `test_pc.npy` with the names and classes of `test_split.json`."""
    entries = _released_list(folder)
    path = _require_file(folder / "test_pc.npy")
    clouds = safe_pickle.load(path)
    if len(clouds) != len(entries) or not all(isinstance(cloud, dict) for cloud in clouds):
        raise ValueError(
            f"{path}: {len(clouds)} entries; expected a dict for each of the {len(entries)} shapes "
            "of test_split.json"
        )
    return [
        benchmark.InMemoryItem(
            id=entry["name"],
            split="test",
            label=names[entry["category"]],
            variant="openshape",
            xyz=cloud.get("xyz"),
            rgb=_to_unit_range(cloud.get("rgb")),
        )
        for entry, cloud in zip(entries, clouds, strict=True)
    ]


def _to_unit_range(rgb: Any) -> np.ndarray | None:
    """Scales colours from 0..255 to 0..1; returns None for a cloud without colour."""
    if rgb is None or np.all(np.asarray(rgb) == COLOURLESS):
        return None
    return np.asarray(rgb) / 255.0


def _mesh_labels(folder: Path) -> list[str]:
    folders = (path for path in folder.iterdir() if path.is_dir())
    return sorted(path.name for path in folders if (path / "test").is_dir())


def _mesh_items(folder: Path, names: Mapping[str, str]) -> list[benchmark.Item]:
    """Lists the OFF files, class by class."""
    return [
        OffItem(id=path.stem, split=split, label=names[label], variant="off", path=str(path))
        for split in ("test", "train")
        for label in _mesh_labels(folder)
        for path in sorted((folder / label / split).glob("*.off"))
    ]


def _hdf5_labels(folder: Path) -> list[str]:
    return _require_file(folder / "shape_names.txt").read_text("utf-8").split()


def _hdf5_items(folder: Path, names: Mapping[str, str]) -> list[benchmark.Item]:
    """Lists the rows of all HDF5 files; a label is a line number of `shape_names.txt`."""
    ordered = [names[label] for label in _hdf5_labels(folder)]
    return [
        item
        for split in ("test", "train")
        for path in sorted(folder.glob(f"ply_data_{split}*.h5"))
        for item in benchmark.list_hdf5(path, split=split, names=ordered, variant="hdf5")
    ]


_LABELS: Mapping[str, Callable[[Path], list[str]]] = {
    "openshape": lambda folder: [entry["category"] for entry in _released_list(folder)],
    "off": _mesh_labels,
    "hdf5": _hdf5_labels,
}
_ITEMS: Mapping[str, Callable[[Path, Mapping[str, str]], list[benchmark.Item]]] = {
    "openshape": _released_items,
    "off": _mesh_items,
    "hdf5": _hdf5_items,
}
