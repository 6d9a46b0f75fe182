# SPDX-License-Identifier: Apache-2.0
"""Listing of folders: every entry is read, skipped with a reason, or counted by its type."""

import os
import sys

import pytest

from data_prep.geometry import formats, listing


def touch(root, *names, content=b""):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def test_files_of_known_types_are_in_the_order_of_their_paths(tmp_path):
    touch(tmp_path, "b/two.PLY", "b/one.obj", "b/c/deep.npz", "a.npy", "b.glb", "B.glb")
    found = listing.scan(tmp_path)
    assert found.files == ["B.glb", "a.npy", "b/c/deep.npz", "b/one.obj", "b/two.PLY", "b.glb"]
    assert (found.skipped, found.notes()) == ([], [])


def test_hidden_files_and_those_of_operating_systems_are_ignored(tmp_path):
    touch(
        tmp_path,
        *("._chair.glb", ".DS_Store", ".git/x.obj", ".thumbnails/a.obj", "__MACOSX/a/._b.glb"),
        *(
            "Thumbs.db",
            "Desktop.ini",
            "Icon\r",
            "a/@eaDir/b.ply",
            "~$scan.ply",
            "$RECYCLE.BIN/a.ply",
        ),
        "chair.glb",
    )
    found = listing.scan(tmp_path)
    assert found.files == ["chair.glb"] and found.notes() == [] and found.skipped == []


def test_a_hidden_folder_that_the_user_names_is_listed(tmp_path):
    touch(tmp_path, ".objaverse/a.glb")
    assert listing.scan(tmp_path / ".objaverse").files == ["a.glb"]


def test_files_that_accompany_meshes_are_not_counted(tmp_path):
    touch(
        tmp_path,
        *("a.obj", "a.mtl", "a.png", "textures/wood.JPG", "scene.bin", "model.json", "shapes.csv"),
        *("README.md", "licence.txt", "paper.pdf", "LICENSE", "COPYING", "metadata.pbtxt"),
    )
    found = listing.scan(tmp_path)
    assert found.files == ["a.obj"] and found.notes() == []


def test_other_types_are_counted_in_one_line_with_a_remedy(tmp_path):
    touch(tmp_path, "sofa.fbx", "x/bed.FBX", "scene.skp", "grid.binvox", "unknown")
    (line,) = listing.scan(tmp_path).notes()
    start = "5 files of types that are not read: no suffix, binvox, fbx, skp "
    assert line.startswith(start + "(1 no suffix, 1 binvox, 2 fbx, 1 skp)")
    assert f"fbx: {formats.UNSUPPORTED['fbx']}" in line
    assert f"skp: {formats.UNSUPPORTED['skp']}" in line


def test_a_line_about_types_without_repetition_has_no_counts():
    line = "3 files of types that are not read: binvox, dat, xx"
    assert listing.describe_types({"xx": 1, "binvox": 1, "dat": 1}) == [line]
    assert listing.describe_types({"dat": 1}) == ["1 file of types that are not read: dat"]
    assert listing.describe_types({"dat": 7}) == ["7 files of types that are not read: dat"]
    assert listing.describe_types({}) == []


def test_many_types_are_shortened():
    (line,) = listing.describe_types({f"t{number:03d}": 1 for number in range(100)})
    assert "t019 and 80 more" in line and len(line) < 300


@pytest.mark.parametrize(
    ("name", "is_listed"),
    [
        ("a.glb.crdownload", True),
        ("Unconfirmed 7.crdownload", True),
        ("a.glb.part", True),
        ("a.ply.TMP", True),
        ("notes.tmp", False),
        ("a.png.part", False),
    ],
)
def test_incomplete_downloads_of_shapes_are_counted_and_no_error(tmp_path, name, is_listed):
    touch(tmp_path, name)
    found = listing.scan(tmp_path)
    assert found.skipped == ([(name, "an incomplete download")] if is_listed else [])
    assert found.errors() == [] and not found.other_types
    assert found.notes() == ([f"1 incomplete download, not read: {name}"] if is_listed else [])


def test_links(tmp_path):
    inside, outside = tmp_path / "in", tmp_path / "out"
    touch(inside, "a.glb", "sub/b.glb")
    touch(outside, "c.glb")
    (inside / "folder").symlink_to(outside)
    (inside / "cycle").symlink_to(inside)
    (inside / "copy.glb").symlink_to("sub/b.glb")
    (inside / "out.glb").symlink_to(outside / "c.glb")
    (inside / "gone.glb").symlink_to("nowhere.glb")
    (inside / "self.glb").symlink_to("self.glb")
    (inside / "photo.png").symlink_to("nowhere.png")
    found = listing.scan(inside)
    assert found.files == ["a.glb", "copy.glb", "sub/b.glb"]
    assert sorted(found.errors()) == [
        ("gone.glb", "a link whose target is missing"),
        ("out.glb", "a link that leaves the folder"),
        ("self.glb", "a link whose target is missing"),
    ]
    assert found.notes() == ["2 links to folders, not followed: cycle, folder"]


def test_a_folder_behind_a_link_that_the_user_names_is_listed(tmp_path):
    touch(tmp_path / "real", "a.glb")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "b.glb").symlink_to(tmp_path / "real" / "a.glb")
    found = listing.scan(tmp_path / "link")
    assert found.files == ["a.glb", "b.glb"] and not found.skipped


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_not_a_regular_file_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe.glb")
    os.mkfifo(tmp_path / "pipe.txt")  # must not block
    found = listing.scan(tmp_path)
    assert found.errors() == [("pipe.glb", "not a regular file")] and found.files == []


def test_a_subfolder_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    touch(tmp_path, "a/x.glb", "private/y.glb", "z/z.glb")
    scandir = os.scandir

    def refuse(path):
        # The tests may run as a user who may read everything.
        if os.path.basename(path) == "private":
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = listing.scan(tmp_path)
    assert found.files == ["a/x.glb", "z/z.glb"]
    assert found.errors() == [("private", "a folder that cannot be read: Permission denied")]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems limit paths to 1,024 bytes")
def test_folders_deeper_than_the_recursion_limit_are_listed(tmp_path):
    folders = [f"{tmp_path}{'/d' * depth}" for depth in range(1, 1_501)]
    for folder in folders:
        os.mkdir(folder)
    touch(tmp_path, f"{'d/' * 1_500}a.glb")
    found = listing.scan(tmp_path)
    assert found.files == [f"{'d/' * 1_500}a.glb"] and not found.skipped
    os.unlink(f"{folders[-1]}/a.glb")
    for folder in reversed(folders):  # pytest cannot remove them
        os.rmdir(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems accept UTF-8 only")
def test_names_that_are_not_utf8_are_listed_and_can_be_printed(tmp_path):
    raw = os.fsencode(tmp_path) + b"/caf\xe9.glb"
    with open(raw, "wb"):
        pass
    (name,) = listing.scan(tmp_path).files
    assert os.fsencode(name) == b"caf\xe9.glb"
    assert listing.printable(name) == "caf\\xe9.glb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("chair 2.glb", "chair 2.glb"),
        ("椅子é.glb", "椅子é.glb"),
        ("a\nb\t\x1b[31m\u202e", "a\\nb\\t\\x1b[31m\\u202e"),
    ],
)
def test_only_what_cannot_be_printed_is_escaped(text, shown):
    assert listing.printable(text) == shown


@pytest.mark.parametrize(
    ("content", "is_read"),
    [
        (b"0 1 2\n3 4 5\n", True),
        (b"# x y z\n-1.5e3,2,.5\n", True),
        (b"3\n0;1;2 255 0 0\n", True),
        (b"x y z\n1 2 3\n", True),
        (b"CC BY 4.0\nAuthor: 1 person\n", False),
        (b"Copyright 2020 2021 2022 by\n", False),
        (b"", False),
    ],
)
def test_texts_of_a_folder_are_read_if_they_begin_with_numbers(tmp_path, content, is_read):
    touch(tmp_path, "a.txt", content=content)
    found = listing.scan(tmp_path)
    assert found.files == (["a.txt"] if is_read else []) and found.notes() == []


def test_a_folder_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        listing.scan(tmp_path / "nowhere")
