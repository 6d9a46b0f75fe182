# SPDX-License-Identifier: Apache-2.0
"""A damaged data set is noticed, and the file is named."""

import re

import numpy as np
import pytest

from mrd_jax.data import source


@pytest.fixture
def folder(copied):
    return copied / "made_up" / "1.0.0"


@pytest.fixture
def shard(folder):
    (path,) = folder.glob("*-test.array_record*")
    return path


def read(folder) -> list[dict]:
    opened = source.open_split(folder, "test")
    return [opened[index] for index in range(len(opened))]


def assert_same(got: dict, wanted: dict):
    assert got.keys() == wanted.keys()
    for name in got:
        np.testing.assert_array_equal(got[name], wanted[name], err_msg=name)


def test_a_flipped_byte_is_noticed_or_changes_no_record(folder, shard):
    seed = np.random.SeedSequence().entropy
    print("seed", seed)
    rng = np.random.default_rng(seed)
    whole, wanted = shard.read_bytes(), read(folder)
    # Shards are padded to 64 KB; nine flips of ten hit what is not padding.
    content = np.flatnonzero(np.frombuffer(whole, np.uint8))
    noticed = 0
    for flip in range(200):
        position = rng.integers(len(whole)) if flip % 10 == 0 else rng.choice(content)
        data = bytearray(whole)
        data[position] ^= rng.integers(1, 256)
        shard.write_bytes(data)
        opened = source.open_split(folder, "test")
        for index, record in enumerate(wanted):
            try:
                got = opened[index]
            except RuntimeError as error:
                assert f"record {index} of {shard.name}" in str(error)
                noticed += 1
            else:
                assert_same(got, record)
    assert noticed > 100


def test_a_record_of_a_slice_is_named_by_its_place_in_the_shard(folder, shard):
    data = bytearray(shard.read_bytes())
    data[data.index(source.open_split(folder, "test")[6]["xyz"].tobytes())] ^= 1
    shard.write_bytes(data)

    part = source.open_split(folder, "test[4:]")

    assert part[1]["id"] == source.open_split(folder, "test")[5]["id"]
    with pytest.raises(RuntimeError, match=f"record 6 of {shard.name} .record 2 of split 'test.4"):
        part[2]


@pytest.mark.parametrize("kept", [0, 1_000, 2**16, 2**16 + 1_000, -1])
def test_a_truncated_shard_is_named_with_every_record_that_is_lost(folder, shard, kept):
    shard.write_bytes(shard.read_bytes()[:kept])
    opened = source.open_split(folder, "test")
    for index in range(len(opened)):
        with pytest.raises(RuntimeError, match=f"cannot read record {index} of {shard.name}"):
            opened[index]


@pytest.mark.parametrize("name", source.INFO_FILES)
def test_a_damaged_description_is_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:100])
    for open_ in (source.read_metadata, lambda directory: source.open_split(directory, "test")):
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged.*copy it again"):
            open_(folder)


@pytest.mark.parametrize("name", source.INFO_FILES[1:])
def test_a_missing_description_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{re.escape(name)} is missing; copy it again"):
        source.open_split(folder, "test")


@pytest.mark.parametrize(
    ("name", "content"),
    [("dataset_info.json", "{}"), ("dataset_info.json", '{"splits": 3}'), ("features.json", "{}")],
)
def test_a_description_of_something_else_is_refused(folder, name, content):
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match="do not describe a data set.*copy it again"):
        source.open_split(folder, "test")


def test_a_description_that_is_no_object_is_named(folder):
    (folder / "metadata.json").write_text("[]")
    with pytest.raises(ValueError, match="metadata.json is damaged: it is no JSON object"):
        source.read_metadata(folder)


def test_records_in_another_file_format_are_refused(folder):
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"array_record"', '"tfrecord"'))
    with pytest.raises(ValueError, match="does not hold records as data_prep writes them.*TFREC"):
        source.open_split(folder, "test")
