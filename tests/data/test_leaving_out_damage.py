# SPDX-License-Identifier: Apache-2.0
"""Damaged records of the training split stop a run, or are left out up to a number."""

import itertools
import json
import types

import numpy as np
import pytest
from test_loader import RECORDS, batches, config_of, raw_record
from tiny import tiny_config

from mrd_jax.data import batch_spec, corrupt_records, loader, source
from mrd_jax.data.hard_negatives import index as neighbour_index
from mrd_jax.report import final
from mrd_jax.training import run as run_lib

BROKEN = (7, 21, 30)


class Damaged(dict):
    """A record of which only the id can be read."""

    def __getitem__(self, name):
        if name != "id":
            raise ValueError("checksum does not match")
        return super().__getitem__(name)


def records(broken=BROKEN) -> source.RecordSource:
    """Two shards of 20 records each."""
    found = [(Damaged if i in broken else dict)(raw_record(i)) for i in range(RECORDS)]
    shards = [("a-0-of-2", 20), ("a-1-of-2", 20)]
    return source.RecordSource(
        found, shards=shards, directory="made/up", split="train", cache=False
    )


def stream(count, config, *, broken=BROKEN, **options):
    return list(itertools.islice(loader.train_stream(records(broken), config, **options), count))


def test_by_default_the_first_damaged_record_stops_the_stream_with_its_shard_and_place():
    with pytest.raises(corrupt_records.TooManyCorruptRecordsError) as caught:
        stream(30, config_of())
    found = str(caught.value)
    assert "record 1 of a-1-of-2 (record 21 of split 'train'): checksum does not match" in found
    assert "config.data.corrupt_records lets 0 damaged records" in found


def test_only_the_rows_of_damaged_records_change_and_each_becomes_another_whole_record():
    config = config_of(corrupt_records=3)
    replaced = 0
    for step, (got, meant) in enumerate(zip(stream(30, config), batches(config, 30), strict=True)):
        spec = batch_spec.batch_spec(config)
        assert {n: (a.shape, a.dtype) for n, a in got.items()} == {
            name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()
        }
        for row in range(4):
            if meant["index"][row] not in BROKEN:
                for name in got:
                    np.testing.assert_array_equal(got[name][row], meant[name][row])
                continue
            replaced += 1
            index = got["index"][row]
            assert index not in BROKEN and index not in meant["index"]
            assert (got["rgb"][row] == index).all() and got["label"][row] == index - 1
            assert got["epoch"][row] == -1 - step
    assert replaced == 3 * 3  # three epochs


@pytest.mark.parametrize("processes", [2, 4])
def test_what_stands_in_depends_on_the_step_alone_not_on_processes_or_the_start(processes):
    config = config_of(corrupt_records=3)
    whole = stream(20, config)
    options = {"start_step": 4, "process_count": processes}
    parts = [stream(16, config, process_index=i, **options) for i in range(processes)]
    for got, want in zip(zip(*parts, strict=True), whole[4:], strict=True):
        for name in want:
            joined = np.concatenate([part[name] for part in got])
            np.testing.assert_array_equal(joined, want[name])


def test_another_seed_puts_other_records_in_the_place():
    def stand_ins(seed):
        config = config_of(seed=seed, corrupt_records=3)
        return [i for got in stream(30, config) for i in got["index"][got["epoch"] < 0]]

    assert stand_ins(0) != stand_ins(1)


def test_one_damaged_record_more_than_allowed_stops_the_stream():
    with pytest.raises(
        corrupt_records.TooManyCorruptRecordsError, match="lets 2 damaged.*this is one more"
    ):
        stream(10, config_of(corrupt_records=2))


def test_a_split_without_any_whole_record_stops():
    with pytest.raises(
        corrupt_records.TooManyCorruptRecordsError, match="every record of the split is damaged"
    ):
        stream(1, config_of(corrupt_records=RECORDS), broken=range(RECORDS))


def test_no_stand_in_repeats_a_record_of_a_batch_with_hard_negatives():
    nearest = np.stack([(i + np.arange(1, 9)) % RECORDS for i in range(RECORDS)]).astype(np.int32)
    near = neighbour_index.Neighbours(nearest, fingerprint="", split="train", feature="image")
    config = config_of(batch_size=16, hard_negatives=8, corrupt_records=3)
    found = stream(20, config, neighbours=near)
    assert sum((got["epoch"][:8] < 0).sum() for got in found) > 4
    for got in found:
        assert len(set(got["index"].tolist())) == 16


def test_each_damaged_record_is_logged_once_and_counted_from_its_step_on(caplog):
    config = config_of(corrupt_records=3)
    lost = corrupt_records.CorruptRecords(records(), config)
    stream(30, config, corrupt=lost)
    assert sorted(record.args[0] for record in caplog.records) == [
        "shape 21",
        "shape 30",
        "shape 7",
    ]
    assert "record shape 21 is damaged and left out, 1 of at most 3" in caplog.messages[0]
    assert "record 1 of a-1-of-2" in caplog.messages[0]
    first = {
        index: next(s for s, got in enumerate(batches(config, 30)) if index in got["index"])
        for index in BROKEN
    }
    for step in range(11):
        assert lost.count(step) == sum(met <= step for met in first.values())


def test_a_restart_goes_on_counting(tmp_path, caplog):
    config = config_of(corrupt_records=3)
    lost = corrupt_records.CorruptRecords(records(), config, workdir=tmp_path)
    stream(10, config, corrupt=lost)
    caplog.clear()

    again = corrupt_records.CorruptRecords(records(), config, workdir=tmp_path, process_index=1)
    stream(10, config, corrupt=again)
    assert [again.count(step) for step in range(10)] == [lost.count(step) for step in range(10)]
    assert not caplog.records
    with pytest.raises(corrupt_records.TooManyCorruptRecordsError):
        stream(10, config, corrupt=again, broken=(*BROKEN, 8))
    lines = (tmp_path / "corrupt_records.0.jsonl").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {"shape 7", "shape 21", "shape 30"}
    assert not (tmp_path / "corrupt_records.1.jsonl").exists()


def test_a_negative_number_is_refused():
    with pytest.raises(ValueError, match="corrupt_records is -1; expected 0, .* or how many"):
        run_lib.build_run(tiny_config(data__corrupt_records=-1))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_kinds", [b"render"], "1 image_kinds of 3 image_features"),
        ("caption_kinds", [], "0 caption_kinds of 4 text_features"),
        ("label", 2**31, "label 2147483648, expected -1 to 2147483647"),
        ("label", -2, "label -2, expected -1"),
    ],
)
def test_a_record_that_contradicts_itself_is_damaged(field, value, message):
    contradicts = source.RecordSource(
        [raw_record(0) | {field: value}] * 4,
        shards=[("a", 4)],
        directory="made/up",
        split="train",
        cache=False,
    )
    with pytest.raises(
        corrupt_records.TooManyCorruptRecordsError, match=f"of a .record . of split.*{message}"
    ):
        next(loader.train_stream(contradicts, config_of()))


def test_nothing_is_measured_on_a_training_split_that_is_damaged(copied, caplog):
    folder = copied / "made_up" / "1.0.0"
    (shard,) = folder.glob("*-train.array_record-00000*")
    data = bytearray(shard.read_bytes())
    data[data.index(source.open_split(folder, "train")[6]["xyz"].tobytes())] ^= 1
    shard.write_bytes(data)

    def evaluator(allowed):
        config = tiny_config(data__directory=str(folder), data__corrupt_records=allowed)
        return types.SimpleNamespace(config=config, embed=lambda variables, records: [*records])

    assert final.gallery_of(evaluator(1), {}) == (None, None)
    assert f"training split, which is damaged: cannot read record 6 of {shard.name}" in caplog.text
    with pytest.raises(source.CorruptRecordError):
        final.gallery_of(evaluator(0), {})
