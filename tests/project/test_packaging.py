# SPDX-License-Identifier: Apache-2.0
"""The installed package works outside the checkout."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

import mrd_jax
from mrd_jax.cli import console, names

ROOT = pathlib.Path(__file__).parents[2]


def run(*arguments, folder, **options):
    """Runs Python in a folder other than the checkout."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **options)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, built from the source distribution and installed in a folder."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from setuptools import build_meta as b; b.build_sdist({str(folder)!r})"
    done = run("-c", build, folder=ROOT)
    assert done.returncode == 0, done.stderr
    (sdist,) = folder.glob("*.tar.gz")
    pip = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation")
    done = run(*pip, "--target", folder / "site", sdist, folder=folder)
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_installed_wheel_runs_an_experiment_by_name(installed):
    """It fails at the data set, which does not exist."""
    here = f"import sys, mrd_jax; assert mrd_jax.__file__.startswith({str(installed)!r})"
    command = f"{here}; from mrd_jax.cli import console; sys.exit(console.main())"
    arguments = ("train", "--config=quickstart", "--workdir=w", "--config.data.directory=none")
    environment = os.environ | {"PYTHONPATH": str(installed)}
    done = run("-c", command, *arguments, folder=installed.parent, env=environment)
    assert done.returncode == 2
    assert "dataset_info.json" in done.stderr and "data_prep.build" in done.stderr


def test_installed_wheel_contains_every_data_file(installed):
    def data(root):
        folders = [root / name for name in ("mrd_jax", "data_prep", "configs")]
        paths = (path for folder in folders for path in folder.rglob("*") if path.is_file())
        return {str(path.relative_to(root)) for path in paths if path.suffix not in (".py", ".pyc")}

    assert data(installed) == data(ROOT) != set()


def test_installed_version_is_that_of_the_package(installed):
    (metadata,) = installed.glob("mrd_jax-*.dist-info/METADATA")
    version = re.search(r"^Version: (.+)$", metadata.read_text("utf-8"), re.MULTILINE)[1]
    assert version == mrd_jax.__version__


def test_name_of_an_experiment_is_replaced_by_its_file():
    file = str(ROOT / "configs/uni3d.py")
    change = console.with_installed_config
    assert change(["--config=uni3d", "--x=uni3d"]) == [f"--config={file}", "--x=uni3d"]
    assert change(["--config", "uni3d:shapenet"]) == ["--config", f"{file}:shapenet"]
    assert change(["--config=my/own.py:v"]) == ["--config=my/own.py:v"]


def test_unknown_experiment_is_an_error_that_lists_the_names():
    with pytest.raises(ValueError, match="'nothing'.*quickstart.*uni3d"):
        console.with_installed_config(["--config=nothing"])


@pytest.mark.parametrize("module", names.COMMANDS.values())
def test_every_command_is_a_module(module):
    assert importlib.util.find_spec(module) is not None


def test_unknown_command_is_an_error_that_lists_the_commands(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mrd-jax", "trian"])
    assert console.main() == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 3 and "unknown command 'trian'" in lines[0]
    assert lines[1].split(", ") == list(names.COMMANDS)


def test_help_describes_every_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mrd-jax", "--help"])
    assert console.main() == 0
    listed = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:]]
    assert [name for name, _ in listed] == list(names.COMMANDS)
    assert dict(listed)["embed"].startswith("Embeds mesh and point cloud files")
    assert all(text.endswith(".") for _, text in listed)


def test_version_is_printed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mrd-jax", "--version"])
    assert console.main() == 0
    assert capsys.readouterr().out == f"mrd_jax {mrd_jax.__version__}\n"


def test_changelog_begins_with_this_version_and_the_readme_installs_it():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    releases = re.findall(r"^## \[([\d.]+)\] - \d{4}-\d\d-\d\d$", text, re.MULTILINE)
    assert releases[0] == mrd_jax.__version__
    assert f"mrd_jax-{mrd_jax.__version__}-py3-none-any.whl" in (ROOT / "README.md").read_text(
        "utf-8"
    )
    assert releases == sorted(releases, reverse=True)
