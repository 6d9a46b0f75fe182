# SPDX-License-Identifier: Apache-2.0
"""Data sets that the study derives: folds, fractions, wrong and missing captions."""

import dataclasses
import json

import numpy as np
import pytest
from fake_data import POINTS

from benchmarks.study import derived, joined
from benchmarks.study.derived import Derivation, Entry
from mrd_jax.data import dataset_metadata, source
from mrd_jax.evaluation import held_out_split


def entries(series=60, per_series=4):
    """Series of equal size in six classes: 3 in 5 for training, 1 each for the other splits."""
    split = ("train", "train", "train", "validation", "test")
    return [
        Entry(split[s // 6 % 5], s * per_series + i, f"{s}/{i}", f"name {s}", f"series {s}", s % 6)
        for s in range(series)
        for i in range(per_series)
    ]


def ids(members):
    return {entry.id for entry in members}


def test_folds_test_every_shape_but_those_of_validation_once():
    found = [derived.splits(entries(), Derivation(fold=fold)) for fold in range(derived.FOLDS)]
    tested = [entry.id for fold in found for entry in fold["test"]]
    assert sorted(tested) == sorted(e.id for e in entries() if e.split != "validation")
    assert ids(found[0]["test"]) == {e.id for e in entries() if e.split == "test"}
    for fold in found:
        groups = [{entry.group for entry in fold[split]} for split in ("train", "test")]
        assert not groups[0] & groups[1]
        assert ids(fold["train"]) | ids(fold["test"]) == ids(entries())
    # 36 training series of six classes in four folds.
    assert [len(fold["test"]) for fold in found[1:]] == [36] * 4


def test_every_class_is_dealt_to_the_folds_evenly():
    for fold in range(1, derived.FOLDS):
        labels = [e.label for e in derived.splits(entries(), Derivation(fold=fold))["test"]]
        assert np.bincount(labels, minlength=6).min() >= 4


def test_fractions_are_nested_and_keep_whole_groups():
    found = {
        fraction: derived.splits(entries(), Derivation(fraction=fraction))["train"]
        for fraction in (0.1, 0.3, 1.0)
    }
    assert ids(found[0.1]) < ids(found[0.3]) < ids(found[1.0])
    # 48 series: a tenth is 4.8 of them.
    assert [len(members) / 4 for members in found.values()] == [5, 14, 48]
    other = derived.splits(entries(), Derivation(fraction=0.1, seed=1))["train"]
    assert ids(other) != ids(found[0.1])


def test_wrong_captions_come_from_another_group_and_class():
    train = derived.splits(entries(), Derivation())["train"]
    by_id = {entry.id: entry for entry in train}
    changed = derived.donors(train, Derivation(wrong_captions=0.3, missing_captions=0.5))
    wrong = {shape_id: donor for shape_id, donor in changed.items() if donor}
    assert len(wrong) == round(0.3 * len(train))
    assert sum(donor is None for donor in changed.values()) == round(0.5 * len(train))
    for shape_id, donor in wrong.items():
        assert donor.group != by_id[shape_id].group
        assert donor.label != by_id[shape_id].label


def test_a_group_in_two_splits_is_refused():
    crossing = [*entries(), dataclasses.replace(entries()[0], id="x", split="test")]
    with pytest.raises(ValueError, match="'series 0' is in the splits"):
        derived.splits(crossing, Derivation())


def test_derived_records_differ_in_their_captions_alone(copied, made, tmp_path):
    directory = copied / made.parent.name / made.name
    found = source.open_split(directory, "train")
    groups = {record["id"]: f"series {i // 2}" for i, record in enumerate(found)}
    (directory / "evaluation" / "groups.json").write_text(json.dumps(groups))
    derivation = Derivation(wrong_captions=0.25, missing_captions=0.25)
    folder = derived.write(directory, tmp_path / "derived", derivation)
    before = {record["id"]: record for record in found}
    after = {record["id"]: record for record in source.open_split(folder, "train")}
    assert after.keys() == before.keys()
    same = sum(before[i]["captions"] == after[i]["captions"] for i in before)
    assert len(before) / 2 - 1 <= same <= len(before) / 2 + 2
    for shape_id, record in after.items():
        assert len(record["captions"]) == len(record["text_features"])
        donors = [r for r in before.values() if r["captions"] == record["captions"]]
        if record["captions"]:
            np.testing.assert_array_equal(record["text_features"], donors[0]["text_features"])
        for field in ("xyz", "rgb", "image_features", "label", "licence"):
            np.testing.assert_array_equal(record[field], before[shape_id][field])
    test = [record["captions"] for record in source.open_split(folder, "test")]
    assert test == [record["captions"] for record in source.open_split(directory, "test")]


def test_a_derived_fold_can_be_evaluated_and_is_not_written_twice(copied, made, tmp_path):
    directory = copied / made.parent.name / made.name
    folder = derived.write(directory, tmp_path, Derivation(fold=2))
    train, test = (held_out_split.load_held_out(folder, split) for split in ("train", "test"))
    unseen = [name not in set(train.names) for name in test.names]
    assert test.unseen.tolist() == unseen and any(unseen) and not all(unseen)
    counts = dataset_metadata.read(folder)["counts"]
    assert (counts["train"], counts["test"]) == (len(train.ids), len(test.ids))
    assert test.pictures[0].parent.parent.is_dir()
    fingerprints = [
        dataset_metadata.fingerprint(dataset_metadata.read(d)) for d in (directory, folder)
    ]
    assert len(set(fingerprints)) == 2
    written = (folder / "metadata.json").stat().st_mtime_ns
    assert derived.write(directory, tmp_path, Derivation(fold=2)) == folder
    assert (folder / "metadata.json").stat().st_mtime_ns == written
    assert derived.read_groups(directory)[test.ids[0]] == test.creators[0]


def test_joined_data_has_the_training_shapes_of_both(made, tmp_path, monkeypatch):
    first, second = made, derived.write(made, tmp_path / "other", Derivation(fold=1))
    metadata = dataset_metadata.read

    folder = joined.write(first, second, tmp_path / "joined")
    found = list(source.open_split(folder, "train"))
    expected = [list(source.open_split(each, "train")) for each in (first, second)]
    assert [record["id"] for record in found] == [r["id"] for each in expected for r in each]
    for record, original in zip(found, [*expected[0], *expected[1]], strict=True):
        for field in ("xyz", "rgb", "image_features", "text_features"):
            np.testing.assert_array_equal(record[field], original[field])
    assert [record["label"] for record in found[: len(expected[0])]] == [
        record["label"] for record in expected[0]
    ]
    assert {record["label"] for record in found[len(expected[0]) :]} == {-1}
    assert dataset_metadata.read(folder)["counts"]["train"] == len(found)

    written = (folder / "metadata.json").stat().st_mtime_ns
    assert joined.write(first, second, tmp_path / "joined") == folder
    assert (folder / "metadata.json").stat().st_mtime_ns == written
    with pytest.raises(ValueError, match="was derived from other data"):
        joined.write(second, first, tmp_path / "joined")

    def changed(**fields):
        monkeypatch.setattr(
            dataset_metadata,
            "read",
            lambda folder: metadata(folder) | (fields if folder == second else {}),
        )

    changed(points=POINTS // 2)
    shorter = source.open_split(joined.write(first, second, tmp_path / "shorter"), "train")
    np.testing.assert_array_equal(shorter[0]["xyz"], expected[0][0]["xyz"][: POINTS // 2])
    assert shorter[len(shorter) - 1]["rgb"].shape == (POINTS // 2, 3)
    changed(teacher=metadata(second)["teacher"] | {"revision": "other"})
    with pytest.raises(ValueError, match="has text encoder = .*, other': expected data sets"):
        joined.write(first, second, tmp_path / "third")
    changed(up_axis="y")
    with pytest.raises(ValueError, match="has up_axis = 'z' and .* 'y': expected"):
        joined.write(first, second, tmp_path / "third")
