# SPDX-License-Identifier: Apache-2.0
"""Verification finds and locates every kind of corruption; each test causes one."""

import json
import re
import zipfile

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python import array_record_module
from fake_data import DIM, POINTS

from data_prep import checks, evaluation, records, verify
from mrd_jax.data import dataset_metadata, picture_files, source


@pytest.fixture
def folder(copied):
    return copied / "fake" / "1.0.0"


def shard(folder, split="test"):
    (path,) = folder.glob(f"*-{split}.array_record*")
    return path


def rewrite(folder, change, *, split="test", features=None):
    """Rewrites a shard after `change(records)`, where records are dicts."""
    schema = records.schema(points=POINTS, dim=DIM)
    opened = source.open_split(folder, split)
    found = [opened[index] for index in range(len(opened))]
    change(found)
    writer = array_record_module.ArrayRecordWriter(str(shard(folder, split)), "group_size:1")
    for place, record in enumerate(found):
        ours = {name: schema[name] for name in schema}
        ours |= (features or {}) if place == 3 else {}
        writer.write(tfds.features.FeaturesDict(ours).serialize_example(record))
    writer.close()


def edit(path, **changes):
    """Changes values of a JSON file; `__` in a name separates levels."""
    content = json.loads(path.read_text())
    for name, value in changes.items():
        *levels, last = name.split("__")
        place = content
        for level in levels:
            place = place[level]
        place[last] = value
    path.write_text(json.dumps(content))


def faults(folder):
    return verify.verify(folder, workers=1).faults


def assert_one(folder, *, file, reason, record=-1, shape_id=""):
    (fault,) = faults(folder)
    assert (fault.file, fault.record, fault.id) == (file, record, shape_id)
    assert re.search(reason, fault.reason), fault.reason


def test_intact_data_set_has_no_fault(made):
    report = verify.verify(made, workers=1)
    assert report.faults == [] and report.records == {"train": 29, "test": 10}
    assert report.shards == 2 and report.bytes == 2 * 131072
    assert re.search("29 train, 10 test records .* 2 shards .*: no fault$", str(report))


def test_groups_of_unknown_shapes_and_groups_in_two_splits_are_faults(folder):
    path = folder / "evaluation" / "groups.json"
    ids = {split: [record["id"] for record in source.open_split(folder, split)]
           for split in ("train", "test")}  # fmt: skip
    path.write_text(json.dumps({ids["train"][0]: "a", ids["test"][0]: "b", ids["test"][1]: "b"}))
    assert faults(folder) == []
    path.write_text(json.dumps({ids["train"][0]: "a", ids["test"][0]: "a"}))
    reason = r"1 groups are in two splits, such as 'a' in \['train', 'test'\]"
    assert_one(folder, file="evaluation/groups.json", reason=reason)
    path.write_text('{"nobody": "a"}')
    reason = "has 1 ids that no record has, such as 'nobody'"
    assert_one(folder, file="evaluation/groups.json", reason=reason)
    for text, reason in (("[]", "is not an object of ids"), ("{", "is corrupt")):
        path.write_text(text)
        assert_one(folder, file="evaluation/groups.json", reason=reason)


def test_rounding_to_float16_is_no_fault():
    rng = np.random.default_rng(0)
    for points in (2, 10_000):
        xyz = rng.normal(size=(points, 3)) * rng.lognormal(size=(points, 1))
        xyz -= xyz.mean(axis=0)
        half = (xyz / np.linalg.norm(xyz, axis=1).max()).astype(np.float16)
        assert list(checks.cloud_reasons(half)) == []


def rows(*values):
    return np.array([[value] * DIM for value in values], np.float16)


def moved(scale, shift):
    return lambda old: (old.astype(np.float32) * scale + shift).astype(np.float16)


def with_nan(old):
    return np.where(np.arange(POINTS)[:, None] == 5, np.float16(np.nan), old)


# Record 3 of the test split has two renders, a name and two tags.
@pytest.mark.parametrize(
    ("field", "change", "reason"),
    [
        ("xyz", with_nan, "xyz: 1 of 24 points are non-finite"),
        (
            "xyz",
            moved(1.003, 0),
            r"xyz: the farthest point is 1.00\d\d from the origin, expected 1",
        ),
        ("xyz", moved(0.997, 0), r"xyz: the farthest point is 0.99\d\d from the origin"),
        ("xyz", lambda old: np.abs(old), r"xyz: the mean is 0.\d+ from the origin, expected 0"),
        ("image_features", rows(1, np.nan), r"image_features: rows \[1\] of 2 are non-finite"),
        ("image_features", rows(-np.inf, 1), r"image_features: rows \[0\] of 2 are non-finite"),
        ("image_features", rows(0, 0), r"image_features: rows \[0, 1\] of 2 are zero"),
        ("text_features", rows(1, 1, 0), r"text_features: rows \[2\] of 3 are zero"),
        ("text_features", rows(1, np.inf, 1), r"text_features: rows \[1\] of 3 are non-finite"),
        ("image_features", rows(1), "image_features has 1 rows, but image_kinds 2"),
        ("image_kinds", ["render"] * 3, "image_features has 2 rows, but image_kinds 3"),
        ("captions", ["a", "b"], "text_features has 3 rows, but captions 2"),
        ("caption_kinds", ["name"] * 4, "text_features has 3 rows, but caption_kinds 4"),
        ("image_kinds", ["render", "photo"], r"image_kinds has the unknown kinds \['photo'\]"),
        ("caption_kinds", ["name", "x", "x"], r"caption_kinds has the unknown kinds \['x'\]"),
        ("label", 2, "label is 2, expected -1 or an index of the 2 classes"),
        ("label", -2, "label is -2, expected -1"),
        ("picture", "../passwd", "picture is '../passwd', expected 'Thing"),
    ],
)
def test_wrong_field_is_reported_with_its_record(folder, field, change, reason):
    def apply(found):
        assert [len(found[3][name]) for name in ("image_kinds", "captions")] == [2, 3]
        found[3][field] = change(found[3][field]) if callable(change) else change

    rewrite(folder, apply)
    assert_one(
        folder, file=shard(folder).name, record=3, shape_id="Thing #12/\u00fc", reason=reason
    )


def test_field_of_wrong_shape_is_reported_with_its_record(folder):
    def apply(found):
        found[3]["rgb"] = found[3]["rgb"][:-1]

    other = tfds.features.Tensor(
        shape=(POINTS - 1, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES
    )
    rewrite(folder, apply, features={"rgb": other})
    assert_one(folder, file=shard(folder).name, record=3, reason="be read: field 'rgb': 69 bytes")


def test_empty_and_repeated_ids_are_reported(folder):
    train = source.open_split(folder, "train")[4]["id"]

    def apply(found):
        for place, shape_id in ((0, ""), (3, found[2]["id"]), (5, train)):
            found[place] |= {"id": shape_id, "picture": ""}

    rewrite(folder, apply)
    assert [(fault.record, fault.reason) for fault in faults(folder)] == [
        (0, "id is empty"),
        (3, f"has the same id as record 2 of {shard(folder).name}"),
        (5, f"has the same id as record 4 of {shard(folder, 'train').name}"),
    ]


def flip(path, content):
    data = bytearray(path.read_bytes())
    data[data.index(content)] ^= 1
    path.write_bytes(data)


def test_corrupt_records_do_not_hide_other_faults_of_the_shard(folder):
    def apply(found):
        found[8]["label"] = 7

    rewrite(folder, apply)
    opened = source.open_split(folder, "test")
    for place in (2, 6):
        flip(shard(folder), opened[place]["xyz"].tobytes())

    found = faults(folder)
    assert [(fault.record, fault.reason[:14]) for fault in found] == [
        (2, "cannot be read"), (6, "cannot be read"), (8, "label is 7, ex"),
    ]  # fmt: skip
    assert verify.verify(folder, workers=1).records == {"train": 29, "test": 8}
    assert str(found[2]).startswith(f"{shard(folder).name}, record 8 ('Thing #")


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_or_truncated_shard_is_reported(folder, split):
    path = shard(folder, split)
    path.write_bytes(path.read_bytes()[:-500])
    assert_one(folder, file=path.name, reason="cannot be opened: .*Riegeli")
    path.unlink()
    assert_one(folder, file=path.name, reason="^is missing$")


@pytest.mark.parametrize(
    ("change", "count"),
    [(lambda found: found.append(found[0]), 11), (lambda found: found.pop(), 9)],
)
def test_shard_of_wrong_length_is_reported(folder, change, count):
    rewrite(folder, change)
    reason = f"holds {count} records, dataset_info.json says 10"
    assert_one(folder, file=shard(folder).name, reason=reason)


@pytest.mark.parametrize(
    ("changes", "file", "reason"),
    [
        ({"up_axis": "y"}, "metadata.json", "up_axis is 'y', expected 'z'"),
        ({"normalisation": "box"}, "metadata.json", "normalisation is 'box', expected 'unit_sp"),
        ({"points": "many"}, "metadata.json", "points is 'many', expected int"),
        ({"source": None}, "metadata.json", "source is None, expected str"),
        ({"teacher__revision": 3}, "metadata.json", "teacher.revision is 3, expected str"),
        ({"counts__train": 30}, "metadata.json", "counts are .*30.*, in dataset_info.json .*29"),
        ({"counts__val": 1}, "metadata.json", "counts are .*'val': 1"),
        ({"counts__classes": 3}, "metadata.json", "counts.classes is 3, but .* has 2 names"),
    ],
)
def test_wrong_metadata_are_reported(folder, changes, file, reason):
    edit(folder / "metadata.json", **changes)
    assert_one(folder, file=file, reason=reason)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"points": 25}, ["rgb", "xyz"]),
        ({"teacher__dim": 7}, ["image_features", "text_features"]),
    ],
)
def test_schema_that_contradicts_the_metadata_is_reported(folder, changes, names):
    edit(folder / "metadata.json", **changes)
    found = faults(folder)
    assert [fault.file for fault in found] == ["features.json"] * 2
    assert [fault.reason.split()[0] for fault in found] == names


def test_missing_metadata_are_reported(folder):
    (folder / "metadata.json").write_text("{}")
    assert [(fault.file, fault.reason.split()[0]) for fault in faults(folder)] == [
        ("metadata.json", name) for name in sorted(["counts.classes", *checks.METADATA])
    ]


@pytest.mark.parametrize("name", dataset_metadata.INFO_FILES)
def test_corrupt_description_file_is_reported(folder, name):
    (folder / name).write_text("{")
    assert_one(folder, file="1.0.0", reason=f"{name} is corrupt")


def test_split_with_wrong_record_count_is_reported(folder):
    path = folder / "dataset_info.json"
    path.write_text(path.read_text().replace('"10"', '"12"'))
    found = [(fault.file, fault.reason) for fault in faults(folder)]
    assert (shard(folder).name, "holds 10 records, dataset_info.json says 12") in found


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("classes.json", None, "is missing"),
        ("classes.json", "[", "is corrupt: Expecting value"),
        ("classes.json", '["flat", 3]', "is not a list of texts"),
        ("classes.json", '["flat", "flat"]', "lists 'flat' more than once"),
        ("unseen_names.json", None, "is missing"),
        ("unseen_names.json", "{}", "is not a list of texts"),
        ("unseen_names.json", '["Thing"]', "1 ids contradict the records' names, such as 'Thin"),
    ],
)
def test_wrong_evaluation_lists_are_reported(folder, name, content, reason):
    path = folder / "evaluation" / name
    path.write_text(content) if content else path.unlink()
    assert_one(folder, file=f"evaluation/{name}", reason=reason)


def test_unlisted_unseen_name_is_reported(folder):
    def apply(found):
        found[3]["name"] = "unseen name"

    rewrite(folder, apply)
    assert_one(folder, file="evaluation/unseen_names.json", reason="1 ids .*such as 'Thing #12/")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda old: old[:1], r"is float32 \[1, 6\], expected float32 \[2, 6\]"),
        (lambda old: old.astype(np.float64), r"is float64 \[2, 6\]"),
        (lambda old: old * np.float32([[1.0], [1.001]]), "row 1 has norm 1.001000, expected 1"),
        (lambda old: old * np.float32([[np.nan], [1.0]]), "row 0 has norm nan"),
    ],
)
def test_wrong_class_features_are_reported(folder, change, reason):
    path = folder / "evaluation" / "class_features.npy"
    np.save(path, change(np.load(path)))
    assert_one(folder, file="evaluation/class_features.npy", reason=reason)


def test_unreadable_class_features_are_reported(folder):
    path = folder / "evaluation" / "class_features.npy"
    path.write_bytes(b"\x93NUMPY")
    assert_one(folder, file="evaluation/class_features.npy", reason="is corrupt: ")
    path.unlink()
    assert_one(folder, file="evaluation/class_features.npy", reason="is missing")


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: None, "is missing from evaluation/pictures"),
        (lambda data: data[:-20], "is corrupt: "),
        (lambda data: b"picture", "is corrupt: cannot identify"),
    ],
)
def test_wrong_picture_is_reported_with_its_record(folder, damage, reason):
    shape_id = "Thing #12/\u00fc"
    path, name = folder / "evaluation/pictures/test-00000.zip", evaluation.picture_name(shape_id)
    with zipfile.ZipFile(path) as file:
        pictures = {member: file.read(member) for member in file.namelist()}
    pictures[name] = damage(pictures[name])
    with picture_files.Writer(path) as writer:
        for member, data in pictures.items():
            if data is not None:
                writer.add(member, data)
    assert_one(folder, file=shard(folder).name, record=3, shape_id=shape_id, reason=reason)


def test_corrupt_zip_file_is_reported_with_each_record_of_it(folder):
    path = folder / "evaluation/pictures/test-00000.zip"
    path.write_bytes(path.read_bytes()[:-30])
    assert {fault.reason.rpartition(": ")[2] for fault in faults(folder)} == {
        "File is not a zip file"
    }
    assert len(faults(folder)) == 10


def test_several_processes_find_the_same_faults_as_one(folder, monkeypatch):
    def apply(found):
        found[3]["label"], found[9]["id"] = 9, found[3]["id"]

    rewrite(folder, apply)
    alone = verify.verify(folder, workers=1)
    monkeypatch.setattr(verify, "RECORDS_PER_PART", 7)
    monkeypatch.setattr(verify, "RECORDS_PER_PROCESS", 20)

    together = verify.verify(folder, workers=2)

    assert together.faults == alone.faults and len(alone.faults) == 3
    assert together.records == alone.records


def test_command_prints_every_fault_and_returns_status_1(made, folder, capsys):
    assert verify.main([str(made), "--workers", "1"]) == 0
    shard(folder).unlink()
    assert verify.main([str(folder), str(made), "--workers", "1"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[-1] for line in lines] == [
        "no fault", "is missing", "1 fault", "no fault",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: the following arguments are required: directory"),
        (["--unknown"], "error: the following arguments are required: directory"),
        (["{made}", "{made}/evaluation"], "error: no data set in .*/evaluation'"),
        (["{made}", "--workers", "0"], "error: argument --workers: expected an integer of at"),
    ],
)
def test_command_without_a_data_set_returns_status_2(made, arguments, message, capsys):
    try:
        status = verify.main([argument.format(made=made) for argument in arguments])
    except SystemExit as stopped:
        status = stopped.code
    out, err = capsys.readouterr()
    assert status == 2 and out == ""
    assert re.match(message, err) and len(err.splitlines()) <= 2, err
