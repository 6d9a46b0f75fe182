# SPDX-License-Identifier: Apache-2.0
"""Objaverse 1.0 (Deitke et al., CVPR 2023) from the download cache of the PyPI package `objaverse`.

The package downloads to ~/.objaverse. Pass this folder, or hf-objaverse-v1 in it, as the input:

    import objaverse
    uids = objaverse.load_lvis_annotations()["chair"]
    objaverse.load_annotations(uids)
    objaverse.load_objects(uids)

Version 0.1.7 writes the objects to `hf-objaverse-v1/glbs/000-023/UID.glb`, their annotations to
`metadata/000-023.json.gz`, and the uids of each LVIS category to `lvis-annotations.json.gz`. The
importer needs neither the package nor `object-paths.json.gz`: every glb file in the cache becomes a
shape, in the order of paths, rotated from y up to z up. Interrupted downloads are `.glb.tmp` files,
which are not read.

| field of the annotation | field of the record |
| --- | --- |
| name | name, and the caption of kind "name" |
| name and tags | caption of kind "tags" |
| categories of Sketchfab, such as "Furniture & Home" | caption of kind "category" |
| description, without markup and URLs, up to 300 characters | caption of kind "description" |
| displayName of the user, else username | creator |
| license, such as "by-sa" | licence, such as "CC BY-SA 4.0" |

The LVIS category becomes the label, with spaces for underscores. All shapes are in the split
"train", since Objaverse serves for training and `objaverse_lvis` is its benchmark. To keep the two
disjoint, do not download the objects of LVIS.

Invalid input. The import stops with an error if a list or an annotation file is corrupt. Corrupt
and empty meshes are skipped and counted. A shape without annotation is kept without captions; a
shape in several LVIS categories gets the first one; both are counted.
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
# Text encoders read up to 77 tokens, and descriptions tend to end in links and greetings.
MAX_DESCRIPTION = 300
# Sketchfab's name of a licence -> its usual name.
LICENCES = {
    "by": "CC BY 4.0",
    "by-sa": "CC BY-SA 4.0",
    "by-nc": "CC BY-NC 4.0",
    "by-nc-sa": "CC BY-NC-SA 4.0",
    "cc0": "CC0 1.0",
}


@dataclasses.dataclass(frozen=True)
class Objaverse:
    """All objects of Objaverse in the download cache."""

    family: str = "objaverse"
    from_y_up: ClassVar[str] = "rotate"

    def items(self, input_dir: Path) -> list[shape_files.Item]:
        """Lists the objects in the cache, in the order of their paths.

        Raises:
          ValueError: the cache is empty, or an annotation file is corrupt.
        """
        root = find_cache(Path(input_dir)).resolve()
        labels = read_lvis(root / LVIS_FILE)
        items: list[shape_files.Item] = []
        for folder in sorted(path for path in (root / "glbs").glob("*") if path.is_dir()):
            annotations = _read_json_gz(root / "metadata" / f"{folder.name}.json.gz")
            for path in sorted(folder.glob("[!.]*.glb")):
                fields = parse_annotation(annotations.get(path.stem))
                categories = labels.get(path.stem, [])
                if len(categories) > 1:
                    fields["faults"] += ("in several LVIS categories",)
                items.append(
                    shape_files.with_version(
                        shape_files.Item(
                            id=path.stem,
                            root=str(root),
                            path=path.relative_to(root).as_posix(),
                            split=SPLIT,
                            up_axis="y",
                            label=categories[0] if categories else "",
                            **fields,
                        )
                    )
                )
        if not items:
            raise ValueError(
                f"{root}: no glbs/*/*.glb in it; download objects with the package objaverse"
            )
        return items

    def prepare(
        self, item: shape_files.Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one object; see `shape_files.prepare`."""
        return shape_files.prepare(
            item,
            family=self.family,
            points=points,
            views=views,
            image_size=image_size,
            seed=seed,
        )

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Returns all shapes as the split "train". Raises ValueError if there are none."""
        return splitting.by_catalogue(prepared, family=self.family)

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """Returns the LVIS categories of the shapes, sorted."""
        return sorted({shape.label for shape in prepared} - {""})


def find_cache(input_dir: Path) -> Path:
    """Returns the folder that contains `glbs`: the input folder or `hf-objaverse-v1` in it.

    Raises:
      ValueError: neither contains it.
    """
    for folder in (input_dir, input_dir / CACHE_FOLDER):
        if (folder / "glbs").is_dir():
            return folder
    raise ValueError(
        f"{input_dir}: no {CACHE_FOLDER}/glbs in it; expected the cache of the package objaverse "
        "(pip install objaverse), usually ~/.objaverse"
    )


def read_lvis(path: Path) -> dict[str, list[str]]:
    """Reads the LVIS categories of the objects.

    Args:
      path: file with {category: [uid, ...]}; a missing file counts as empty.

    Returns:
      uid -> names of its categories in the order of the file, with spaces for underscores.

    Raises:
      ValueError: the file is corrupt or has other content.
    """
    labels: dict[str, list[str]] = {}
    for category, uids in _read_json_gz(path).items():
        if not isinstance(uids, list):
            raise ValueError(f"{path}: category {category!r} is {uids!r}; expected a list of uids")
        for uid in uids:
            labels.setdefault(uid, []).append(category.replace("_", " "))
    return labels


def parse_annotation(annotation: Any) -> dict[str, Any]:
    """Converts an annotation to keyword arguments of `shape_files.Item`.

    Args:
      annotation: dict of Sketchfab's fields; fields that are missing or of another type are
        ignored.
    """
    if not isinstance(annotation, Mapping):
        return {"faults": ("no annotation",)}
    name = plain_text(annotation.get("name"))
    tags = [plain_text(tag) for tag in _names(annotation.get("tags"))]
    categories = [plain_text(each) for each in _names(annotation.get("categories"))]
    description = plain_text(annotation.get("description"))
    captions = [("name", name)] if name else []
    if any(tags):
        captions.append(("tags", ", ".join(text for text in (name, *tags) if text)))
    if any(categories):
        captions.append(("category", ", ".join(text for text in categories if text)))
    if description:
        captions.append(("description", _shorten(description)))
    user = annotation.get("user")
    user = user if isinstance(user, Mapping) else {}
    licence = _clean_text(annotation.get("license"))
    return {
        "name": name,
        "captions": tuple(captions),
        "creator": _clean_text(user.get("displayName")) or _clean_text(user.get("username")),
        "licence": LICENCES.get(licence, licence),
        "faults": (),
    }


def plain_text(value: Any) -> str:
    """Removes markup, URLs and line breaks from a text; returns "" for other types."""
    text = html.unescape(re.sub(r"<[^<>]*>", " ", _clean_text(value)))
    return " ".join(re.sub(r"(?:https?://|www\.)\S+", " ", text).split())


def _shorten(text: str) -> str:
    """Truncates a text to MAX_DESCRIPTION characters, between words if possible."""
    if len(text) <= MAX_DESCRIPTION:
        return text
    return text[: MAX_DESCRIPTION + 1].rpartition(" ")[0] or text[:MAX_DESCRIPTION]


def _names(value: Any) -> Iterator[str]:
    for entry in value if isinstance(value, list) else ():
        name = _clean_text(entry.get("name")) if isinstance(entry, Mapping) else ""
        if name:
            yield name


def _clean_text(value: Any) -> str:
    """Collapses white space; returns "" for other types than str."""
    return " ".join(value.split()) if isinstance(value, str) else ""


def _read_json_gz(path: Path) -> dict[str, Any]:
    """Reads a gzip-compressed JSON object; returns {} if the file does not exist."""
    try:
        with gzip.open(path, "rb") as file:
            data = file.read(limits.MEMBER_BYTES.maximum() + 1)
        limits.MEMBER_BYTES.check(len(data))
        content = json.loads(data)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}")
    except FileNotFoundError:
        return {}
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a valid JSON object ({error}); delete it and download it again with the "
            "package objaverse"
        ) from error
    return content
