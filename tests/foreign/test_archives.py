# SPDX-License-Identifier: Apache-2.0
"""Untrusted archives."""

import zipfile

import pytest

from data_prep.foreign import archives


def zipped(path, **files):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "..\\evil", "C:\\evil", "//host/evil", "..", "", "/"]
)
def test_path_that_leaves_the_archive_is_rejected(name):
    with pytest.raises(archives.ArchiveError) as caught:
        archives.safe_path(name)
    assert repr(name) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "want"),
    [("/a/b.obj", "a/b.obj"), ("a\\b.obj", "a/b.obj"), ("a/../b", "b"), ("./a//b", "a/b")],
)
def test_other_paths_are_normalised(name, want):
    assert archives.safe_path(name) == want


def test_member_outside_the_root_cannot_be_read(tmp_path):
    path = zipped(tmp_path / "a.zip", **{"../evil.obj": b"x", "good.obj": b"y"})
    archive = archives.Archive(path)
    assert archive.read("/good.obj") == b"y"
    with pytest.raises(archives.ArchiveError, match="leaves its archive"):
        archive.read("../evil.obj")
    with pytest.raises(FileNotFoundError):
        archive.read("evil.obj")


def test_letter_case_is_ignored_unless_it_is_ambiguous(tmp_path):
    archive = archives.Archive(zipped(tmp_path / "a.zip", **{"T/Wood.JPG": b"1"}))
    assert archive.read("t/wood.jpg") == b"1"
    both = archives.Archive(zipped(tmp_path / "b.zip", **{"A": b"upper", "a": b"lower"}))
    assert (both.read("A"), both.read("a")) == (b"upper", b"lower")


def test_member_larger_than_the_limit_is_rejected(tmp_path, monkeypatch):
    path = zipped(tmp_path / "bomb.zip", big=b"\0" * 1001, fits=b"\0" * 1000)
    monkeypatch.setenv("MRD_MAX_MEMBER_BYTES", "1000")
    archive = archives.Archive(path)
    assert len(archive.read("fits")) == 1000
    with pytest.raises(
        archives.ArchiveError, match="'big' is too large: 1001 unpacked bytes, at most 1000"
    ):
        archive.read("big")


def test_corrupt_member_is_named(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", b"some content")
    path.write_bytes(path.read_bytes().replace(b"some content", b"same content"))
    with pytest.raises(archives.ArchiveError, match=r"a\.zip: member 'a\.txt' is unreadable"):
        archives.Archive(path).read("a.txt")


def test_file_that_is_not_an_archive_is_named(tmp_path):
    path = tmp_path / "page.sh3f"
    path.write_text("<html>")
    with pytest.raises(archives.ArchiveError, match=r"page\.sh3f: not a zip archive"):
        archives.Archive(path)


def test_folder_reader_does_not_leave_the_folder(tmp_path):
    root = tmp_path / "root"
    (root / "below").mkdir(parents=True)
    (root / "below" / "a.txt").write_bytes(b"a")
    (tmp_path / "secret.txt").write_bytes(b"s")
    (root / "link.txt").symlink_to(tmp_path / "secret.txt")
    (root / "inner.txt").symlink_to(root / "below" / "a.txt")
    read = archives.folder_reader(root)
    assert read("below/../below\\a.txt") == read("inner.txt") == b"a"
    for name in ("../secret.txt", "link.txt", ""):
        with pytest.raises(archives.ArchiveError, match="leaves"):
            read(name)
    for name in ("absent.txt", "below"):
        with pytest.raises(FileNotFoundError, match=name):
            read(name)


def test_member_without_a_name_is_skipped(tmp_path):
    path = zipped(tmp_path / "a.zip", x=b"1", good=b"2")
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\1\2")
    # Turns the name of the first directory entry, one byte, into its comment.
    data[entry + 28], data[entry + 32] = 0, 1
    path.write_bytes(data)
    archive = archives.Archive(path)
    assert "x" not in archive and archive.read("good") == b"2"
