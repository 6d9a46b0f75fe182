# SPDX-License-Identifier: Apache-2.0
"""Downloading KiCad's packages, with mock system tools."""

import collections
import io
import re
import tarfile

import pytest

from data_prep import debian, disk_space, fetch, fetch_parts

STEP = "usr/share/kicad/3dmodels/Relay_THT.3dshapes/R"
FILES = {
    "kicad-packages3d": (f"{STEP}.step", f"{STEP}.wrl", "usr/share/doc/kicad-packages3d/copyright"),
    "kicad-footprints": (
        "usr/share/kicad/footprints/Relay_THT.pretty/R.kicad_mod",
        "usr/share/kicad/template/fp-lib-table",
        "usr/share/doc/kicad-footprints/copyright",
    ),
}


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Adds mock tools that download and unpack `FILES`; returns the folder of their archives."""
    archives, bin_folder = tmp_path / "archives", tmp_path / "bin"
    archives.mkdir()
    bin_folder.mkdir()
    monkeypatch.setenv("PATH", str(bin_folder))
    for package, names in FILES.items():
        with tarfile.open(archives / f"{package}.deb", "w") as archive:
            for name in names:
                member = tarfile.TarInfo(f"./{name}")
                member.size = len(name)
                archive.addfile(member, io.BytesIO(name.encode()))
    scripts = {
        "apt-get": f'echo "$2" >> {archives}/log; cp {archives}/$2.deb .',
        "dpkg-deb": 'cat "$2"',
    }
    for name, script in scripts.items():
        (bin_folder / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        (bin_folder / name).chmod(0o755)
    return archives


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_only_steps_footprints_and_the_licences_of_the_models_are_kept(tools, tmp_path, capsys):
    output = tmp_path / "raw"
    assert fetch.main(["--what", "parts", "--output", str(output)]) == 0
    assert files(output) == [
        "3dmodels/Relay_THT.3dshapes/R.step",
        "copyright",
        "footprints/Relay_THT.pretty/R.kicad_mod",
    ]
    assert (output / "copyright").read_text() == "usr/share/doc/kicad-packages3d/copyright"
    first, last = capsys.readouterr().out.splitlines()
    assert re.search(r"downloads 402 MB; needs 5\.0 GB of [\d.]+ GB free", first)
    assert last.endswith("1 3dmodels, 1 footprints fetched")


def test_an_interrupted_run_continues_at_the_package_that_it_stopped_at(tools, tmp_path):
    output = tmp_path / "raw"
    whole = (tools / "kicad-footprints.deb").read_bytes()
    (tools / "kicad-footprints.deb").write_bytes(whole[:700])
    with pytest.raises(debian.FetchError, match=r"kicad-footprints\.deb cannot be extracted"):
        fetch_parts.fetch(output)
    (tools / "kicad-footprints.deb").write_bytes(whole)
    assert fetch_parts.fetch(output) is True and fetch_parts.fetch(output) is False
    log = (tools / "log").read_text().split()
    assert log == ["kicad-packages3d", "kicad-footprints", "kicad-footprints"]
    assert len(files(output)) == 3


def test_a_package_without_the_files_is_an_error(tools, tmp_path):
    (tools / "kicad-packages3d.deb").write_bytes((tools / "kicad-footprints.deb").read_bytes())
    with pytest.raises(
        debian.FetchError, match=r"no usr/share/kicad/3dmodels/ and no usr/share/doc"
    ):
        fetch_parts.fetch(tmp_path / "raw")


def test_a_disk_without_space_is_refused_before_the_download(tools, tmp_path, monkeypatch):
    usage = collections.namedtuple("Usage", ["total", "used", "free"])(10**12, 0, 10**9)
    monkeypatch.setattr(disk_space.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(ValueError, match=r"need at least 5\.0 GB, and .* has 1\.0 GB free"):
        fetch_parts.fetch(tmp_path / "raw")
    assert not (tools / "log").exists()


def test_without_apt_the_error_gives_the_manual_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        debian.FetchError, match=r"apt-get and dpkg-deb not found.*kicad-footprints"
    ):
        fetch_parts.fetch(tmp_path / "raw")
