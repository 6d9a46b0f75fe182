# SPDX-License-Identifier: Apache-2.0
"""Point clouds of laser scanners in LAS and LAZ files."""

import io

import numpy as np
import pytest
from loading import load

from data_prep.foreign import limits
from data_prep.geometry import scene

reason = "the extra `formats` (laspy) is not installed"
laspy = pytest.importorskip("laspy", reason=reason)
pytest.importorskip("lazrs", reason=reason)

XYZ = np.array(
    [[455123.25, 5411234.5, 301.125], [455124.5, 5411235.25, 302.0], [455130, 5411240, 1]]
)
RGB = np.array([[255, 0, 0], [0, 128, 0], [10, 20, 255]])


def las(*, point_format=3, version="1.2", rgb=RGB, compress=False, withheld=None):
    header = laspy.LasHeader(point_format=point_format, version=version)
    header.offsets, header.scales = [455000, 5411000, 0], [0.001] * 3
    data = laspy.LasData(header)
    data.x, data.y, data.z = XYZ.T
    if rgb is not None:
        data.red, data.green, data.blue = rgb.T
    if withheld is not None:
        data.withheld = withheld
    file = io.BytesIO()
    data.write(file, do_compress=compress)
    return file.getvalue()


@pytest.mark.parametrize("compress", [False, True])
@pytest.mark.parametrize(
    ("point_format", "version"), [(2, "1.2"), (3, "1.2"), (7, "1.4"), (8, "1.4")]
)
def test_coordinates_and_colours_of_point_formats(point_format, version, compress):
    data = las(point_format=point_format, version=version, rgb=RGB * 257, compress=compress)
    content = load(data, "laz" if compress else "las")
    np.testing.assert_allclose(content.xyz, XYZ, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(content.rgb, RGB)
    assert content.notes == ()


def test_colours_of_8_bits_are_told_by_the_largest_value():
    np.testing.assert_array_equal(load(las(rgb=RGB), "las").rgb, RGB)


@pytest.mark.parametrize("point_format", [0, 1])
def test_point_formats_without_colours_have_none(point_format):
    assert load(las(point_format=point_format, rgb=None), "las").rgb is None


def test_colours_that_are_all_black_are_none_and_noted():
    content = load(las(rgb=np.zeros_like(RGB)), "las")
    assert content.rgb is None
    assert content.notes == ("colours that are all black, ignored",)


def test_withheld_points_are_dropped_and_counted():
    content = load(las(withheld=[False, True, False]), "las")
    np.testing.assert_allclose(content.xyz, XYZ[[0, 2]], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(content.rgb, RGB[[0, 2]])
    assert content.notes == ("withheld points, dropped: 1",)


def test_declared_records_are_checked_before_they_are_read():
    data = bytearray(las())
    data[100:104] = b"\xff\xff\xff\xff"
    with pytest.raises(scene.MeshError, match="corrupt header"):
        load(bytes(data), "las")


@pytest.mark.parametrize("compress", [False, True])
def test_truncated_files_are_refused(compress):
    with pytest.raises(scene.MeshError, match="truncated|corrupt|unreadable"):
        load(las(compress=compress)[:-40], "las")


def test_declared_points_are_checked_before_they_are_read(monkeypatch):
    monkeypatch.setenv(limits.POINTS.variable, "2")
    with pytest.raises(scene.MeshError, match=limits.POINTS.variable):
        load(las(), "las")
