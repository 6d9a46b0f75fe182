# SPDX-License-Identifier: Apache-2.0
"""Downloads raw data from packages of Debian.

python -m data_prep.fetch --output DIR
python -m data_prep.fetch --what parts --output DIR

furniture: the Sweet Home 3D catalogues (820 models, 127 MB, CC0 and CC-BY). parts: KiCad's models
and footprints of electronic parts (6,227 models, 402 MB, 4.6 GB on disk, CC-BY-SA and GPL).
"""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from data_prep import debian, fetch_parts
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


def fetch(output: Path) -> bool:
    """Extracts the five catalogues from Debian's package into a folder; needs no root.

    Args:
      output: folder for the .sh3f files; created if absent.

    Returns:
      True if the catalogues were downloaded, False if all five existed.

    Raises:
      debian.FetchError: apt or dpkg is not installed, or the download failed.
    """
    output = Path(output)
    if all((output / name).is_file() for name in CATALOGUES):
        return False
    by_hand = _by_hand(output)
    debian.check_tools(by_hand=by_hand)
    output.mkdir(parents=True, exist_ok=True)
    # Inside the output folder, so that the last step is a rename on one file system.
    with tempfile.TemporaryDirectory(dir=output, prefix=".fetch-") as folder:
        package = debian.download(PACKAGE, Path(folder), by_hand=by_hand)
        unpack = ["dpkg-deb", "-x", package.name, "unpacked"]
        debian.run(unpack, folder=Path(folder), by_hand=by_hand)
        unpacked = {path.name: path for path in Path(folder, "unpacked").rglob("*.sh3f")}
        absent = [name for name in CATALOGUES if name not in unpacked]
        if absent:
            raise debian.FetchError(
                f"{package.name} holds {sorted(unpacked)}, expected {absent} too. {by_hand}"
            )
        for name in CATALOGUES:
            os.replace(unpacked[name], output / name)
    return True


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
        "--what",
        choices=("furniture", "parts"),
        default="furniture",
        help="data to download; default: %(default)s",
    )
    parser.add_argument(
        "--output", required=True, type=command.local_path, help="folder for the files"
    )
    values = parser.parse_args(arguments)
    output = values.output
    if values.what == "parts":
        fetched, content = fetch_parts.fetch(output), fetch_parts.describe(output)
    else:
        fetched, content = fetch(output), f"{len(CATALOGUES)} catalogues"
    print(f"{output}: {content} {'fetched' if fetched else 'already there'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
