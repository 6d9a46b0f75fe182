# SPDX-License-Identifier: Apache-2.0
"""Downloads the Sweet Home 3D furniture catalogues (820 models, 127 MB, CC0 and CC-BY).

python -m data_prep.fetch --output DIR
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mrd_jax.cli import command

PACKAGE = "sweethome3d-furniture"
CATALOGUES = (
    "BlendSwap-CC-0.sh3f",
    "BlendSwap-CC-BY.sh3f",
    "KatorLegaz.sh3f",
    "Reallusion.sh3f",
    "Scopia.sh3f",
)
PROJECT_PAGE = "https://www.sweethome3d.com/importModels.jsp"


class FetchError(OSError):
    """Raised when the catalogues cannot be downloaded; the message describes the manual way."""


def fetch(output: Path) -> bool:
    """Extracts the five catalogues from Debian's package into a folder; needs no root.

    Args:
      output: folder for the .sh3f files; created if absent.

    Returns:
      True if the catalogues were downloaded, False if all five existed.

    Raises:
      FetchError: apt or dpkg is not installed, or the download failed.
    """
    output = Path(output)
    if all((output / name).is_file() for name in CATALOGUES):
        return False
    tools = ("apt-get", "dpkg-deb")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise FetchError(f"{' and '.join(missing)} not found on this system. {_by_hand(output)}")
    output.mkdir(parents=True, exist_ok=True)
    # Inside the output folder, so that the last step is a rename on one file system.
    with tempfile.TemporaryDirectory(dir=output, prefix=".fetch-") as folder:
        _download(folder, output=output)
        packages = sorted(Path(folder).glob("*.deb"))
        if not packages:
            raise FetchError(f"apt-get download left no .deb file. {_by_hand(output)}")
        _run(["dpkg-deb", "-x", packages[0].name, "unpacked"], folder=folder, output=output)
        unpacked = {path.name: path for path in Path(folder, "unpacked").rglob("*.sh3f")}
        absent = [name for name in CATALOGUES if name not in unpacked]
        if absent:
            raise FetchError(
                f"{packages[0].name} holds {sorted(unpacked)}, expected {absent} too. "
                f"{_by_hand(output)}"
            )
        for name in CATALOGUES:
            os.replace(unpacked[name], output / name)
    return True


def _download(folder: str, *, output: Path) -> None:
    """Downloads the package, with private package lists if the system has none."""
    try:
        _run(["apt-get", "download", PACKAGE], folder=folder, output=output)
    except FetchError:
        # A fresh machine has no package lists, and updating those of the system needs root.
        for name in ("lists/partial", "cache/archives/partial"):
            Path(folder, name).mkdir(parents=True)
        here = Path(folder).resolve()
        private = ["-o", f"Dir::State::Lists={here}/lists", "-o", f"Dir::Cache={here}/cache"]
        _run(["apt-get", *private, "update"], folder=folder, output=output)
        _run(["apt-get", *private, "download", PACKAGE], folder=folder, output=output)


def _run(arguments: list[str], *, folder: str, output: Path) -> None:
    """Runs a tool in a folder. FetchError, with the last line of stderr, if it fails."""
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise FetchError(f"`{' '.join(arguments)}` failed: {lines[-1]}\n{_by_hand(output)}")


def _by_hand(output: Path) -> str:
    """Returns instructions for a manual download."""
    return (
        f"Get the five furniture libraries ({', '.join(CATALOGUES)}) from {PROJECT_PAGE}, or "
        f"unpack Debian's package {PACKAGE} on another machine, and put them into "
        f"{output.resolve()}"
    )


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of `fetch` and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m data_prep.fetch")
    parser.add_argument(
        "--output", required=True, type=command.local_path, help="folder for the .sh3f files"
    )
    output = parser.parse_args(arguments).output
    fetched = fetch(output)
    print(f"{output}: {len(CATALOGUES)} catalogues {'fetched' if fetched else 'already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
