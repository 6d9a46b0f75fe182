# SPDX-License-Identifier: Apache-2.0
"""Corrupt records of the training split stop a run, or are replaced up to a limit."""

import itertools
import json
import re
import types

import numpy as np
import pytest
from test_loader import RECORDS, batches, config_of, raw_record
from tiny import tiny_config

from mrd_jax.data import batch_spec, corrupt_records, loader, source
from mrd_jax.data.hard_negatives import neighbour_index
from mrd_jax.report import final
from mrd_jax.training import run as run_lib

CORRUPT = (7, 21, 30)


class CorruptRecord(dict):
    """Record of which only the id can be read."""

    def __getitem__(self, name):
        if name != "id":
            raise ValueError("checksum does not match")
        return super().__getitem__(name)


def records(corrupt_indices=CORRUPT) -> source.RecordSource:
    """Returns two shards of 20 records each."""
    rows = [
        (CorruptRecord if i in corrupt_indices else dict)(raw_record(i)) for i in range(RECORDS)
    ]
    shards = [("a-0-of-2", 20), ("a-1-of-2", 20)]
    return source.RecordSource(
        rows, shards=shards, directory="some/folder", split="train", cache=False
    )


def stream(count, config, *, corrupt_indices=CORRUPT, **options):
    return list(
        itertools.islice(loader.train_stream(records(corrupt_indices), config, **options), count)
    )


def test_by_default_the_first_corrupt_record_stops_the_stream_with_its_shard_and_position():
    with pytest.raises(corrupt_records.TooManyCorruptRecordsError) as caught:
        stream(30, config_of())
    message = str(caught.value)
    assert "record 1 of a-1-of-2 (record 21 of split 'train'): checksum does not match" in message
    assert "config.data.corrupt_records allows 0 corrupt records" in message


def test_only_the_rows_of_corrupt_records_change_and_each_becomes_another_intact_record():
    config = config_of(corrupt_records=3)
    replaced = 0
    for step, (got, planned) in enumerate(
        zip(stream(30, config), batches(config, 30), strict=True)
    ):
        spec = batch_spec.batch_spec(config)
        assert {n: (a.shape, a.dtype) for n, a in got.items()} == {
            name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()
        }
        for row in range(4):
            if planned["index"][row] not in CORRUPT:
                for name in got:
                    np.testing.assert_array_equal(got[name][row], planned[name][row])
                continue
            replaced += 1
            index = got["index"][row]
            assert index not in CORRUPT and index not in planned["index"]
            assert (got["rgb"][row] == index).all() and got["label"][row] == index - 1
            assert got["epoch"][row] == -1 - step
    assert replaced == 3 * 3  # three epochs


@pytest.mark.parametrize("processes", [2, 4])
def test_replacements_depend_on_the_step_not_on_processes_or_the_start(processes):
    config = config_of(corrupt_records=3)
    whole = stream(20, config)
    options = {"start_step": 4, "process_count": processes}
    parts = [stream(16, config, process_index=i, **options) for i in range(processes)]
    for got, want in zip(zip(*parts, strict=True), whole[4:], strict=True):
        for name in want:
            joined = np.concatenate([part[name] for part in got])
            np.testing.assert_array_equal(joined, want[name])


def test_another_seed_draws_other_replacements():
    def replacements(seed):
        config = config_of(seed=seed, corrupt_records=3)
        return [i for got in stream(30, config) for i in got["index"][got["epoch"] < 0]]

    assert replacements(0) != replacements(1)


def test_one_corrupt_record_more_than_allowed_stops_the_stream():
    with pytest.raises(
        corrupt_records.TooManyCorruptRecordsError, match="allows 2 corrupt.*this is one more"
    ):
        stream(10, config_of(corrupt_records=2))


def test_a_split_without_intact_records_stops_the_stream():
    with pytest.raises(
        corrupt_records.TooManyCorruptRecordsError, match="every record of the split is corrupt"
    ):
        stream(1, config_of(corrupt_records=RECORDS), corrupt_indices=range(RECORDS))


def test_no_replacement_repeats_a_record_of_a_batch_with_hard_negatives():
    nearest = np.stack([(i + np.arange(1, 9)) % RECORDS for i in range(RECORDS)]).astype(np.int32)
    near = neighbour_index.NeighbourIndex(nearest, fingerprint="", split="train", feature="image")
    config = config_of(batch_size=16, hard_negatives=8, corrupt_records=3)
    found = stream(20, config, neighbours=near)
    assert sum((got["epoch"][:8] < 0).sum() for got in found) > 4
    for got in found:
        assert len(set(got["index"].tolist())) == 16


def test_each_corrupt_record_is_logged_once_and_counted_from_its_step_on(caplog):
    config = config_of(corrupt_records=3)
    met = corrupt_records.CorruptRecords(records(), config)
    stream(30, config, corrupt=met)
    assert sorted(record.args[0] for record in caplog.records) == [
        "shape 21",
        "shape 30",
        "shape 7",
    ]
    # Two threads load batches, so that any of the records may be met first.
    (message,) = [text for text in caplog.messages if "shape 21" in text]
    assert re.search("record shape 21 is corrupt and is replaced, [123] of at most 3", message)
    assert "record 1 of a-1-of-2" in message
    first = {
        index: next(s for s, got in enumerate(batches(config, 30)) if index in got["index"])
        for index in CORRUPT
    }
    for step in range(11):
        assert met.count(step) == sum(first_step <= step for first_step in first.values())


def test_restart_continues_counting_corrupt_records(tmp_path, caplog):
    config = config_of(corrupt_records=3)
    met = corrupt_records.CorruptRecords(records(), config, workdir=tmp_path)
    stream(10, config, corrupt=met)
    caplog.clear()

    again = corrupt_records.CorruptRecords(records(), config, workdir=tmp_path, process_index=1)
    stream(10, config, corrupt=again)
    assert [again.count(step) for step in range(10)] == [met.count(step) for step in range(10)]
    assert not caplog.records
    with pytest.raises(corrupt_records.TooManyCorruptRecordsError):
        stream(10, config, corrupt=again, corrupt_indices=(*CORRUPT, 8))
    lines = (tmp_path / "corrupt_records.0.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"shape 7", "shape 21", "shape 30"}
    assert not (tmp_path / "corrupt_records.1.jsonl").exists()


def test_restart_reads_the_files_of_version_0_1(tmp_path):
    config = config_of(corrupt_records=3)
    met = corrupt_records.CorruptRecords(records(), config, workdir=tmp_path)
    stream(10, config, corrupt=met)
    (tmp_path / "corrupt_records.0.jsonl").rename(tmp_path / "damaged_records.0.jsonl")
    again = corrupt_records.CorruptRecords(records(), config, workdir=tmp_path)
    assert [again.count(step) for step in range(10)] == [met.count(step) for step in range(10)]


def test_a_negative_limit_is_rejected():
    with pytest.raises(ValueError, match="corrupt_records is -1; expected an integer, at least 0"):
        run_lib.build_run(tiny_config(data__corrupt_records=-1))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_kinds", [b"render"], "1 image_kinds for 3 image_features"),
        ("caption_kinds", [], "0 caption_kinds for 4 text_features"),
        ("label", 2**31, "label 2147483648, expected -1 to 2147483647"),
        ("label", -2, "label -2, expected -1"),
    ],
)
def test_an_inconsistent_record_is_corrupt(field, value, message):
    inconsistent = source.RecordSource(
        [raw_record(0) | {field: value}] * 4,
        shards=[("a", 4)],
        directory="some/folder",
        split="train",
        cache=False,
    )
    with pytest.raises(
        corrupt_records.TooManyCorruptRecordsError, match=f"of a .record . of split.*{message}"
    ):
        next(loader.train_stream(inconsistent, config_of()))


def test_a_corrupt_training_split_is_not_embedded_for_evaluation(copied, caplog):
    folder = copied / "fake" / "1.0.0"
    (shard,) = folder.glob("*-train.array_record-00000*")
    data = bytearray(shard.read_bytes())
    data[data.index(source.open_split(folder, "train")[6]["xyz"].tobytes())] ^= 1
    shard.write_bytes(data)

    def evaluator(allowed):
        config = tiny_config(data__directory=str(folder), data__corrupt_records=allowed)
        return types.SimpleNamespace(
            config=config, embed=lambda variables, records, indices: [records[i] for i in indices]
        )

    assert final.embed_training_split(evaluator(1), {}) is None
    expected = f"training split, which has corrupt records: cannot read record 6 of {shard.name}"
    assert expected in caplog.text
    with pytest.raises(source.CorruptRecordError):
        final.embed_training_split(evaluator(0), {})


@pytest.mark.parametrize("threads", [0, 8])
@pytest.mark.parametrize("allowed", [0, 1, 2])
def test_stream_ends_at_the_first_batch_that_exceeds_the_limit(threads, allowed):
    """Batches of later steps are loaded at the same time; they do not end the stream earlier."""
    planned = batches(config_of(), 30)
    met = [set(CORRUPT) & {int(i) for batch in planned[: n + 1] for i in batch["index"]}
           for n in range(30)]  # fmt: skip
    last = next(step for step, indices in enumerate(met) if len(indices) > allowed)
    config = config_of(corrupt_records=allowed, read_threads=threads)
    got = []
    with pytest.raises(corrupt_records.TooManyCorruptRecordsError, match=f"allows {allowed} "):
        for batch in loader.train_stream(records(), config):
            got.append(batch)
    assert len(got) == last
