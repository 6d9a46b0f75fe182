# SPDX-License-Identifier: Apache-2.0
"""Objaverse 1.0 (Deitke et al., CVPR 2023), as the PyPI package `objaverse` leaves it on disk.

The package downloads to ~/.objaverse, which is the input folder (or its hf-objaverse-v1):

    import objaverse
    uids = objaverse.load_lvis_annotations()["chair"]
    objaverse.load_annotations(uids)
    objaverse.load_objects(uids)

Layout of version 0.1.7: `hf-objaverse-v1/glbs/000-023/UID.glb`, the annotations of a folder of
objects in `metadata/000-023.json.gz`, and `lvis-annotations.json.gz` with the uids of each LVIS
category. The importer needs neither the package nor `object-paths.json.gz`: every glb that is there
becomes a shape, in the order of paths, with y up turned to z. A download that was cut short is a
`.glb.tmp` file and is not read.

| in the annotation | in the record |
| --- | --- |
| name | name, and the caption of kind "name" |
| name and tags | caption of kind "tags" |
| description, without markup and addresses, up to 300 characters | kind "description" |
| user's displayName, else username | creator |
| license, such as "by-sa" | licence, such as "CC BY-SA 4.0" |

The LVIS category becomes the label, with spaces for underscores. All shapes are in the split
"train": Objaverse is what one trains on, and `objaverse_lvis` its benchmark. To keep them apart,
leave the objects of LVIS out of the cache.

Bad input. A list or a file of annotations that is damaged stops the import and is named. A damaged
or empty mesh is counted and left out. A shape without annotation is kept without captions, and one
in several LVIS categories with the first of them; both are counted.
"""

import dataclasses
import gzip
import html
import json
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from data_prep import shapes
from data_prep.foreign import limits
from data_prep.sources import shape_files, splitting

CACHE_FOLDER = "hf-objaverse-v1"
LVIS_FILE = "lvis-annotations.json.gz"
SPLIT = "train"
# Teachers read 77 tokens at most, and descriptions end in links and greetings.
MAX_DESCRIPTION = 300
# Objaverse's licences, by Sketchfab's names for them.
LICENCES = {
    "by": "CC BY 4.0",
    "by-sa": "CC BY-SA 4.0",
    "by-nc": "CC BY-NC 4.0",
    "by-nc-sa": "CC BY-NC-SA 4.0",
    "cc0": "CC0 1.0",
}


@dataclasses.dataclass(frozen=True)
class Objaverse:
    """Whatever part of Objaverse was downloaded."""

    family: str = "objaverse"
    from_y_up: ClassVar[str] = "rotate"

    def items(self, input_dir: Path) -> list[shape_files.Item]:
        """Lists the objects in the cache, in the order of their paths.

        Raises:
          ValueError: there are none, or a file of annotations is damaged.
        """
        root = find_cache(Path(input_dir)).resolve()
        labels = read_lvis(root / LVIS_FILE)
        items: list[shape_files.Item] = []
        for folder in sorted(path for path in (root / "glbs").glob("*") if path.is_dir()):
            annotations = _read(root / "metadata" / f"{folder.name}.json.gz")
            for path in sorted(folder.glob("*.glb")):
                described = describe(annotations.get(path.stem))
                found = labels.get(path.stem, [])
                if len(found) > 1:
                    described["faults"] += ("in several LVIS categories",)
                items.append(
                    shape_files.with_version(
                        shape_files.Item(
                            id=path.stem,
                            root=str(root),
                            path=path.relative_to(root).as_posix(),
                            split=SPLIT,
                            up_axis="y",
                            label=found[0] if found else "",
                            **described,
                        )
                    )
                )
        if not items:
            raise ValueError(f"{root}: no glbs/*/*.glb in it; download objects with the package")
        return items

    def prepare(
        self, item: shape_files.Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one object, as `shape_files.prepare` says."""
        return shape_files.prepare(
            item,
            family=self.family,
            points=points,
            views=views,
            image_size=image_size,
            seed=seed,
        )

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """All in one. ValueError where there is no shape."""
        return splitting.by_catalogue(prepared, family=self.family)

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """The LVIS categories that have a shape, sorted."""
        return sorted({shape.label for shape in prepared} - {""})


def find_cache(input_dir: Path) -> Path:
    """The folder that holds `glbs`: the input folder or its `hf-objaverse-v1`.

    Raises:
      ValueError: neither does.
    """
    for folder in (input_dir, input_dir / CACHE_FOLDER):
        if (folder / "glbs").is_dir():
            return folder
    raise ValueError(
        f"{input_dir}: no {CACHE_FOLDER}/glbs in it; expected the cache of the package objaverse "
        "(pip install objaverse), usually ~/.objaverse"
    )


def read_lvis(path: Path) -> dict[str, list[str]]:
    """LVIS categories of objects, in the order of the file.

    Args:
      path: of {category: [uid, ...]}; an absent file knows none.

    Returns:
      uid -> names of its categories, with spaces for underscores.

    Raises:
      ValueError: the file is damaged or something else.
    """
    labels: dict[str, list[str]] = {}
    for category, uids in _read(path).items():
        if not isinstance(uids, list):
            raise ValueError(f"{path}: category {category!r} holds {uids!r}; expected a list")
        for uid in uids:
            labels.setdefault(uid, []).append(category.replace("_", " "))
    return labels


def describe(annotation: Any) -> dict[str, Any]:
    """What an annotation says, as fields of `shape_files.Item`.

    Args:
      annotation: of Sketchfab's fields; fields that are absent or of another type say nothing.
    """
    if not isinstance(annotation, Mapping):
        return {"faults": ("no annotation",)}
    name = plain_text(annotation.get("name"))
    tags = [plain_text(tag) for tag in _names(annotation.get("tags"))]
    description = plain_text(annotation.get("description"))
    captions = [("name", name)] if name else []
    if any(tags):
        captions.append(("tags", ", ".join(text for text in (name, *tags) if text)))
    if description:
        captions.append(("description", _shortened(description)))
    user = annotation.get("user")
    user = user if isinstance(user, Mapping) else {}
    licence = _text(annotation.get("license"))
    return {
        "name": name,
        "captions": tuple(captions),
        "creator": _text(user.get("displayName")) or _text(user.get("username")),
        "licence": LICENCES.get(licence, licence),
        "faults": (),
    }


def plain_text(value: Any) -> str:
    """Text without markup, addresses and line breaks; "" for anything but text."""
    text = html.unescape(re.sub(r"<[^<>]*>", " ", _text(value)))
    return " ".join(re.sub(r"(?:https?://|www\.)\S+", " ", text).split())


def _shortened(text: str) -> str:
    """Up to MAX_DESCRIPTION characters, cut between words."""
    if len(text) <= MAX_DESCRIPTION:
        return text
    return text[: MAX_DESCRIPTION + 1].rpartition(" ")[0] or text[:MAX_DESCRIPTION]


def _names(value: Any) -> Iterator[str]:
    """Names of tags."""
    for entry in value if isinstance(value, list) else ():
        name = _text(entry.get("name")) if isinstance(entry, Mapping) else ""
        if name:
            yield name


def _text(value: Any) -> str:
    return " ".join(value.split()) if isinstance(value, str) else ""


def _read(path: Path) -> dict[str, Any]:
    """Reads a compressed JSON object; an absent file holds nothing."""
    try:
        with gzip.open(path, "rb") as file:
            data = file.read(limits.MEMBER_BYTES.most() + 1)
        limits.MEMBER_BYTES.check(len(data))
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError(f"holds a {type(content).__name__}")
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a whole JSON object ({error}); delete it and let the package get it again"
        ) from error
    return content
