# SPDX-License-Identifier: Apache-2.0
"""Corrupt data sets raise errors that name the file."""

import re

import numpy as np
import pytest

from mrd_jax.data import dataset_metadata, source


@pytest.fixture
def folder(copied):
    return copied / "fake" / "1.0.0"


@pytest.fixture
def shard(folder):
    (path,) = folder.glob("*-test.array_record*")
    return path


def read_all(folder) -> list[dict]:
    return list(source.open_split(folder, "test"))


def assert_equal_records(record: dict, expected: dict):
    assert record.keys() == expected.keys()
    for name in record:
        np.testing.assert_array_equal(record[name], expected[name], err_msg=name)


def test_a_flipped_byte_is_detected_or_changes_no_record(folder, shard):
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    rng = np.random.default_rng(seed)
    intact, expected = shard.read_bytes(), read_all(folder)
    # Shards are padded to 64 KB; nine of ten flips hit other bytes.
    content = np.flatnonzero(np.frombuffer(intact, np.uint8))
    detected = 0
    for flip in range(200):
        position = rng.integers(len(intact)) if flip % 10 == 0 else rng.choice(content)
        data = bytearray(intact)
        data[position] ^= rng.integers(1, 256)
        shard.write_bytes(data)
        records = source.open_split(folder, "test")
        for index, record in enumerate(expected):
            try:
                found = records[index]
            except RuntimeError as error:
                assert f"record {index} of {shard.name}" in str(error)
                detected += 1
            else:
                assert_equal_records(found, record)
    assert detected > 100


def test_errors_name_a_record_of_a_slice_by_its_position_in_the_shard(folder, shard):
    data = bytearray(shard.read_bytes())
    data[data.index(source.open_split(folder, "test")[6]["xyz"].tobytes())] ^= 1
    shard.write_bytes(data)

    part = source.open_split(folder, "test[4:]")

    assert part[1]["id"] == source.open_split(folder, "test")[5]["id"]
    with pytest.raises(RuntimeError, match=f"record 6 of {shard.name} .record 2 of split 'test.4"):
        part[2]


@pytest.mark.parametrize("length", [0, 1_000, 2**16, 2**16 + 1_000, -1])
def test_every_record_of_a_truncated_shard_raises(folder, shard, length):
    shard.write_bytes(shard.read_bytes()[:length])
    records = source.open_split(folder, "test")
    for index in range(len(records)):
        with pytest.raises(RuntimeError, match=f"cannot read record {index} of {shard.name}"):
            records[index]


@pytest.mark.parametrize("name", dataset_metadata.INFO_FILES)
def test_a_corrupt_info_file_is_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:100])
    for open_ in (dataset_metadata.read, lambda directory: source.open_split(directory, "test")):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is corrupt.*copy it again"):
            open_(folder)


@pytest.mark.parametrize("name", dataset_metadata.INFO_FILES[1:])
def test_a_missing_info_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(name)} is missing; copy it again"):
        source.open_split(folder, "test")


@pytest.mark.parametrize(
    ("name", "content"),
    [("dataset_info.json", "{}"), ("dataset_info.json", '{"splits": 3}'), ("features.json", "{}")],
)
def test_info_files_of_something_else_are_rejected(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match="do not describe a data set.*copy it again"):
        source.open_split(folder, "test")


def test_an_info_file_that_is_not_an_object_is_named(folder):
    (folder / "metadata.json").write_text("[]")
    with pytest.raises(ValueError, match="metadata.json is corrupt: not a JSON object"):
        dataset_metadata.read(folder)


def test_records_in_another_file_format_are_rejected(folder):
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match="does not hold records written by data_prep.*TFREC"):
        source.open_split(folder, "test")
