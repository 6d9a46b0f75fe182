# SPDX-License-Identifier: Apache-2.0
"""The stream of batches is a pure function of (seed, step)."""

import collections
import itertools
import threading
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec, loader, read_ahead, source, views

# Grain shuffles fewer than a hundred records slowly: it searches a permutation of 2**16 indices.
RECORDS, POINTS, DIM = 40, 7, 4


def raw_record(index: int) -> dict:
    """Returns a record as TFDS decodes it, whose features encode record, view and caption."""
    views, captions = (0 if index == 3 else 3), (0 if index == 5 else 4)
    feature = np.array([index, 0, 0, 1])
    return {
        "id": f"shape {index}".encode(),
        "source": b"fake",
        "name": f"n\u00e4me {index}".encode(),
        "creator": b"",
        "licence": b"CC0",
        "picture": f"{index}.jpg".encode(),
        "xyz": np.full((POINTS, 3), index / RECORDS, np.float16),
        "rgb": np.full((POINTS, 3), index, np.uint8),
        "image_features": features([feature + [0, view, 0, 0] for view in range(views)]),
        "image_kinds": [b"render", b"render", b"picture"][:views],
        "text_features": features([feature + [0, 0, word, 0] for word in range(captions)]),
        "captions": [b"a", b"b", b"c", b"d"][:captions],
        "caption_kinds": [b"name", b"tag", b"tag", b"tag"][:captions],
        "label": index - 1,
    }


def features(rows: list) -> np.ndarray:
    return np.array(rows, np.float16).reshape(len(rows), DIM)


def records(count: int = RECORDS, *, cache: bool = False) -> source.RecordSource:
    return source.RecordSource(
        [raw_record(index) for index in range(count)],
        shards=[("a-0-of-1", count)],
        directory="some/folder",
        split="train",
        cache=cache,
    )


def config_of(
    *, batch_size: int = 4, seed: int = 0, relation_features: str = "drawn", **data
) -> ConfigDict:
    defaults = {"caption_kinds": (), "caption_groups": (), "caption_chances": ()}
    defaults |= {"points": POINTS, "picture_probability": -1.0, "hard_negatives": 0}
    defaults |= {"directory": "", "read_threads": 0}
    defaults |= {"corrupt_records": 0, "image_positives": 1, "text_positives": 1}
    return ConfigDict(
        {
            "seed": seed,
            "batch_size": batch_size,
            "data": defaults | data,
            "loss": {"relation_features": relation_features},
            "teacher": {"dim": DIM},
        }
    )


def batches(config: ConfigDict, count: int, **kwargs) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(loader.train_stream(records(), config, **kwargs), count))


def assert_same(got, want):
    assert len(got) == len(want)
    for batch, expected in zip(got, want, strict=True):
        assert batch.keys() == expected.keys()
        for name in batch:
            np.testing.assert_array_equal(batch[name], expected[name], err_msg=name)


def test_batches_satisfy_the_batch_spec():
    config = config_of()
    for got in batches(config, 3):
        spec = batch_spec.batch_spec(config)
        assert {name: (a.shape, a.dtype) for name, a in got.items()} == {
            name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()
        }


def test_all_fields_of_a_row_belong_to_one_record():
    for got in batches(config_of(), 12):
        np.testing.assert_array_equal(got["rgb"][:, 0, 0], got["index"])
        np.testing.assert_array_equal(got["label"], got["index"] - 1)
        np.testing.assert_array_equal(got["has_image"], got["index"] != 3)
        np.testing.assert_array_equal(got["has_text"], got["index"] != 5)
        for name in ("image", "text"):
            want = np.where(got[f"has_{name}"], got["index"], 0)
            np.testing.assert_array_equal(got[name][:, 0], want)
            np.testing.assert_array_equal(got[name].any(axis=1), got[f"has_{name}"])


def test_every_epoch_shows_every_record_once_in_a_new_order():
    stream = batches(config_of(batch_size=16), 10)  # four epochs; batches span two of them
    index = np.concatenate([got["index"] for got in stream]).reshape(4, RECORDS)
    epoch = np.concatenate([got["epoch"] for got in stream]).reshape(4, RECORDS)

    np.testing.assert_array_equal(np.sort(index), np.tile(np.arange(RECORDS), (4, 1)))
    np.testing.assert_array_equal(epoch, np.repeat(np.arange(4), RECORDS).reshape(4, RECORDS))
    assert len({tuple(order) for order in index}) == 4


def test_a_later_start_step_continues_the_same_stream():
    config = config_of()
    assert_same(batches(config, 5, start_step=6), batches(config, 11)[6:])


def test_the_stream_is_that_of_earlier_versions():
    """These batches were recorded before hard negatives existed; started runs depend on them."""
    stream = batches(config_of(), 21)
    assert [got["index"].tolist() for got in (stream[0], stream[1], stream[20])] == [
        [21, 37, 31, 14],
        [9, 7, 28, 6],
        [36, 30, 2, 12],
    ]
    assert stream[0]["image"][:, 1].tolist() == [1, 2, 1, 2]
    assert stream[1]["text"][:, 2].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("processes", [2, 4])  # with 4, one row each
def test_processes_together_load_the_batches_of_one(processes):
    config = config_of()
    parts = [
        batches(config, 7, start_step=2, process_index=index, process_count=processes)
        for index in range(processes)
    ]

    joined = [
        {name: np.concatenate([part[name] for part in step]) for name in step[0]}
        for step in zip(*parts, strict=True)
    ]

    assert_same(joined, batches(config, 9)[2:])


def test_the_seed_changes_the_order_and_the_cache_does_not():
    config = config_of()
    cached = itertools.islice(loader.train_stream(records(cache=True), config), 8)
    assert_same(list(cached), batches(config, 8))

    orders = [[got["index"].tolist() for got in batches(config_of(seed=s), 8)] for s in (0, 1)]
    assert orders[0] != orders[1]


def drawn(config: ConfigDict, name: str, column: int) -> collections.Counter:
    """Counts the draws of each view or caption in 12 epochs, of the records that have any."""
    config.batch_size = 2 * RECORDS
    stream = batches(config, 6)
    rows = np.concatenate([got[name][got[f"has_{name}"]] for got in stream])
    return collections.Counter(rows[:, column].astype(int).tolist())


def test_views_are_drawn_uniformly_or_with_the_probability_of_pictures():
    even = drawn(config_of(), "image", 1)
    assert set(even) == {0, 1, 2} and min(even.values()) > 120

    half = drawn(config_of(picture_probability=0.5), "image", 1)
    assert 190 < half[2] < 280 and min(half[0], half[1]) > 80
    assert set(drawn(config_of(picture_probability=1.0), "image", 1)) == {2}
    assert set(drawn(config_of(picture_probability=0.0), "image", 1)) == {0, 1}


def test_caption_kinds_are_drawn_uniformly_and_can_be_restricted():
    counts = drawn(config_of(), "text", 2)
    assert 190 < counts[0] < 280 and min(counts[word] for word in (1, 2, 3)) > 50

    assert set(drawn(config_of(caption_kinds=("name",)), "text", 2)) == {0}
    assert set(drawn(config_of(caption_kinds=("tag", "unknown")), "text", 2)) == {1, 2, 3}


def test_a_record_without_an_allowed_caption_has_no_text():
    for got in batches(config_of(caption_kinds=("description",)), 3):
        assert not got["has_text"].any() and not got["text"].any()


def test_the_only_kind_of_image_is_drawn_whatever_the_probability():
    rng = np.random.default_rng(0)
    for chance in (0.0, 1.0):
        assert views.draw(["picture"], rng=rng, picture_probability=chance) == 0
        assert views.draw(["render"], rng=rng, picture_probability=chance) == 0
        assert views.draw([], rng=rng, picture_probability=chance) is None


def test_views_change_from_epoch_to_epoch():
    stream = batches(config_of(batch_size=RECORDS), 10)
    rows = [row for got in stream for row in got["image"][got["index"] == 0]]
    assert len({int(row[1]) for row in rows}) == 3


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"process_count": 3}, "batch_size is 4, which does not divide over 3 processes"),
        ({"device_count": 8}, "batch_size is 4, which does not divide over 8 devices"),
    ],
)
def test_a_batch_size_that_does_not_divide_is_rejected(kwargs, message):
    with pytest.raises(ValueError, match=message):
        loader.train_stream(records(), config_of(), **kwargs)


def test_hard_negatives_without_neighbours_are_rejected():
    with pytest.raises(ValueError, match="hard_negatives is 2, but no neighbours"):
        loader.train_stream(records(), config_of(hard_negatives=2))


def test_an_empty_split_is_rejected():
    with pytest.raises(ValueError, match="split 'train' of .*some/folder has no records"):
        loader.train_stream(records(0), config_of())


class SlowRecords:
    """Records whose reads take a while, those of odd positions longer; counts reads in flight."""

    def __init__(self):
        self.in_flight, self.most = 0, 0
        self._lock = threading.Lock()

    def __len__(self):
        return RECORDS

    def __getitem__(self, index):
        with self._lock:
            self.in_flight += 1
            self.most = max(self.most, self.in_flight)
        time.sleep(0.02 if index % 2 else 0.005)
        with self._lock:
            self.in_flight -= 1
        return raw_record(index)


@pytest.mark.parametrize("threads", [1, 8, 64])
@pytest.mark.parametrize("options", [{}, {"start_step": 3, "process_count": 2, "process_index": 1}])
def test_threads_that_read_ahead_do_not_change_the_stream(threads, options):
    slow = SlowRecords()
    opened = source.RecordSource(
        slow, shards=[("a", RECORDS)], directory="some/folder", split="train", cache=False
    )
    stream = loader.train_stream(opened, config_of(read_threads=threads), **options)
    for want, got in zip(batches(config_of(), 9, **options), stream, strict=False):
        for name in want:
            np.testing.assert_array_equal(got[name], want[name])
    # Rows of two batches, of 4 or 2 rows, are requested at the same time.
    assert 1 <= slow.most <= threads
    assert threads == 1 or slow.most > 2


def test_records_in_a_bucket_are_read_ahead_and_files_are_not():
    assert read_ahead.thread_count("gs://bucket/data") == 64
    assert read_ahead.thread_count("/data") == 0
    assert (
        read_ahead.thread_count("gs://bucket/data", 3) == read_ahead.thread_count("/data", 3) == 3
    )
