# SPDX-License-Identifier: Apache-2.0
"""Point clouds as rows of numbers: xyz, txt, pts and asc files."""

import json

import numpy as np
import pytest
from loading import load

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers import text_points
from mrd_jax.tools import inspect

XYZ = np.array([[0.5, 1, 2], [3, -4, 5.25], [6, 7, 8]])
RGB = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 255]])
NORMALS = np.array([[1, 0, 0], [0, -0.6, 0.8], [0.6, 0.8, 0]])
INTENSITY = np.array([[-2048], [12], [2047]])


def rows(*columns, separator=" "):
    table = np.concatenate(columns, axis=1)
    return "\n".join(separator.join(f"{value:.6g}" for value in row) for row in table) + "\n"


def check(content, *, rgb=None):
    """Compares a cloud with XYZ, and its colours with `rgb`, 0 to 255."""
    np.testing.assert_allclose(content.xyz, XYZ)
    if rgb is None:
        assert content.rgb is None
    else:
        np.testing.assert_allclose(content.rgb * 255.0, rgb, atol=1e-3)


@pytest.mark.parametrize("file_type", ["xyz", "txt", "pts", "asc"])
def test_three_columns_are_coordinates(file_type):
    check(load(rows(XYZ), file_type))


@pytest.mark.parametrize("separator", [" ", "\t", ",", ", ", ";", "; ", "   "])
def test_separators_are_spaces_tabs_commas_and_semicolons(separator):
    check(load(rows(XYZ, RGB, separator=separator), "xyz"), rgb=RGB)


@pytest.mark.parametrize("scale", [1, 255, 65535])
def test_colours_of_one_255_and_65535_are_told_by_their_values(scale):
    check(load(rows(XYZ, np.rint(RGB * scale / 255) if scale > 1 else RGB / 255), "xyz"), rgb=RGB)


@pytest.mark.parametrize(
    ("columns", "rgb"),
    [
        ((XYZ, NORMALS), None),
        ((XYZ, INTENSITY), None),
        ((XYZ, INTENSITY, RGB), RGB),
        ((XYZ, RGB, INTENSITY), RGB),
        ((XYZ, NORMALS, np.array([[1], [2], [3]])), None),
        ((XYZ, RGB, NORMALS), RGB),
        ((XYZ, NORMALS, RGB), RGB),
        ((XYZ, INTENSITY, RGB, NORMALS), RGB),
        ((XYZ, INTENSITY, NORMALS, RGB), RGB),
    ],
)
def test_columns_are_guessed_from_number_and_values(columns, rgb):
    content = load(rows(*columns), "xyz")
    check(content, rgb=rgb)
    assert content.notes == ()


def test_fourth_column_of_pts_files_is_the_intensity():
    """All columns after the third could be colours."""
    gray = np.array([[1], [2], [3]])
    check(load(rows(XYZ, gray, RGB), "pts"), rgb=RGB)


def test_pts_files_begin_with_the_number_of_points_of_each_scan():
    check(load("2\n" + rows(XYZ[:2]) + "1\n" + rows(XYZ[2:]), "pts"))


@pytest.mark.parametrize("line", ["//X,Y,Z,R,G,B", "# comment", "", "x y z r g b", "% 1 2 3"])
def test_comments_and_headers_above_the_rows_are_skipped(line):
    check(load(line + "\n" + rows(XYZ, RGB), "txt"), rgb=RGB)


def test_comments_after_and_between_rows_are_skipped():
    first, *others = rows(XYZ, RGB).splitlines()
    check(load("\r\n".join([first + " # red", "// more", "", *others]), "txt"), rgb=RGB)


@pytest.mark.parametrize(
    "header",
    ["b g r z y x", "//Blue;Green;Red;Z;Y;X", "# diffuse_blue diffuse_green diffuse_red z y x"],
)
def test_header_names_the_columns(header):
    table = np.concatenate([XYZ, RGB], axis=1)[:, ::-1]
    check(load(f"{header}\n{rows(table)}", "asc"), rgb=RGB)


@pytest.mark.parametrize("columns", ["bgr_zyx", "b,g,r,intensity,z,y,x", "bgrizyx"])
def test_caller_may_name_the_columns(columns):
    table = np.concatenate([RGB[:, ::-1], INTENSITY, XYZ[:, ::-1]], axis=1)
    found = text_points.read(
        rows(table).encode(), assets=_Notes(), file_type="xyz", columns=columns
    )
    np.testing.assert_allclose(found.points[0].xyz, XYZ)
    np.testing.assert_allclose(found.points[0].rgb * 255, RGB, atol=1e-3)


class _Notes:
    def __init__(self):
        self.notes = []


def test_commands_take_columns(tmp_path, capsys):
    path = tmp_path / "cloud.xyz"
    path.write_text(rows(RGB[:, ::-1], XYZ[:, ::-1]))
    assert inspect.main([str(path), "--json", "--columns", "bgrzyx"]) == 0
    facts = json.loads(capsys.readouterr().out)
    np.testing.assert_allclose(facts["extent"], np.ptp(XYZ, axis=0))
    np.testing.assert_allclose(facts["colour_mean"], RGB.mean(axis=0), atol=1)
    assert inspect.main([str(path), "--json", "--columns", "xyz"]) == 0
    assert json.loads(capsys.readouterr().out)["colour_mean"] is None


@pytest.mark.parametrize("columns", ["xy", "xyzz", "xyzrg", "xyzrgbi", "xyzq"])
def test_columns_that_do_not_fit_are_refused(columns):
    with pytest.raises(scene.MeshError, match="columns"):
        text_points.read(rows(XYZ, RGB).encode(), assets=_Notes(), file_type="xyz", columns=columns)


@pytest.mark.parametrize("count", [5, 8, 12])
def test_other_numbers_of_columns_are_noted(count):
    content = load(rows(XYZ, np.full((3, count - 3), 1234567)), "xyz")
    check(content)
    (note,) = content.notes
    assert "columns after the third" in note


def test_rows_that_are_not_finite_are_dropped_and_counted():
    content = load(rows(XYZ) + "nan nan nan\n", "xyz")
    check(content)
    assert any("not finite" in note for note in content.notes)


def test_large_coordinates_keep_their_precision():
    utm = np.array([[455123.125, 5411234.25, 301.5], [455123.25, 5411234.5, 302.5]])
    text = "\n".join(" ".join(map(repr, row)) for row in utm.tolist())
    np.testing.assert_array_equal(load(text, "xyz").xyz, utm)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,5 2,5 3,5\n4,5 5,5 6,5\n", "decimal commas"),
        ("1,5;2,5;3,5\n", "decimal commas"),
        ("1,,3\n4,5,6\n", "empty columns"),
        ("MIT License\n\nPermission is hereby granted\n", "no rows of numbers"),
        ("1 2\n3 4\n", "too few columns"),
        ("1 2 3\n4 5\n", "one length"),
        ("1 2 3\n4 five 6\n", "not numbers"),
        ("3\nwater\nO 0.0 0.0 0.1\nH 0.0 0.7 -0.4\nH 0.0 -0.7 -0.4\n", "molecule"),
    ],
)
def test_text_that_is_no_cloud_is_refused_by_name(text, message):
    with pytest.raises(scene.MeshError, match=message):
        load(text, "xyz")


def test_too_many_rows_are_refused_before_they_are_parsed(monkeypatch):
    monkeypatch.setenv(limits.POINTS.variable, "2")
    with pytest.raises(scene.MeshError, match=limits.POINTS.variable):
        load(rows(XYZ), "xyz")
