# SPDX-License-Identifier: Apache-2.0
"""Folders and files of an index that its manifest does not list."""

import os
import shutil
from pathlib import Path

from mrd_jax.search import manifest, nearest, segments


def names(folder: Path) -> list[str]:
    """Returns the names of all complete segments of an index, listed or not, ascending."""
    place = folder / manifest.SEGMENTS
    found = os.listdir(place) if place.is_dir() else []
    return sorted(name for name in found if name.isdigit())


def delete_unlisted(folder: Path, content: manifest.Manifest) -> None:
    """Deletes segments and lists of removed shapes; open indexes keep what they have mapped.

    Args:
      folder: folder of the index.
      content: its manifest.
    """
    place = folder / manifest.SEGMENTS
    place.mkdir(exist_ok=True)
    listed = {listed.name: listed.removed for listed in content.segments}
    for name in os.listdir(place):
        if name not in listed:  # also the temporary folders of killed writers
            shutil.rmtree(place / name)
            continue
        for file in (place / name).glob("removed-*.npy"):
            if file.name != listed[name]:
                file.unlink()


def delete_format_1(folder: Path) -> None:
    """Deletes the files of format 1, one version after the conversion.

    Indexes that were opened before it read their pictures when they are asked for.
    """
    for file in (*(f"{name}.npy" for name in segments.ARRAYS), segments.SHAPES_FILE):
        (folder / file).unlink(missing_ok=True)
    (folder / nearest.ANN_FILE).unlink(missing_ok=True)
    shutil.rmtree(folder / segments.PICTURES, ignore_errors=True)
