# SPDX-License-Identifier: Apache-2.0
"""Gets the Sweet Home 3D furniture catalogues (820 models, 127 MB, CC0 and CC-BY).

python -m data_prep.fetch --output DIR
"""

import argparse
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

PACKAGE = "sweethome3d-furniture"
CATALOGUES = (
    "BlendSwap-CC-0.sh3f",
    "BlendSwap-CC-BY.sh3f",
    "KatorLegaz.sh3f",
    "Reallusion.sh3f",
    "Scopia.sh3f",
)
PROJECT_PAGE = "https://www.sweethome3d.com/importModels.jsp"


class FetchError(RuntimeError):
    """The catalogues could not be had; the message says how to get them by hand."""


def fetch(output: Path) -> bool:
    """Puts the five catalogues into a folder, out of Debian's package; needs no root.

    Args:
      output: folder for the .sh3f files, made where absent.

    Returns:
      Whether anything was fetched; False where all five were there.

    Raises:
      FetchError: there is no apt here, or the download failed.
    """
    output = Path(output)
    if all((output / name).is_file() for name in CATALOGUES):
        return False
    tools = ("apt-get", "dpkg-deb")
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        raise FetchError(f"{' and '.join(absent)} not found on this system. {_by_hand(output)}")
    output.mkdir(parents=True, exist_ok=True)
    # Inside the output folder, so that the last step is a rename on one file system.
    with tempfile.TemporaryDirectory(dir=output, prefix=".fetch-") as folder:
        _download(folder, output=output)
        packages = sorted(Path(folder).glob("*.deb"))
        if not packages:
            raise FetchError(f"apt-get download left no .deb file. {_by_hand(output)}")
        _run(["dpkg-deb", "-x", packages[0].name, "unpacked"], folder=folder, output=output)
        found = {path.name: path for path in Path(folder, "unpacked").rglob("*.sh3f")}
        lacking = [name for name in CATALOGUES if name not in found]
        if lacking:
            raise FetchError(
                f"{packages[0].name} holds {sorted(found)}, expected {lacking} too. "
                f"{_by_hand(output)}"
            )
        for name in CATALOGUES:
            os.replace(found[name], output / name)
    return True


def _download(folder: str, *, output: Path) -> None:
    """Downloads the package; where the system knows no package lists, with lists of its own."""
    try:
        _run(["apt-get", "download", PACKAGE], folder=folder, output=output)
    except FetchError:
        # A fresh machine has no lists, and refreshing the system's would need root.
        for name in ("lists/partial", "cache/archives/partial"):
            Path(folder, name).mkdir(parents=True)
        here = Path(folder).resolve()
        own = ["-o", f"Dir::State::Lists={here}/lists", "-o", f"Dir::Cache={here}/cache"]
        _run(["apt-get", *own, "update"], folder=folder, output=output)
        _run(["apt-get", *own, "download", PACKAGE], folder=folder, output=output)


def _run(command: list[str], *, folder: str, output: Path) -> None:
    """Runs a tool in a folder; its complaint goes into the error."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        complaint = done.stderr.strip() or f"exit status {done.returncode}"
        raise FetchError(f"`{' '.join(command)}` failed: {complaint}\n{_by_hand(output)}")


def _by_hand(output: Path) -> str:
    """What a person can do instead."""
    return (
        f"Get the five furniture libraries ({', '.join(CATALOGUES)}) from {PROJECT_PAGE}, or "
        f"unpack Debian's package {PACKAGE} on another machine, and put them into "
        f"{output.resolve()}"
    )


def main() -> None:
    """Command line of `fetch`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", required=True, type=Path, help="folder for the .sh3f files")
    output = parser.parse_args().output
    try:
        fetched = fetch(output)
    except FetchError as error:
        raise SystemExit(f"error: {error}") from error
    print(f"{output}: {len(CATALOGUES)} catalogues {'fetched' if fetched else 'already there'}")


if __name__ == "__main__":
    main()
