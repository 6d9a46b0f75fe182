# SPDX-License-Identifier: Apache-2.0
"""Pictures in zip files, and those of earlier versions, which are files of their own."""

import hashlib
import zipfile

import pytest

from mrd_jax import storage
from mrd_jax.data import picture_files


def write(path, **pictures):
    with picture_files.Writer(path) as writer:
        for name, data in pictures.items():
            writer.add(f"{name}.jpg", data)
    return storage.path(path)


def test_pictures_are_read_from_a_zip_file_and_from_a_folder(tmp_path):
    path = write(tmp_path / "train-00000.zip", a=b"1", b=b"22")
    (tmp_path / "a.jpg").write_bytes(b"own file")
    assert picture_files.read(path / "a.jpg") == b"1"
    assert picture_files.read(path / "b.jpg") == b"22"
    assert picture_files.read(storage.path(tmp_path) / "a.jpg") == b"own file"


def test_absent_pictures_are_none(tmp_path):
    path = write(tmp_path / "train-00000.zip", a=b"1")
    assert picture_files.read(path / "other.jpg") is None
    assert picture_files.read(storage.path(tmp_path) / "other.zip" / "a.jpg") is None
    assert picture_files.read(storage.path(tmp_path) / "other.jpg") is None
    # A record without a picture has the name "".
    assert picture_files.read(storage.path(tmp_path) / "") is None


def test_a_zip_file_that_was_replaced_is_read_again(tmp_path):
    path = write(tmp_path / "x.zip", a=b"old")
    assert picture_files.read(path / "a.jpg") == b"old"
    write(tmp_path / "x.zip", a=b"newer")
    assert picture_files.read(path / "a.jpg") == b"newer"


def test_the_bytes_of_a_zip_file_depend_on_its_content_alone(tmp_path):
    write(tmp_path / "x.zip", a=b"1")
    found = hashlib.sha256((tmp_path / "x.zip").read_bytes()).hexdigest()
    with zipfile.ZipFile(tmp_path / "x.zip") as file:
        (info,) = file.infolist()
    assert (info.date_time, info.create_system) == ((1980, 1, 1, 0, 0, 0), 3)
    assert info.compress_type == zipfile.ZIP_STORED
    write(tmp_path / "y.zip", a=b"1")
    assert hashlib.sha256((tmp_path / "y.zip").read_bytes()).hexdigest() == found


def test_a_corrupt_picture_is_an_error(tmp_path):
    path = write(tmp_path / "x.zip", a=b"0123456789")
    data = bytearray((tmp_path / "x.zip").read_bytes())
    data[data.index(b"0123456789")] ^= 1
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(zipfile.BadZipFile, match="Bad CRC-32"):
        picture_files.read(path / "a.jpg")
