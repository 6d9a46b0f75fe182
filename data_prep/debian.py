# SPDX-License-Identifier: Apache-2.0
"""Downloads and reads packages of Debian without root."""

import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import tqdm

_TOOLS = ("apt-get", "dpkg-deb")


class FetchError(OSError):
    """Raised when data cannot be downloaded; the message describes the manual way."""


def check_tools(*, by_hand: str) -> None:
    """Checks that the tools are installed.

    Args:
      by_hand: instructions for a manual download, which end the error.

    Raises:
      FetchError: one is not installed.
    """
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        raise FetchError(f"{' and '.join(missing)} not found on this system. {by_hand}")


def download(package: str, folder: Path, *, by_hand: str) -> Path:
    """Downloads a package, with private package lists if the system has none.

    A file of an earlier download is completed, or kept if it is complete.

    Args:
      package: name of the package.
      folder: folder to download to, which exists and holds no other package.
      by_hand: instructions for a manual download, which end the error.

    Returns:
      Path of the .deb file.

    Raises:
      FetchError: the download failed.
    """
    try:
        run(["apt-get", "download", package], folder=folder, by_hand=by_hand)
    except FetchError:
        # A fresh machine has no package lists, and updating those of the system needs root.
        for name in ("lists/partial", "cache/archives/partial"):
            Path(folder, name).mkdir(parents=True, exist_ok=True)
        here = folder.resolve()
        private = ["-o", f"Dir::State::Lists={here}/lists", "-o", f"Dir::Cache={here}/cache"]
        run(["apt-get", *private, "update"], folder=folder, by_hand=by_hand)
        run(["apt-get", *private, "download", package], folder=folder, by_hand=by_hand)
    packages = sorted(folder.glob("*.deb"))
    if not packages:
        raise FetchError(f"apt-get download left no .deb file. {by_hand}")
    return packages[-1]


def run(arguments: list[str], *, folder: Path, by_hand: str) -> None:
    """Runs a tool in a folder. FetchError, with the last line of stderr, if it fails."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise FetchError(f"`{' '.join(arguments)}` failed: {lines[-1]}\n{by_hand}")


def extract(
    package: Path, folder: Path, *, wanted: Callable[[str], bool], total: int, by_hand: str
) -> int:
    """Extracts some files of a package while it is decompressed.

    Args:
      package: .deb file.
      folder: folder to extract to.
      wanted: whether to extract a path, such as "usr/share/doc/NAME/copyright".
      total: expected number of files, for the progress bar.
      by_hand: instructions for a manual download, which end the error.

    Returns:
      Number of files.

    Raises:
      FetchError: the package is corrupt, or the disk is full.
    """
    command = ["dpkg-deb", "--fsys-tarfile", str(package)]
    count = 0
    try:
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process,
            tarfile.open(fileobj=process.stdout, mode="r|") as archive,
            tqdm.tqdm(total=total, unit="file", desc=package.name) as bar,
        ):
            for member in archive:
                if member.isfile() and wanted(member.name.removeprefix("./")):
                    archive.extract(member, folder, filter="data")
                    count += 1
                    bar.update()
    except (tarfile.TarError, OSError) as error:
        raise FetchError(f"{package} cannot be extracted: {error}\n{by_hand}") from error
    if process.returncode:
        raise FetchError(f"`{' '.join(command)}` failed: delete the file, run again\n{by_hand}")
    return count
