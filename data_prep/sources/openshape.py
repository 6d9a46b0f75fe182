# SPDX-License-Identifier: Apache-2.0
"""OpenShape's training data (Liu et al., NeurIPS 2023): clouds with released CLIP features.

The input folder holds `meta_data/` (lists, filter) and the unpacked archives of shapes, with one
`.npy` file per shape. A list contains the paths on its authors' machine; the longest suffix of such
a path that exists below the input folder is the file. Points are converted to z up
(`published.make_cloud`).

| in the file | in the record |
| --- | --- |
| image_feat | image features of kind "render" |
| thumbnail_feat, for Objaverse only, as in OpenShape | last image feature, of kind "picture" |
| text: the first for Objaverse, otherwise all; prompt_avg | captions of kind "name" |
| the same, if the GPT-4 filter rejects the text (flag "N") | kind "name_rejected" |
| blip_caption, msft_caption; prompt_avg | kinds "blip", "msft" |
| retrieval_text; original | kind "retrieved" |

`data_prep.sources.published` describes how invalid input is handled.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np

from data_prep import shapes, timing
from data_prep.foreign import archives, safe_pickle
from data_prep.sources import published

FILTER_FILE = "gpt4_filtering.json"
# The only data set whose names are filtered and whose thumbnails are used.
OBJAVERSE = "Objaverse"


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """Entry of a list of shapes.

    Attributes:
      id: unique id in the list.
      root: input folder.
      path: path of the file in the list.
      source: source of the record, such as "openshape/Objaverse".
      split: split that the shape belongs to.
      group: group of the release that contains the file.
      label: class name, or "".
      name_rejected: whether the GPT-4 filter rejects the name; None if it does not apply.
      needs_features: whether to skip a shape without any features.
      fault: fault to count if the shape is kept, or "".
      skip: reason why the item is skipped, or "".
    """

    id: str
    root: str
    path: str
    source: str
    split: str
    group: str
    label: str = ""
    name_rejected: bool | None = None
    needs_features: bool = False
    fault: str = ""
    skip: str = ""

    @property
    def fingerprint(self) -> str:
        """Returns everything besides the file that determines the shape."""
        return f"{self.source} {self.label} {self.name_rejected} {self.fault} {self.skip}"

    def file_exists(self) -> bool:
        """Returns whether the file exists."""
        return locate(Path(self.root), self.path) is not None


@dataclasses.dataclass(frozen=True)
class OpenShape(published.Published):
    """One of OpenShape's training lists.

    Attributes:
      split_list: path of the list below `meta_data`.
    """

    split_list: str = "split/train_all.json"
    needs_released: ClassVar[bool] = True

    def class_set(self, input_dir: Path) -> published.ClassSet:
        """Returns no classes, since training shapes are not labelled."""
        return published.ClassSet()

    def items(self, input_dir: Path) -> list[Item]:
        """Lists the shapes in the order of the list.

        Raises:
          ValueError: the list or the filter is missing or invalid.
        """
        path = published.require_file(input_dir, self.split_list)
        entries = published.read_list(path, keys=("id", "dataset", "group", "data_path"))
        rejected = read_filter(published.require_file(input_dir, FILTER_FILE))
        items = []
        for entry in entries:
            is_filtered = entry["dataset"] == OBJAVERSE
            is_missing = is_filtered and entry["id"] not in rejected
            items.append(
                Item(
                    id=entry["id"],
                    root=str(input_dir),
                    path=entry["data_path"],
                    source=f"openshape/{entry['dataset']}",
                    split="train",
                    group=entry["group"],
                    name_rejected=rejected.get(entry["id"]) if is_filtered else None,
                    needs_features=True,
                    fault="name not in the GPT-4 filter" if is_missing else "",
                )
            )
        return mark_duplicates(items)

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Reads one released file; see `read_shape`. Ignores `views` and `image_size`."""
        return read_shape(item, points=points, seed=seed)


def read_filter(path: Path) -> dict[str, bool]:
    """Reads the GPT-4 filter of names.

    Args:
      path: JSON file with {id: {"flag": "Y" or "N", ...}}.

    Returns:
      id -> whether the name is rejected.

    Raises:
      ValueError: the file has other content.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))
        return {shape_id: entry["flag"] == "N" for shape_id, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: not a filter ({type(error).__name__}: {error}); expected {{id: {{"flag": '
            f'"Y" or "N"}}}}'
        ) from error


def mark_duplicates(items: Sequence[Item]) -> list[Item]:
    """Gives items that repeat an earlier id a unique id and the reason to skip them."""
    seen: set[str] = set()
    result = []
    for position, item in enumerate(items):
        if item.id in seen:
            item = dataclasses.replace(
                item, id=f"{item.id} (entry {position})", skip="id listed before"
            )
        seen.add(item.id)
        result.append(item)
    return result


def read_shape(item: Item, *, points: int, seed: int) -> shapes.Shape:
    """Reads one released file as a shape.

    Args:
      item: entry of the list.
      points: number of points to sample.
      seed: seed of the sampling.

    Raises:
      shapes.SkipShape: the shape cannot be used.
      safe_pickle.UnsafePickleError: the file is corrupt, or contains more than plain data.
      ValueError: the file does not hold a dict.
    """
    if item.skip:
        raise shapes.SkipShape(item.skip)
    path = locate(Path(item.root), item.path)
    if path is None:
        raise shapes.SkipShape(shapes.FILE_MISSING)
    with timing.stage("load"):
        data = safe_pickle.load(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path}: holds a {type(data).__name__}, expected the dict of one shape")
    with timing.stage("points"):
        xyz, rgb = published.make_cloud(
            data.get("xyz"),
            data.get("rgb", ()),
            points=points,
            seed=seed,
            shape_id=item.id,
            y_up=True,
        )
    with timing.stage("features"):
        faults = [item.fault] if item.fault else []
        images = _usable(_images(data, item.source), faults)
        texts = _usable(_texts(data, item), faults)
    if item.needs_features and not images and not texts:
        raise shapes.SkipShape("no features")
    return shapes.Shape(
        id=item.id,
        source=item.source,
        name=next((text for (kind, text), _ in texts if kind.startswith("name")), ""),
        catalogue=item.split,
        category=item.group,
        creator="",
        licence="",
        xyz=xyz,
        rgb=rgb,
        images=(),
        image_kinds=(),
        captions=tuple(caption for caption, _ in texts),
        label=item.label,
        faults=tuple(faults),
        released=shapes.Released(
            image=_stack([row for _, row in images]),
            image_kinds=tuple(kind for kind, _ in images),
            text=_stack([row for _, row in texts]),
        ),
    )


def locate(root: Path, listed: str) -> Path | None:
    """Returns the file below `root` that matches the longest suffix of a listed path, or None.

    Raises:
      archives.ArchiveError: the path leaves its folder through "..".
    """
    parts = PurePosixPath(archives.safe_path(listed)).parts
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        if path.is_file():
            return path
    return None


def _images(data: Mapping[str, Any], source: str) -> Iterator[tuple[str, Any]]:
    """Yields (kind, feature) of every image."""
    views = data.get("image_feat")
    yield from (("render", row) for row in (() if views is None else views))
    thumbnail = data.get("thumbnail_feat")
    if thumbnail is not None and source.endswith(OBJAVERSE):
        yield "picture", thumbnail


def _texts(data: Mapping[str, Any], item: Item) -> Iterator[tuple[tuple[str, str], Any]]:
    """Yields ((kind, text), feature) of every text."""
    names = _paired(data, "text", version="prompt_avg")
    if item.source.endswith(OBJAVERSE):
        names = names[:1]
    kind = "name_rejected" if item.name_rejected else "name"
    yield from (((kind, text), feature) for text, feature in names)
    for kind in ("blip", "msft"):
        text = data.get(f"{kind}_caption")
        if text:
            yield (kind, text), _version(data.get(f"{kind}_caption_feat"), "prompt_avg")
    retrieved = _paired(data, "retrieval_text", version="original")
    yield from ((("retrieved", text), feature) for text, feature in retrieved)


def _paired(data: Mapping[str, Any], key: str, *, version: str) -> list[tuple[str, Any]]:
    """Pairs the texts of a field with one version of their features."""
    texts, features = list(data.get(key) or ()), list(data.get(f"{key}_feat") or ())
    if len(texts) != len(features):
        raise shapes.SkipShape(f"{key} and its features differ in number")
    pairs = zip(texts, features, strict=True)
    return [(text, _version(versions, version)) for text, versions in pairs]


def _version(features: Any, version: str) -> Any:
    """Returns one version of the features of a text."""
    if not isinstance(features, dict) or version not in features:
        raise shapes.SkipShape(f"a text without its feature {version!r}")
    return features[version]


def _usable(pairs: Iterator[tuple[Any, Any]], faults: list[str]) -> list[tuple[Any, np.ndarray]]:
    """Returns the pairs with a usable feature as float16 [dim]; adds a fault for each other one.

    Faults are part of the fingerprint of a shape, so their texts must not change.
    """
    kept = []
    for key, feature in pairs:
        values = np.asarray(feature)
        if values.dtype.kind != "f" or values.size != published.OPENCLIP.dim:
            raise shapes.SkipShape(f"a feature is not {published.OPENCLIP.dim} numbers")
        with np.errstate(over="ignore"):  # an overflow of float16 is non-finite below
            half = values.reshape(-1).astype(np.float16)
        if isinstance(key, tuple) and not (isinstance(key[1], str) and key[1].strip()):
            faults.append("left out an empty text")
        elif not np.isfinite(half).all():
            faults.append("left out a feature that is not finite")
        elif not half.any():
            faults.append("left out a feature that is zero")
        else:
            kept.append((key, half))
    return kept


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    """Stacks features as float16 [rows, dim]."""
    return np.asarray(rows, np.float16).reshape(len(rows), published.OPENCLIP.dim)
