# SPDX-License-Identifier: Apache-2.0
"""PLY: files that are truncated, malformed, too large, or longer than their header says."""

import numpy as np
import ply_files
import pytest
from loading import extent, load, triangles
from ply_files import CORNERS, FACES, SIDES, XYZ, ply

from data_prep.foreign import limits
from data_prep.geometry.scene import MeshError

FORMS = list(ply_files.FORMATS)
EXTRA = "data that the header does not declare, ignored"


def vertices(rows=CORNERS, properties=XYZ, name="vertex"):
    return (name, properties, rows)


def faces(rows=SIDES, properties=FACES, name="face"):
    return (name, properties, rows)


def check_pyramid(content, notes=()):
    np.testing.assert_allclose(extent(content), [2, 2, 3])
    assert len(triangles(content)) == 6
    assert content.notes == notes


@pytest.mark.parametrize("form", FORMS[1:])
def test_bytes_behind_the_last_element_are_noted(form):
    data = ply(vertices(), faces(), form=form)
    check_pyramid(load(data + b"extra", "ply"), (EXTRA,))
    check_pyramid(load(data + b"\n", "ply"))


def test_numbers_and_words_behind_the_declared_ones_are_noted():
    text = ply(vertices(), faces()).decode()
    check_pyramid(load(text + "3 0 1 2\n", "ply"), (EXTRA,))
    rows = "".join(f"{x} {y} {z}\n" for x, y, z in CORNERS)
    assert rows in text
    check_pyramid(load(text.replace(rows, rows.replace("\n", " 0.5 7\n")), "ply"), (EXTRA,))
    check_pyramid(load(text.replace(rows, rows.replace("\n", " corner\n")), "ply"), (EXTRA,))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("lost", [1, 2])
def test_a_truncated_file_is_an_error_with_its_counts(form, lost):
    whole = ply(vertices(), faces(), form=form)
    part = ply(vertices(), faces(SIDES[:-lost]), form=form)
    cut = whole[: len(part)] if form != "ascii" else b"".join(whole.splitlines(True)[:-lost])
    with pytest.raises(MeshError, match=f"truncated; face elements found: {5 - lost} of 5"):
        load(cut, "ply")


@pytest.mark.parametrize("form", FORMS)
def test_a_cloud_that_ends_within_a_point_is_an_error_with_its_counts(form):
    whole = ply(vertices(), form=form)
    cut = whole[:-5] if form != "ascii" else whole.rsplit(b" ", 1)[0]
    with pytest.raises(MeshError, match="truncated; vertex elements found: 4 of 5"):
        load(cut, "ply")


HEAD = "ply\nformat ascii 1.0\n"
POINT = "element vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
END = "end_header\n1 2 3\n"


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (HEAD + POINT + "1 2 3\n", "malformed PLY header: no end_header"),
        ("plx\n" + POINT + END, "malformed PLY header: it does not start with ply"),
        ("ply\n" + POINT + END, "malformed PLY header: no format"),
        ("ply\nformat text 1.0\n" + POINT + END, "expected format ascii, .*; found 'text'"),
        (HEAD + END, "malformed PLY header: no elements"),
        (HEAD + "property float x\n" + POINT + END, "a property before the first element"),
        (HEAD + "element vertex\n" + END, "expected element NAME COUNT; found 'element vertex'"),
        (HEAD + "element vertex -1\n" + END, "expected element NAME COUNT"),
        (HEAD + POINT + "property triple a\n" + END, "found 'property triple a'"),
        (HEAD + POINT + "property list uchar a\n" + END, "found 'property list uchar a'"),
        (HEAD + POINT + "property list float int a\n" + END, "the length of list 'a'"),
        (HEAD + POINT.replace("vertex", "dot") + END, "no element vertex; found dot"),
        (HEAD + POINT.replace("float y", "float q") + END, "vertex has no property y"),
        (HEAD + POINT.replace("float x", "float packed_position") + END, "compressed Gaussian"),
        (HEAD + POINT.replace("x 1", "x 2") + END, "vertex elements found: 1 of 2"),
        (HEAD + POINT.replace("vertex 1", "vertex 0") + "end_header\n", "no faces and no points"),
        (HEAD + POINT + "end_header\n1 two 3\n", "expected a number, found 'two'"),
    ],
)
def test_errors_name_the_cause(text, error):
    with pytest.raises(MeshError, match=error):
        load(text, "ply")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("index", [5, -1, 100])
def test_a_face_that_names_no_vertex_is_an_error(form, index):
    with pytest.raises(MeshError, match="^a face names a vertex that does not exist"):
        load(ply(vertices(), faces([([0, 1, index],)]), form=form), "ply")


def test_an_index_that_is_no_whole_number_is_an_error():
    with pytest.raises(MeshError, match="^a face names a vertex that does not exist"):
        load(ply(vertices(), faces([([0, 1, 2.5],)])), "ply")


def test_faces_without_indices_are_an_error():
    with pytest.raises(MeshError, match="^element face has no list vertex_indices"):
        load(ply(vertices(), faces(properties=(("uchar", "int", "corners"),))), "ply")


@pytest.mark.parametrize("length", [-1, 2**31 - 1, 1000])
@pytest.mark.parametrize("form", FORMS[1:])
def test_wrong_lengths_of_lists_are_an_error(form, length):
    order = ">" if "big" in form else "<"
    data = ply(vertices(), faces(properties=(("int", "int", "vertex_index"),)), form=form)
    first = np.array([4], order + "i4").tobytes() + np.array([0, 3], order + "i4").tobytes()
    position = data.index(first)
    bad = data[:position] + np.array([length], order + "i4").tobytes() + data[position + 4 :]
    with pytest.raises(MeshError, match="truncated; face elements|no natural number"):
        load(bad, "ply")


@pytest.mark.parametrize(
    ("limit", "elements", "message"),
    [
        (limits.VERTICES, [vertices(), faces()], "5 vertices"),
        (limits.POINTS, [vertices()], "5 points"),
        (limits.FACES, [vertices(), faces()], "5 faces"),
    ],
)
def test_declared_counts_are_limited_before_anything_is_read(limit, elements, message, monkeypatch):
    monkeypatch.setenv(limit.variable, "4")
    header = ply(*elements).split(b"end_header\n")[0] + b"end_header\n"
    with pytest.raises(MeshError, match=f"^too large: {message}, at most 4 are read"):
        load(header, "ply")
