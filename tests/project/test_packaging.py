# SPDX-License-Identifier: Apache-2.0
"""What is installed works outside the checkout."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

import mrd_jax
from mrd_jax.cli import console

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, folder, **options):
    """A command of Python in a folder that is not the checkout."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, made from the source distribution, in a folder of its own."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from setuptools import build_meta as b; b.build_sdist({str(folder)!r})"
    done = run("-c", build, folder=ROOT)
    assert done.returncode == 0, done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    done = run(*pip, "--target", folder / "site", sdist, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_an_installed_wheel_runs_an_experiment_by_its_name(installed):
    """As far as the data set, which is not there."""
    here = f"import sys, mrd_jax; assert mrd_jax.__file__.startswith({str(installed)!r})"
    command = f"{here}; from mrd_jax.cli import console; sys.exit(console.main())"
    arguments = ("train", "--config=quickstart", "--workdir=w", "--config.data.directory=none")
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = run("-c", command, *arguments, folder=installed.parent, env=environment)
    assert done.returncode == 2
    assert "dataset_info.json" in done.stderr and "data_prep.build" in done.stderr


def test_an_installed_wheel_holds_every_file_that_is_not_python(installed):
    def data(root):
        folders = [root / name for name in ("mrd_jax", "data_prep", "configs")]
        found = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return {str(one.relative_to(root)) for one in found if one.suffix not in (".py", ".pyc")}

    assert data(installed) == data(ROOT) != set()


def test_the_version_is_the_packages_own(installed):
    (metadata,) = installed.glob("mrd_jax-*.dist-info/METADATA")
    version = re.search(r"^Version: (.+)$", metadata.read_text("utf-8"), re.MULTILINE)[1]
    assert version == mrd_jax.__version__


def test_the_name_of_an_experiment_becomes_its_file():
    file = str(ROOT / "configs/uni3d.py")
    change = console.with_installed_config
    assert change(["--config=uni3d", "--x=uni3d"]) == [f"--config={file}", "--x=uni3d"]
    assert change(["--config", "uni3d:shapenet"]) == ["--config", f"{file}:shapenet"]
    assert change(["--config=my/own.py:v"]) == ["--config=my/own.py:v"]


def test_a_name_that_no_experiment_has_lists_those_there_are():
    with pytest.raises(ValueError, match="'nothing'.*quickstart.*uni3d"):
        console.with_installed_config(["--config=nothing"])


@pytest.mark.parametrize("module", console.COMMANDS.values())
def test_every_command_has_a_module(module):
    assert importlib.util.find_spec(module) is not None


def test_an_unknown_command_ends_with_the_known_ones_in_three_lines(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mrd-jax", "trian"])
    assert console.main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3 and "unknown command 'trian'" in lines[0]
    assert lines[1].split(", ") == list(console.COMMANDS)


def test_help_lists_every_command_with_its_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mrd-jax", "--help"])
    assert console.main() == 0
    listed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:]]
    assert listed == [[key, f"python -m {module}"] for key, module in console.COMMANDS.items()]
