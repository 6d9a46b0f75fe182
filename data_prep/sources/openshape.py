# SPDX-License-Identifier: Apache-2.0
"""OpenShape's training data (Liu et al., NeurIPS 2023): clouds with features of a CLIP, released.

The input folder holds `meta_data/` (lists, filter) and the unpacked archives of shapes, one `.npy`
file a shape. A list gives the path that a file had with its authors; the longest tail of it that
exists below the input folder is the file. Points are turned to z up (`published.make_cloud`).

| in the file | in the record |
| --- | --- |
| image_feat | image features of kind "render" |
| thumbnail_feat, Objaverse only, as OpenShape uses it | one of kind "picture", the last |
| text: the first for Objaverse, else all; prompt_avg | captions of kind "name" |
| the same, where GPT-4 found the text to say nothing (flag "N") | kind "name_rejected" |
| blip_caption, msft_caption; prompt_avg | kinds "blip", "msft" |
| retrieval_text; original | kind "retrieved" |

What happens to bad input stands in `data_prep.sources.published`.
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
# The data set whose names are filtered, and whose thumbnails are used.
OBJAVERSE = "Objaverse"


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """One entry of a list of shapes."""

    id: str
    root: str  # the input folder
    path: str  # of the file, as the list has it
    source: str  # becomes the record's source
    split: str
    group: str
    label: str = ""
    filtered: bool | None = None  # GPT-4 rejects the name; None where it was not asked
    needs_features: bool = False
    fault: str = ""
    skip: str = ""

    @property
    def mark(self) -> str:
        """What decides the shape besides the file."""
        return f"{self.source} {self.label} {self.filtered} {self.fault} {self.skip}"

    def is_there(self) -> bool:
        """Whether the file exists."""
        return locate(Path(self.root), self.path) is not None


@dataclasses.dataclass(frozen=True)
class OpenShape(published.Published):
    """The shapes of one of OpenShape's training lists.

    Attributes:
      split_list: the list, below meta_data.
    """

    split_list: str = "split/train_all.json"
    needs_released: ClassVar[bool] = True

    def class_set(self, input_dir: Path) -> published.ClassSet:
        """Training shapes have texts and no classes."""
        return published.ClassSet()

    def items(self, input_dir: Path) -> list[Item]:
        """Lists the shapes in the order of the list.

        Raises:
          ValueError: the list or the filter is missing or is none.
        """
        path = published.existing_file(input_dir, self.split_list)
        entries = published.read_list(path, keys=("id", "dataset", "group", "data_path"))
        flags = read_filter(published.existing_file(input_dir, FILTER_FILE))
        items = []
        for entry in entries:
            asked = entry["dataset"] == OBJAVERSE
            known = entry["id"] in flags
            items.append(
                Item(
                    id=entry["id"],
                    root=str(input_dir),
                    path=entry["data_path"],
                    source=f"openshape/{entry['dataset']}",
                    split="train",
                    group=entry["group"],
                    filtered=flags.get(entry["id"]) if asked else None,
                    needs_features=True,
                    fault="name not in the GPT-4 filter" if asked and not known else "",
                )
            )
        return mark_repeated(items)

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Reads one file; `views` and `image_size` are for sources that are rendered.

        Raises:
          shapes.SkipShape: the shape cannot be used.
          safe_pickle.UnsafePickleError: the file is refused or damaged.
        """
        return read_shape(item, points=points, seed=seed)


def read_filter(path: Path) -> dict[str, bool]:
    """Reads GPT-4's verdicts on names.

    Args:
      path: of a JSON file {id: {"flag": "Y" or "N", ...}}.

    Returns:
      id -> whether the name is rejected.

    Raises:
      ValueError: it is no such file.
    """
    try:
        entries = json.loads(path.read_text("utf-8"))
        return {shape_id: entry["flag"] == "N" for shape_id, entry in entries.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f'{path}: not a filter ({type(error).__name__}: {error}); expected {{id: {{"flag": '
            f'"Y" or "N"}}}}'
        ) from error


def mark_repeated(items: Sequence[Item]) -> list[Item]:
    """Gives every item that repeats an id a name of its own and the reason why it is skipped."""
    seen: set[str] = set()
    found = []
    for position, item in enumerate(items):
        if item.id in seen:
            item = dataclasses.replace(
                item, id=f"{item.id} (entry {position})", skip="id listed before"
            )
        seen.add(item.id)
        found.append(item)
    return found


def read_shape(item: Item, *, points: int, seed: int) -> shapes.Shape:
    """One released file as a shape.

    Args:
      item: what the list says of it.
      points: to keep.
      seed: of the draw.

    Raises:
      shapes.SkipShape: the shape cannot be used.
      safe_pickle.UnsafePickleError: the file is refused or damaged; it names the file.
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
    """The file below a folder that ends as a listed path does, the longest such ending, or None.

    Raises:
      archives.ArchiveError: the path climbs out of its folder.
    """
    parts = PurePosixPath(archives.safe_path(listed)).parts
    for start in range(len(parts)):
        path = root.joinpath(*parts[start:])
        if path.is_file():
            return path
    return None


def _images(data: Mapping[str, Any], source: str) -> Iterator[tuple[str, Any]]:
    """(kind, feature) of every image."""
    views = data.get("image_feat")
    yield from (("render", row) for row in (() if views is None else views))
    thumbnail = data.get("thumbnail_feat")
    if thumbnail is not None and source.endswith(OBJAVERSE):
        yield "picture", thumbnail


def _texts(data: Mapping[str, Any], item: Item) -> Iterator[tuple[tuple[str, str], Any]]:
    """((kind, text), feature) of every text."""
    names = _paired(data, "text", version="prompt_avg")
    if item.source.endswith(OBJAVERSE):
        names = names[:1]
    kind = "name_rejected" if item.filtered else "name"
    yield from (((kind, text), feature) for text, feature in names)
    for kind in ("blip", "msft"):
        text = data.get(f"{kind}_caption")
        if text:
            yield (kind, text), _version(data.get(f"{kind}_caption_feat"), "prompt_avg")
    retrieved = _paired(data, "retrieval_text", version="original")
    yield from ((("retrieved", text), feature) for text, feature in retrieved)


def _paired(data: Mapping[str, Any], key: str, *, version: str) -> list[tuple[str, Any]]:
    """A list of texts with one version of their features."""
    texts, found = list(data.get(key) or ()), list(data.get(f"{key}_feat") or ())
    if len(texts) != len(found):
        raise shapes.SkipShape(f"{key} and its features differ in number")
    return [(text, _version(one, version)) for text, one in zip(texts, found, strict=True)]


def _version(features: Any, version: str) -> Any:
    """One of the features that a text has."""
    if not isinstance(features, dict) or version not in features:
        raise shapes.SkipShape(f"a text without its feature {version!r}")
    return features[version]


def _usable(pairs: Iterator[tuple[Any, Any]], faults: list[str]) -> list[tuple[Any, np.ndarray]]:
    """Pairs whose feature can be used, as float16 [dim]; notes the others among the faults."""
    kept = []
    for what, feature in pairs:
        values = np.asarray(feature)
        if values.dtype.kind != "f" or values.size != published.OPENCLIP.dim:
            raise shapes.SkipShape(f"a feature is not {published.OPENCLIP.dim} numbers")
        with np.errstate(over="ignore"):  # what half precision cannot hold is found below
            half = values.reshape(-1).astype(np.float16)
        if isinstance(what, tuple) and not (isinstance(what[1], str) and what[1].strip()):
            faults.append("left out an empty text")
        elif not np.isfinite(half).all():
            faults.append("left out a feature that is not finite")
        elif not half.any():
            faults.append("left out a feature that is zero")
        else:
            kept.append((what, half))
    return kept


def _stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    """float16 [rows, dim]."""
    return np.asarray(rows, np.float16).reshape(len(rows), published.OPENCLIP.dim)
