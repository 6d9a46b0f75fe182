# SPDX-License-Identifier: Apache-2.0
"""Lists of class names are checked line by line and streamed."""

import tracemalloc

import pytest

from mrd_jax.library import class_names


def write(folder, content):
    path = folder / "words.txt"
    path.write_bytes(content)
    return path


def test_names_are_normalised_and_empty_lines_skipped(tmp_path):
    path = write(tmp_path, "\ufeffoak   chair\r\n\n  \nlampe\u0301e\n".encode())
    found = class_names.read(path)
    assert [*found.chunks(1)] == [["oak chair"], ["lamp\u00e9e"]]
    assert found.count == 2
    assert found.notes == (f"{path}: skipped 2 empty lines",)


def test_repeated_names_are_counted_and_named(tmp_path):
    path = write(tmp_path, b"lamp\nchair\nbed\nchair\nchair\n")
    (note,) = class_names.read(path).notes
    assert "2 lines repeat an earlier name, such as 'chair' of line 2" in note


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "has no names"),
        (b"\n \n", "has no names"),
        ("chair\nlampé\n".encode("latin-1"), "line 2: byte 0xe9 is not UTF-8"),
        ("chair\n".encode("utf-16"), "is UTF-16; save it as plain text in UTF-8"),
        (b"PK\x03\x04rest", "is a zip archive or a spreadsheet"),
        (b"chair\nbe\x00d\n", "line 2: a control character"),
        (b"chair\n" + b"x" * 2_000, "line 2: more than 1000 bytes"),
    ],
    ids=["empty", "blank", "latin", "utf16", "zip", "control", "long"],
)
def test_unusable_file_is_refused_with_its_line(tmp_path, content, message):
    with pytest.raises(ValueError, match=message):
        class_names.read(write(tmp_path, content))


def test_file_that_changes_while_it_is_used_is_an_error(tmp_path):
    found = class_names.read(write(tmp_path, b"chair\nlamp\n"))
    write(tmp_path, b"chair\n")
    with pytest.raises(ValueError, match="had 2 names when it was checked and has 1 now"):
        list(found.chunks(10))


def test_long_list_takes_eight_bytes_per_line(tmp_path):
    """5,000 names take 40 kB for their numbers; as Python strings they would take 300 kB."""
    path = write(tmp_path, b"".join(b"name %d\n" % number for number in range(5_000)))
    tracemalloc.start()
    found = class_names.read(path)
    assert sum(len(chunk) for chunk in found.chunks(64)) == 5_000
    assert tracemalloc.get_traced_memory()[1] < 220_000
    tracemalloc.stop()
