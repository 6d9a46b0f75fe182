# SPDX-License-Identifier: Apache-2.0
"""Stored records decode to the same fields as with TFDS."""

import itertools

import numpy as np
import pytest
import tensorflow_datasets as tfds
from fake_data import DIM, POINTS
from ml_collections import ConfigDict

from data_prep import records
from mrd_jax.data import example, loader, source


def schema_and_record() -> tuple[tfds.features.FeaturesDict, dict]:
    """Returns the schema, and a record with two views and no caption."""
    rng = np.random.default_rng(0)
    return records.schema(points=POINTS, dim=DIM), {
        **dict.fromkeys(source.TEXTS, "w\u00f6rd"),
        "xyz": rng.normal(size=(POINTS, 3)).astype(np.float16),
        "rgb": rng.integers(0, 256, (POINTS, 3)).astype(np.uint8),
        "image_features": rng.normal(size=(2, DIM)).astype(np.float16),
        "image_kinds": ["render", "picture"],
        "text_features": np.zeros((0, DIM), np.float16),
        "captions": [],
        "caption_kinds": [],
        "label": -1,
    }


def stored(**changes) -> example.Example:
    """Returns a stored record with some fields replaced, or missing if the feature is None."""
    schema, record = schema_and_record()
    features = {name: schema[name] for name in schema} | {
        name: feature for name, (feature, _) in changes.items()
    }
    record |= {name: value for name, (_, value) in changes.items()}
    features = {name: feature for name, feature in features.items() if feature is not None}
    record = {name: record[name] for name in features}
    serialised = tfds.features.FeaturesDict(features).serialize_example(record)
    return example.Examples([serialised], schema, names=source.FIELDS)[0]


def test_the_reader_reads_every_field_of_the_schema():
    assert set(source.FIELDS) == set(records.schema(points=POINTS, dim=DIM))


def test_every_field_decodes_as_with_tfds(made):
    whole = tfds.builder_from_directory(str(made)).as_data_source("train")
    opened = source.open_split(made, "train")
    assert len(whole) == len(opened) == 29
    for wanted, got in zip(whole, (opened[index] for index in range(29)), strict=True):
        assert got.keys() == wanted.keys()
        for name, value in wanted.items():
            if name in source.TEXTS:
                assert got[name] == value.decode()
            elif name in source.TEXT_LISTS:
                assert got[name] == [text.decode() for text in value]
            else:
                assert np.asarray(got[name]).dtype == np.asarray(value).dtype
                np.testing.assert_array_equal(got[name], value)


def test_batches_match_those_of_records_decoded_by_tfds(made):
    data = {
        "picture_probability": 0.5,
        "caption_kinds": (),
        "hard_negatives": 0,
        "directory": "",
        "read_threads": 0,
        "corrupt_records": 0,
        "image_positives": 1,
        "text_positives": 1,
    }
    data |= {"caption_groups": (("name",), ("tags",)), "caption_chances": (1.0, 2.0)}
    config = ConfigDict({"seed": 3, "batch_size": 8, "data": data, "teacher": {"dim": DIM}})
    config.loss = ConfigDict({"relation_features": "drawn"})
    whole = source.RecordSource(
        tfds.builder_from_directory(str(made)).as_data_source("train"),
        shards=[("all", 29)],
        directory=made,
        split="train",
        cache=False,
    )
    streams = [loader.train_stream(s, config) for s in (whole, source.open_split(made, "train"))]
    for wanted, got in itertools.islice(zip(*streams, strict=True), 12):
        assert got.keys() == wanted.keys()
        for name in got:
            assert got[name].tobytes() == wanted[name].tobytes(), name


def test_tensors_are_views_of_their_bytes_and_empty_ones_keep_their_width():
    record = stored()
    assert not record["image_features"].flags.owndata
    assert record["text_features"].shape == (0, DIM)
    assert record["captions"] == []


class Counted(dict):
    """Record that lists the fields that were read."""

    def __init__(self, fields):
        super().__init__(fields)
        self.reads = []

    def __getitem__(self, name):
        self.reads.append(name)
        return super().__getitem__(name)


@pytest.mark.parametrize("cache", [False, True])
def test_only_requested_fields_are_decoded(cache):
    record = Counted({"xyz": 1, "label": 2, "id": b"a", "name": b"b"})
    opened = source.RecordSource(
        [record], shards=[("all", 1)], directory="some/folder", split="train", cache=cache
    )
    assert opened.read(0, ("xyz", "label")) == {"xyz": 1, "label": 2}
    assert opened.read(0, ("label", "id")) == {"label": 2, "id": "a"}
    assert record.reads == ["xyz", "label", "id"] if cache else ["xyz", "label", "label", "id"]


BYTES = tfds.features.Encoding.BYTES


@pytest.mark.parametrize(
    ("field", "feature", "value", "message"),
    [
        ("xyz", None, None, "no field 'xyz'"),
        (
            "xyz",
            tfds.features.Tensor(shape=(POINTS, 2), dtype=np.float16, encoding=BYTES),
            np.zeros((POINTS, 2), np.float16),
            r"field 'xyz': 96 bytes; expected float16 \[24, 3\]",
        ),
        (
            "image_features",
            tfds.features.Tensor(shape=(None, DIM + 1), dtype=np.float16, encoding=BYTES),
            np.zeros((2, DIM + 1), np.float16),
            r"field 'image_features': 28 bytes; expected float16 \[-1, 6\]",
        ),
        ("id", tfds.features.Sequence(tfds.features.Text()), ["a", "b"], "'id': 2 values"),
        ("label", tfds.features.Sequence(np.int64), [], "'label': 0 values; expected 1"),
    ],
)
def test_a_field_of_another_type_or_shape_is_named(field, feature, value, message):
    record = stored(**{field: (feature, value)})
    assert record["source"] == "w\u00f6rd".encode()
    with pytest.raises(ValueError, match=message):
        record[field]


def test_bytes_that_are_not_a_record_are_rejected():
    schema, _ = schema_and_record()
    with pytest.raises(ValueError, match="not a tf.train.Example"):
        example.Examples([b"\xff\xff\xff"], schema, names=source.FIELDS)[0]
    with pytest.raises(ValueError, match="no field 'id'"):
        example.Examples([b""], schema, names=source.FIELDS)[0]["id"]


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (None, "no field 'xyz'; expected .*'rgb'"),
        (
            tfds.features.Tensor(shape=(POINTS, 3), dtype=np.float16),
            "stores field 'xyz' in an unsupported way",
        ),
        (tfds.features.Sequence(np.int64), "stores field 'xyz' in an unsupported way"),
    ],
)
def test_a_data_set_with_another_schema_is_rejected(feature, message):
    schema, _ = schema_and_record()
    features = {name: schema[name] for name in schema} | {"xyz": feature}
    features = {name: feature for name, feature in features.items() if feature is not None}
    with pytest.raises(ValueError, match=message):
        example.Examples([], tfds.features.FeaturesDict(features), names=source.FIELDS)
