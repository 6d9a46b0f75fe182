# SPDX-License-Identifier: Apache-2.0
"""Untrusted HDF5 files: only point clouds of the file itself are read."""

import h5py
import numpy as np
import pytest

from data_prep.foreign import limits
from data_prep.sources import hdf5

CLOUDS = np.arange(24, dtype=np.float32).reshape(2, 4, 3)


def write(path, *, data=CLOUDS, label=((1,), (0,))):
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = data, np.uint8(label)


def read(path):
    with hdf5.open_clouds(path) as file:
        return file.labels()


def test_clouds_and_labels_are_read(tmp_path):
    write(tmp_path / "a.h5")
    with hdf5.open_clouds(tmp_path / "a.h5") as file:
        assert file.points == 4 and file.labels().tolist() == [1, 0]
        np.testing.assert_array_equal(file.cloud(1), CLOUDS[1])


def link(path, other):
    with h5py.File(path, "w") as file:
        file["data"], file["label"] = h5py.ExternalLink(other.name, "data"), np.uint8([1, 0])


def store_elsewhere(path, other):
    with h5py.File(path, "w") as file:
        file.create_dataset("data", (2, 4, 3), "f4", external=[(str(other), 0, 96)])
        file["label"] = np.uint8([1, 0])


def map_elsewhere(path, other):
    layout = h5py.VirtualLayout((2, 4, 3), "f4")
    layout[:] = h5py.VirtualSource(other, "data", shape=(2, 4, 3))
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("data", layout)
        file["label"] = np.uint8([1, 0])


@pytest.mark.parametrize("point", [link, store_elsewhere, map_elsewhere])
def test_data_of_another_file_are_not_read(tmp_path, point):
    other, path = tmp_path / "secret.h5", tmp_path / "a.h5"
    write(other)
    point(path, other)
    with pytest.raises(ValueError, match="a.h5: 'data' .* another file; not followed"):
        read(path)


@pytest.mark.parametrize(
    "content, message",
    [
        ({"data": CLOUDS[0]}, r"data \[4, 3\] and 2 labels; expected \[count, points, 3\]"),
        ({"label": [1]}, r"data \[2, 4, 3\] and 1 labels"),
        ({"data": np.array([b"text"])}, "'data' is not a numeric array"),
    ],
)
def test_other_content_is_rejected(tmp_path, content, message):
    write(tmp_path / "a.h5", **content)
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize(
    "shape, chunks, message",
    [
        ((10**9, 1, 3), (1, 1, 3), "a.h5: too large: .* members, at most"),
        ((2, 10**9, 3), (1, 1, 3), "points, at most"),
        ((2, 1_000, 3), (2**20, 10**3, 3), "bytes of arrays, at most"),
    ],
)
def test_small_file_that_declares_too_much_is_rejected(tmp_path, shape, chunks, message):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        unlimited = (None, None, 3)
        file.create_dataset("data", shape, "f4", chunks=chunks, maxshape=unlimited)
        file.create_dataset("label", shape[:1], "u1", chunks=(1,))
    assert (tmp_path / "a.h5").stat().st_size < 10_000
    with pytest.raises(limits.LimitError, match=message):
        read(tmp_path / "a.h5")


@pytest.mark.parametrize("change", [lambda data: b"", lambda data: data[:200]])
def test_corrupt_file_is_named(tmp_path, change):
    write(tmp_path / "a.h5")
    data = (tmp_path / "a.h5").read_bytes()
    (tmp_path / "a.h5").write_bytes(change(data))
    with pytest.raises(ValueError, match="a.h5: not a valid HDF5 file.*download it again"):
        read(tmp_path / "a.h5")
