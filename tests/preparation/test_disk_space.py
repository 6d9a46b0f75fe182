# SPDX-License-Identifier: Apache-2.0
"""A full disk is noticed before hours of work."""

import collections
import re
import shutil

import pytest
import tiny_catalogue
from fake_data import run_build

from data_prep import build_flags, disk_space, prepare

Usage = collections.namedtuple("Usage", ["total", "used", "free"])


@pytest.fixture
def free(monkeypatch):
    """Sets the free bytes of the disk; returns the folders that were asked for."""
    asked = []

    def limit(count):
        def usage(folder):
            asked.append(folder)
            return Usage(10**12, 0, count)

        monkeypatch.setattr(disk_space.shutil, "disk_usage", usage)
        return asked

    return limit


def prepare_two(folder):
    tiny_catalogue.chairs(folder, count=2)
    execution = build_flags.Execution(workers=0)
    settings = {"points": 100, "views": 1, "image_size": 16, "seed": 0, "execution": execution}
    return prepare.prepare_shapes("furniture", folder, folder / "cache", **settings)


def test_points_that_do_not_fit_are_refused(tmp_path, free):
    # 2 shapes of 100 points of 15 bytes.
    asked = free(2_999)
    with pytest.raises(ValueError, match=r"points of 2 shapes need at least .* --output"):
        prepare_two(tmp_path)
    assert set(asked) == {tmp_path}  # the folder of the cache does not exist yet
    assert not (tmp_path / "cache").exists()


def test_pictures_that_may_not_fit_are_a_warning(tmp_path, free, capsys):
    # One view of 16 x 16 pixels is estimated as 43.5 bytes.
    free(3_086)
    assert prepare_two(tmp_path).written == 2
    warning = "warning: 2 shapes may need 0.0 GB, and .*cache has 0.0 GB free"
    assert re.search(warning, capsys.readouterr().err)


def test_enough_space_is_no_message(tmp_path, free, capsys):
    free(3_088)
    prepare_two(tmp_path)
    assert "warning" not in capsys.readouterr().err


def test_shapes_of_an_earlier_run_need_no_space(tmp_path, free):
    prepare_two(tmp_path)
    free(0)
    assert prepare_two(tmp_path).reused == 2


def test_features_and_records_that_do_not_fit_are_refused(tmp_path, monkeypatch, free):
    free(10**9)
    folder, _ = run_build(tmp_path, monkeypatch)
    shutil.rmtree(folder)
    free(100)
    with pytest.raises(ValueError, match="records need at least .* 0.0 GB free"):
        run_build(tmp_path, monkeypatch)
    for path in (tmp_path / "features").rglob("*.npz"):
        path.unlink()
    with pytest.raises(ValueError, match="features need at least"):
        run_build(tmp_path, monkeypatch)
