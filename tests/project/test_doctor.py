# SPDX-License-Identifier: Apache-2.0
"""`mrd-jax doctor`: findings, exit status, and no device or folder that it waits for in vain."""

import importlib.metadata
import pathlib
import runpy
import time

import pytest
import setuptools
from packaging.requirements import Requirement

from mrd_jax.cli import extras, probes
from mrd_jax.tools import doctor

ROOT = pathlib.Path(__file__).parents[2]


def test_every_extra_has_a_purpose():
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", found.update)
        runpy.run_path(str(ROOT / "setup.py"))
    assert set(extras.PURPOSES) == set(found["extras_require"])


@pytest.fixture
def metadata(monkeypatch):
    """Replaces the installed packages: {name: (version, requirements)}."""

    def replace(packages):
        def entry(name):
            if name not in packages:
                raise importlib.metadata.PackageNotFoundError(name)
            return packages[name]

        monkeypatch.setattr(importlib.metadata, "version", lambda name: entry(name)[0])
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: entry(name)[1])
        extras.requirements.cache_clear()

    yield replace
    monkeypatch.undo()
    extras.requirements.cache_clear()


def test_missing_and_wrong_packages_are_found_also_in_extras_of_packages(metadata):
    plugin = ['plugin>=2; extra == "cuda12"', "always"]
    metadata({"one": ("1.0", []), "jax": ("0.10.2", plugin), "plugin": ("1.5", [])})
    wanted = [Requirement(text) for text in ("one>=1,<2", "two", "jax[cuda12]>=0.9", "one>3")]
    assert list(extras.faults(wanted)) == [
        "two is missing",
        "plugin is 1.5, expected >=2",
        "one is 1.0, expected >3",
    ]


def test_requirements_are_those_of_the_platform_and_of_the_extra(metadata):
    lines = ["a", 'b; python_version < "3"', 'c; extra == "demo"', 'd; extra == "prep"']
    metadata({"mrd_jax": ("1.0.0", lines)})
    found = extras.requirements()
    assert [item.name for item in found[""]] == ["a"]
    assert [item.name for item in found["demo"]] == ["c"]
    assert found["wandb"] == ()


def test_device_query_that_hangs_is_killed_with_its_children(tmp_path):
    child = tmp_path / "child.py"
    child.write_text(f"import time\ntime.sleep(2)\nopen({str(tmp_path / 'alive')!r}, 'w')\n")
    code = f"import subprocess, sys; subprocess.run([sys.executable, {str(child)!r}])"
    started = time.monotonic()
    with pytest.raises(probes.ProbeError, match="no answer from JAX in 0.5 s.*JAX_PLATFORMS"):
        probes.devices(0.5, code=code)
    assert time.monotonic() - started < 10
    time.sleep(2.5)
    assert not (tmp_path / "alive").exists()


def test_error_of_the_device_query_is_reported():
    with pytest.raises(probes.ProbeError, match="JAX finds no device: RuntimeError: no chip"):
        probes.devices(60, code="raise RuntimeError('no chip')")


def test_folder_that_does_not_answer_is_given_up():
    with pytest.raises(probes.ProbeError, match="no answer in 0.1 s"):
        probes.within(0.1, time.sleep, 1.0)
    assert probes.within(5, max, 1, 2) == 2
    with pytest.raises(OSError, match="gone"):
        probes.within(5, lambda: (_ for _ in ()).throw(OSError("gone")))


@pytest.fixture
def answered(monkeypatch, metadata):
    metadata({"mrd_jax": (doctor.mrd_jax.__version__, ["numpy>=2"]), "numpy": ("2.1", [])})
    monkeypatch.setattr(probes, "devices", lambda timeout: "jax 0, 1 x cpu (cpu)")


def test_missing_extra_is_no_fault_and_has_its_purpose_and_command(answered, metadata, capsys):
    lines = ["numpy>=2", 'starlette; extra == "demo"']
    metadata({"mrd_jax": (doctor.mrd_jax.__version__, lines), "numpy": ("2.1", [])})
    assert doctor.main([]) == 0
    text = capsys.readouterr().out
    assert extras.PURPOSES["demo"] in text and "starlette is missing" in text
    assert '-m pip install "mrd_jax[demo]"' in text


def test_missing_requirement_is_a_fault(answered, metadata, capsys):
    metadata({"mrd_jax": (doctor.mrd_jax.__version__, ["numpy>=2"])})
    assert doctor.main([]) == 1
    assert "FAIL  packages   numpy is missing" in capsys.readouterr().out


def test_full_disk_is_a_fault(answered, monkeypatch, capsys):
    monkeypatch.setattr(doctor.transfer, "free_space", lambda folder: 10**6)
    assert doctor.main([]) == 1
    assert "FAIL  disk" in capsys.readouterr().out


def test_devices_that_do_not_answer_are_a_fault(answered, monkeypatch, capsys):
    def hang(timeout):
        raise probes.ProbeError("no answer from JAX")

    monkeypatch.setattr(probes, "devices", hang)
    assert doctor.main([]) == 1
    assert "FAIL  devices    no answer from JAX" in capsys.readouterr().out
