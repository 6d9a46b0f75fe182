# SPDX-License-Identifier: Apache-2.0
"""constraints.txt pins every requirement of setup.py, once for each Python and platform."""

import pathlib
import re
import runpy

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mrd_jax.distributed import versions

ROOT = pathlib.Path(__file__).parents[2]
PLATFORMS = {
    "linux": {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"},
    "mac": {"sys_platform": "darwin", "platform_system": "Darwin", "platform_machine": "arm64"},
}


@pytest.fixture(scope="module")
def requirements():
    """Requirements of setup.py with all extras."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **fields: found.append(fields))
        runpy.run_path(str(ROOT / "setup.py"))
    (fields,) = found
    groups = [fields["install_requires"], *fields["extras_require"].values()]
    return [Requirement(text) for group in groups for text in group]


@pytest.fixture(scope="module")
def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if not line.startswith("#")]


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13", "3.14"])
def test_every_requirement_has_one_pin_within_its_range(requirements, pins, python, platform):
    environment = PLATFORMS[platform] | {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "platform_python_implementation": "CPython",
    }
    active = [pin for pin in pins if not pin.marker or pin.marker.evaluate(environment)]
    for requirement in requirements:
        name = canonicalize_name(requirement.name)
        found = [pin for pin in active if canonicalize_name(pin.name) == name]
        assert len(found) == 1, (str(requirement), python, platform)
        (version,) = [clause.version for clause in found[0].specifier if clause.operator == "=="]
        assert requirement.specifier.contains(version), (str(requirement), version)


def test_packages_that_hosts_compare_are_pinned(pins):
    names = {canonicalize_name(pin.name) for pin in pins}
    compared = {canonicalize_name(name) for name in versions.PACKAGES} - {"mrd-jax"}
    assert compared <= names


def test_every_installation_of_this_project_uses_the_lock():
    """Makefile, image, hosts of a pod and pages; without it, packages resolve anew."""
    sources = [ROOT / "Makefile", ROOT / "scripts/cluster/Dockerfile"]
    sources += [ROOT / "scripts/tpu_pod/host.sh", ROOT / "README.md", *ROOT.glob("docs/*.md")]
    found = 0
    for path in sources:
        text = path.read_text("utf-8").replace("\\\n", "")
        for command in re.findall(r"pip install [^`\n]*", text):
            if re.search(r"\.\[|folder\}\[|--editable| -e ", command):
                found += 1
                assert "-c constraints.txt" in command or "--constraint" in command, (path, command)
    assert found >= 9
