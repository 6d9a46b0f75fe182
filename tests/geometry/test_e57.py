# SPDX-License-Identifier: Apache-2.0
"""Point clouds of laser scanners in E57 files."""

import numpy as np
import pytest
from loading import load

from data_prep.foreign import limits
from data_prep.geometry import scene

pye57 = pytest.importorskip("pye57", reason="the extra `formats` (pye57) is not installed")

XYZ = np.array([[0.5, 1, 2], [3, -4, 5.25], [6, 7, 8]])
RGB = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 255]])


@pytest.fixture
def write(tmp_path):
    """Function that writes scans and returns the bytes of the file."""

    def write_scans(*scans):
        path = tmp_path / "scans.e57"
        with pye57.E57(str(path), mode="w") as file:
            for columns, place in scans:
                file.write_scan_raw(columns, **place)
        return path.read_bytes()

    return write_scans


def scan(*, coloured=True, invalid=None, **place):
    columns = {f"cartesian{axis}": XYZ[:, i].copy() for i, axis in enumerate("XYZ")}
    if coloured:
        names = ("colorRed", "colorGreen", "colorBlue")
        columns |= {name: RGB[:, i].astype(np.uint8) for i, name in enumerate(names)}
    if invalid is not None:
        columns["cartesianInvalidState"] = np.array(invalid, np.int8)
    return columns, {name: np.array(value, np.float64) for name, value in place.items()}


def test_points_and_colours_are_read(write):
    content = load(write(scan()), "e57")
    np.testing.assert_allclose(content.xyz, XYZ, atol=1e-6)
    np.testing.assert_allclose(content.rgb * 255, RGB, atol=1e-6)
    assert content.notes == ()


def test_each_scan_is_placed_by_its_pose(write):
    """A quarter turn about z, then a shift."""
    half = np.sqrt(0.5)
    turned = scan(rotation=[half, 0, 0, half], translation=[100, 0, 0])
    content = load(write(scan(), turned), "e57")
    expected = np.stack([100 - XYZ[:, 1], XYZ[:, 0], XYZ[:, 2]], axis=1)
    np.testing.assert_allclose(content.xyz, np.concatenate([XYZ, expected]), atol=1e-5)


def test_invalid_points_are_left_out(write):
    content = load(write(scan(invalid=[0, 1, 0])), "e57")
    np.testing.assert_allclose(content.xyz, XYZ[[0, 2]], atol=1e-6)
    np.testing.assert_allclose(content.rgb * 255, RGB[[0, 2]], atol=1e-6)


def test_scans_without_colours_have_none(write):
    assert load(write(scan(coloured=False)), "e57").rgb is None


@pytest.mark.parametrize("size", [10, 60, 1500])
def test_truncated_files_are_refused(write, size):
    with pytest.raises(scene.MeshError, match="truncated|no E57 file|header"):
        load(write(scan())[:size], "e57")


def test_corrupt_pages_are_refused(write):
    data = bytearray(write(scan()))
    data[1100] ^= 255
    with pytest.raises(scene.MeshError, match="unreadable E57 file"):
        load(bytes(data), "e57")


def test_files_without_scans_are_refused(write):
    with pytest.raises(scene.MeshError, match="no scans"):
        load(write(), "e57")


def test_declared_points_are_checked_before_they_are_read(write, monkeypatch):
    data = write(scan())
    monkeypatch.setenv(limits.POINTS.variable, "2")
    with pytest.raises(scene.MeshError, match=limits.POINTS.variable):
        load(data, "e57")


def test_entities_in_the_xml_section_are_refused(write):
    """The attack of nested entities; the checksum of the page is not looked at before."""
    data = write(scan())
    start = data.index(b"<?xml")
    hostile = b'<!DOCTYPE a [<!ENTITY b "c">]>'
    with pytest.raises(scene.MeshError, match="entity"):
        load(data[:start] + hostile + data[start + len(hostile) :], "e57")
