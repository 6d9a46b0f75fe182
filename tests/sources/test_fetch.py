# SPDX-License-Identifier: Apache-2.0
"""Downloading the furniture catalogues, with mock system tools."""

import pytest

from data_prep import debian, fetch


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Sets PATH to an empty folder; returns a function that adds a mock tool to it."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def add(name, script):
        (folder / name).write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        (folder / name).chmod(0o755)

    return add


def add_working_tools(tools, names=fetch.CATALOGUES):
    tools("apt-get", '[ "$*" = "download sweethome3d-furniture" ] && echo deb > furniture.deb')
    files = "\n".join(f"echo {name} > $3/usr/share/{name}" for name in names)
    tools("dpkg-deb", f'[ "$1 $2" = "-x furniture.deb" ] && mkdir -p $3/usr/share\n{files}')


def test_the_five_catalogues_are_extracted_from_the_package(tools, tmp_path):
    add_working_tools(tools)
    output = tmp_path / "raw"
    assert fetch.fetch(output) is True
    assert sorted(path.name for path in output.iterdir()) == sorted(fetch.CATALOGUES)
    assert (output / "Scopia.sh3f").read_text() == "Scopia.sh3f\n"


def test_a_second_run_does_nothing(tools, tmp_path):
    add_working_tools(tools)
    fetch.fetch(tmp_path / "raw")
    tools("apt-get", "exit 1")
    assert fetch.fetch(tmp_path / "raw") is False


def test_a_missing_catalogue_is_downloaded_again(tools, tmp_path):
    add_working_tools(tools)
    fetch.fetch(tmp_path / "raw")
    (tmp_path / "raw" / "Scopia.sh3f").unlink()
    assert fetch.fetch(tmp_path / "raw") is True
    assert (tmp_path / "raw" / "Scopia.sh3f").exists()


def test_the_error_without_apt_gives_the_manual_steps(tools, tmp_path):
    with pytest.raises(debian.FetchError) as caught:
        fetch.fetch(tmp_path / "raw")
    for part in ("apt-get and dpkg-deb", fetch.PROJECT_PAGE, "Scopia.sh3f", str(tmp_path / "raw")):
        assert part in str(caught.value)


def test_the_error_of_a_failed_download_quotes_the_tool_and_no_file_remains(tools, tmp_path):
    add_working_tools(tools)
    tools("apt-get", "echo E: no network >&2; exit 100")
    with pytest.raises(debian.FetchError, match=r"apt-get .*update.*failed: E: no network"):
        fetch.fetch(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_package_lists_are_downloaded_on_a_system_without_them(tools, tmp_path):
    add_working_tools(tools)
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


def test_a_package_without_one_of_the_catalogues_is_an_error(tools, tmp_path):
    add_working_tools(tools, names=fetch.CATALOGUES[:4])
    with pytest.raises(debian.FetchError, match=r"expected \['Scopia\.sh3f'\] too"):
        fetch.fetch(tmp_path / "raw")
    assert list((tmp_path / "raw").iterdir()) == []


def test_command_prints_the_result_or_an_error(tools, tmp_path, capsys):
    arguments = ["--output", str(tmp_path / "raw")]
    assert fetch.main(arguments) == 2
    assert capsys.readouterr().err.startswith("error: apt-get and dpkg-deb not found")
    add_working_tools(tools)
    assert fetch.main(arguments) == fetch.main(arguments) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.endswith("5 catalogues fetched")
    assert second.endswith("5 catalogues already there")
