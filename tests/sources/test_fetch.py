# SPDX-License-Identifier: Apache-2.0
"""Fetching the catalogues, with stand-ins for the system's tools."""

import pytest

from data_prep import fetch


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """A folder that is the whole search path; returns a function that puts a tool into it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        (folder / name).chmod(0o755)

    return add


def working(tools, names=fetch.CATALOGUES):
    tools("apt-get", '[ "$*" = "download sweethome3d-furniture" ] && echo deb > furniture.deb')
    made = "\n".join(f"echo {name} > $3/usr/share/{name}" for name in names)
    tools("dpkg-deb", f'[ "$1 $2" = "-x furniture.deb" ] && mkdir -p $3/usr/share\n{made}')


def test_the_five_catalogues_are_taken_out_of_the_package(tools, tmp_path):
    working(tools)
    output = tmp_path / "raw"
    assert fetch.fetch(output) is True
    assert sorted(path.name for path in output.iterdir()) == sorted(fetch.CATALOGUES)
    assert (output / "Scopia.sh3f").read_text() == "Scopia.sh3f\n"


def test_a_second_run_does_nothing(tools, tmp_path):
    working(tools)
    fetch.fetch(tmp_path / "raw")
    tools("apt-get", "exit 1")
    assert fetch.fetch(tmp_path / "raw") is False


def test_a_folder_that_lacks_one_catalogue_is_filled(tools, tmp_path):
    working(tools)
    fetch.fetch(tmp_path / "raw")
    (tmp_path / "raw" / "Scopia.sh3f").unlink()
    assert fetch.fetch(tmp_path / "raw") is True
    assert (tmp_path / "raw" / "Scopia.sh3f").exists()


def test_without_apt_the_message_says_where_the_files_are_and_where_they_go(tools, tmp_path):
    with pytest.raises(fetch.FetchError) as caught:
        fetch.fetch(tmp_path / "raw")
    for part in ("apt-get and dpkg-deb", fetch.PROJECT_PAGE, "Scopia.sh3f", str(tmp_path / "raw")):
        assert part in str(caught.value)


def test_a_failed_download_repeats_the_tools_complaint_and_leaves_nothing(tools, tmp_path):
    working(tools)
    tools("apt-get", "echo E: no network >&2; exit 100")
    with pytest.raises(fetch.FetchError, match=r"apt-get .*update.*failed: E: no network"):
        fetch.fetch(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_a_system_without_package_lists_gets_its_own(tools, tmp_path):
    working(tools)
    log = tmp_path / "calls"
    tools(
        "apt-get",
        f"""echo "$*" >> {log}
        case "$*" in
        "download {fetch.PACKAGE}") echo E: no such package >&2; exit 100 ;;
        *update) test -d lists/partial ;;
        *) echo deb > furniture.deb ;;
        esac""",
    )
    assert fetch.fetch(tmp_path / "raw") is True
    first, update, download = log.read_text().splitlines()
    assert update.endswith(" update") and download.endswith(f" download {fetch.PACKAGE}")
    assert "Dir::State::Lists=/" in update and "Dir::State::Lists=/" in download
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == sorted(fetch.CATALOGUES)


def test_a_package_that_lacks_a_catalogue_is_refused(tools, tmp_path):
    working(tools, names=fetch.CATALOGUES[:4])
    with pytest.raises(fetch.FetchError, match=r"expected \['Scopia\.sh3f'\] too"):
        fetch.fetch(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_command_prints_the_result_or_an_error(tools, tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "raw")]
    assert fetch.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: apt-get and dpkg-deb not found")
    working(tools)
    assert fetch.main(arguments) == fetch.main(arguments) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("5 catalogues fetched")
    assert second.endswith("5 catalogues already there")
