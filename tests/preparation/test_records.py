# SPDX-License-Identifier: Apache-2.0
"""Records on disk contain what was prepared and encoded; with a fake source and teacher."""

import dataclasses
import io
import itertools
import json
import shutil
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from array_record.python import array_record_module
from fake_data import DIM, ITEMS, POINTS, FakeTeacher, prepare_all, run_build
from ml_collections import ConfigDict
from tensorflow_datasets.proto import tf_example_pb2

from data_prep import evaluation, features, record_builder, records, shapes
from data_prep.teachers import prompts
from mrd_jax import storage
from mrd_jax.data import batch_spec, dataset_metadata, loader, picture_files, source


def test_records_contain_the_prepared_shapes_and_encoded_features(made):
    shapes_by_id, seen = prepare_all(), []
    encoded = features.encode_shapes(list(shapes_by_id.values()), FakeTeacher())

    for split in ("train", "test"):
        opened = source.open_split(made, split)
        for record in (opened[index] for index in range(len(opened))):
            shape = shapes_by_id[record["id"]]
            seen.append(shape.id)
            assert shape.catalogue == split
            for name in ("source", "name", "creator", "licence"):
                assert record[name] == getattr(shape, name)
            assert record["xyz"].dtype == np.float16 and record["rgb"].dtype == np.uint8
            np.testing.assert_array_equal(record["xyz"], shape.xyz.astype(np.float16))
            np.testing.assert_array_equal(record["rgb"], shape.rgb)
            assert record["image_kinds"] == list(shape.image_kinds)
            assert record["caption_kinds"] == [kind for kind, _ in shape.captions]
            assert record["captions"] == [text for _, text in shape.captions]
            for name, rows in zip(("image", "text"), encoded[shape.id], strict=True):
                got = record[f"{name}_features"]
                assert got.dtype == np.float16 and got.shape[1] == DIM
                np.testing.assert_array_equal(got, rows)
            assert record["label"] == {"flat": 0, "round": 1}.get(shape.label, -1)
    assert sorted(seen) == sorted(shapes_by_id)


def test_only_names_are_averaged_over_prompts():
    shape = prepare_all()["Thing #1/\u00fc"]
    _, text = features.encode_shapes([shape], FakeTeacher())[shape.id]

    prompted = [template.format("thing 0") for template in prompts.NAME_TEMPLATES]
    rows = FakeTeacher().encode_texts(prompted)
    mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(text[0], mean / np.linalg.norm(mean), atol=1e-3)
    np.testing.assert_array_equal(text[1:], FakeTeacher().encode_texts(["t1", "all"]))


@pytest.mark.parametrize("factor", [1e5, np.nan])
def test_feature_out_of_float16_range_is_rejected(factor):
    shape = prepare_all()["Thing #1/\u00fc"]
    with pytest.raises(ValueError, match="Thing #1.* non-finite in float16"):
        features.encode_shapes([shape], FakeTeacher(factor=factor))


def test_metadata_describe_the_data_set(made):
    metadata = dataset_metadata.read(made)

    assert metadata["teacher"] == {
        "name": "fake/teacher",
        "revision": "1",
        "dim": DIM,
        "kind": "clip",
        "preprocessing": "none",
    }
    assert metadata["up_axis"] == "z" and metadata["normalisation"] == "unit_sphere"
    assert metadata["points"] == POINTS and metadata["source"] == "fake"
    assert metadata["counts"] == {"train": 29, "test": 10, "classes": 2}


def test_evaluation_files_match_the_records(made):
    folder = made / "evaluation"
    read = [record for split in ("train", "test") for record in source.open_split(made, split)]

    assert json.loads((folder / "classes.json").read_text()) == ["flat", "round"]
    class_features = np.load(folder / "class_features.npy")
    assert class_features.dtype == np.float32
    np.testing.assert_array_equal(
        class_features, prompts.prompt_average(FakeTeacher(), ["flat", "round"])
    )
    # Test shapes are 0, 4, 8, ...; each shares its name with the training shape after it.
    assert json.loads((folder / "unseen_names.json").read_text()) == []
    for record in read:
        # Shape 9 has no images and therefore no picture.
        assert (record["picture"] == "") == ("#9/" in record["id"])
        if record["picture"]:
            data = picture_files.read(storage.path(folder / "pictures" / record["picture"]))
            with PIL.Image.open(io.BytesIO(data)) as image:
                assert image.format == "JPEG" and image.size == (8, 8)
    assert len({record["picture"] for record in read}) == ITEMS - 1


def test_unseen_names_are_compared_exactly():
    known = list(prepare_all().values())
    splits = {"train": [known[1].id], "test": [known[0].id, known[2].id, known[3].id]}

    assert evaluation.unseen_names(known, splits) == [known[2].id, known[3].id]


def test_pictures_of_similar_ids_have_distinct_names():
    names = {evaluation.picture_name(text).lower() for text in ("a/b", "a b", "a#b", "A/b")}
    assert len(names) == 4
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-") for name in names)


def test_thumbnail_keeps_the_aspect_ratio():
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (400, 200), (200, 30, 30)).save(buffer, "PNG")

    with PIL.Image.open(io.BytesIO(evaluation.thumbnail(buffer.getvalue()))) as image:
        assert image.size == (128, 64)
        np.testing.assert_allclose(np.asarray(image)[5, 5], (200, 30, 30), atol=6)


def test_reading_does_not_import_tensorflow(made):
    script = (
        "import sys; from mrd_jax.data import source; "
        "record = source.open_split(sys.argv[1], 'test')[3]; assert record['xyz'].any(); "
        "print([name for name in sys.modules if name.split('.')[0] == 'tensorflow'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(made)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert "tensorflow" not in sys.modules  # nor did writing, in this process


def test_missing_modalities_are_masked_in_batches_from_disk(made):
    config = ConfigDict(
        {
            "seed": 0,
            "batch_size": 29,
            "data": {
                "points": POINTS,
                "caption_kinds": (),
                "caption_groups": (),
                "caption_chances": (),
                "picture_probability": -1.0,
                "hard_negatives": 0,
                "directory": "",
                "read_threads": 0,
                "corrupt_records": 0,
                "image_positives": 1,
                "text_positives": 1,
            },
            "loss": {"relation_features": "drawn"},
            "teacher": {"dim": DIM, "name": "fake/teacher"},
        }
    )
    dataset_metadata.check(dataset_metadata.read(made), config)
    opened = source.open_split(made, "train", cache=True)
    (got,) = itertools.islice(loader.train_stream(opened, config), 1)

    for name, leaf in batch_spec.batch_spec(config).items():
        assert (got[name].shape, got[name].dtype) == (leaf.shape, leaf.dtype)
    ids = [opened[index]["id"] for index in got["index"]]
    np.testing.assert_array_equal(got["has_image"], ["#9/" not in shape_id for shape_id in ids])
    np.testing.assert_array_equal(got["has_text"], ["#10/" not in shape_id for shape_id in ids])


@pytest.mark.parametrize(
    ("section", "field", "value", "message"),
    [
        ("teacher", "name", "another", "teacher.name = 'fake/teacher'.*expects 'another'"),
        ("teacher", "dim", 512, "teacher.dim = 6.*expects 512"),
        ("data", "points", 100, "points = 24.*expects 100"),
    ],
)
def test_data_that_contradict_the_config_are_rejected(made, section, field, value, message):
    config = ConfigDict({"teacher": {"name": "", "dim": DIM}, "data": {"points": POINTS}})
    dataset_metadata.check(dataset_metadata.read(made), config)

    config[section][field] = value
    with pytest.raises(ValueError, match=message):
        dataset_metadata.check(dataset_metadata.read(made), config)


@pytest.mark.parametrize(
    ("trained", "tested", "is_noted"),
    [
        ({"source": "furniture"}, {"source": "folder", "reader_version": 2}, True),
        ({"source": "furniture", "reader_version": 2}, {"source": "furniture"}, True),
        ({"source": "furniture"}, {"source": "furniture"}, False),
        ({"source": "furniture", "reader_version": 2}, {"source": "modelnet40"}, False),
    ],
)
def test_data_sets_of_different_readers_are_noted(
    made, monkeypatch, caplog, trained, tested, is_noted
):
    metadata = dataset_metadata.read(made)
    sets = {"a": metadata | trained, "b": metadata | tested}
    monkeypatch.setattr(dataset_metadata, "read", sets.get)
    config = ConfigDict({"teacher": {"name": "", "dim": DIM}, "data": {"points": POINTS}})
    config.data.directory = "a"
    dataset_metadata.check_test_set("b", config)
    assert ("of the readers of mesh files" in caplog.text) == is_noted


@pytest.mark.parametrize("field", ["up_axis", "normalisation"])
def test_other_conventions_are_rejected(made, field):
    config = ConfigDict({"teacher": {"name": "", "dim": DIM}, "data": {"points": POINTS}})
    with pytest.raises(ValueError, match=f"{field} = 'other'"):
        dataset_metadata.check(dataset_metadata.read(made) | {field: "other"}, config)


def test_missing_data_set_or_split_is_named(made, tmp_path):
    with pytest.raises(FileNotFoundError, match="no data set in .*nowhere.*data_prep.build"):
        source.open_split(tmp_path / "nowhere", "train")
    with pytest.raises(ValueError, match=r"no split 'val'; expected one of \['test', 'train'\]"):
        source.open_split(made, "val")
    with pytest.raises(IndexError, match="record 10 of split 'test', which has 10"):
        source.open_split(made, "test")[10]


def test_slice_of_a_split_is_a_split(made):
    whole, part = source.open_split(made, "train"), source.open_split(made, "train[10:13]")
    assert [part[i]["id"] for i in range(len(part))] == [whole[i]["id"] for i in (10, 11, 12)]


def test_corrupt_record_is_named_with_its_shard(made, tmp_path):
    folder = shutil.copytree(made, tmp_path / "1.0.0")
    (shard,) = folder.glob("*-test.array_record*")
    data = bytearray(shard.read_bytes())
    opened = source.open_split(made, "test")
    position = data.find(opened[4]["xyz"].tobytes())
    assert position > 0
    data[position] ^= 255
    shard.write_bytes(data)

    corrupt = source.open_split(folder, "test")
    assert corrupt[3]["id"] == opened[3]["id"]
    with pytest.raises(RuntimeError, match=f"record 4 of {shard.name} .record 4 of split 'test'"):
        corrupt[4]
    shard.unlink()
    with pytest.raises(RuntimeError, match=f"cannot read record 0 of {shard.name}"):
        source.open_split(folder, "test")[0]


def test_shape_without_features_is_an_error(copied, monkeypatch):
    path = sorted((copied / "features").rglob("shard-*.npz"))[1]
    monkeypatch.setattr(features, "load_features", lambda path: {})
    with pytest.raises(ValueError, match="shard-0000[01].npz: no features of shape 'Thing #"):
        run_build(copied, monkeypatch, views=3, overwrite=True)
    assert path.exists() and (copied / "fake" / "1.0.0").exists()


def test_empty_split_is_rejected(tmp_path):
    plan = record_builder.Plan("x", [], {"train": ["a"], "test": []}, [], POINTS, DIM, {})
    with pytest.raises(ValueError, match="split 'test' of x has no shapes"):
        record_builder.write_records(plan, tmp_path, sidecar=None)


def test_several_record_files_keep_the_order_of_records(made, tmp_path, monkeypatch):
    monkeypatch.setattr(record_builder, "SHARDS_PER_FILE", 1)
    folder, _ = run_build(tmp_path, monkeypatch)

    assert len(list(folder.glob("*-train.array_record*"))) == 2
    one, two = source.open_split(made, "train"), source.open_split(folder, "train")
    assert [one[i]["id"] for i in range(29)] == [two[i]["id"] for i in range(29)]


def test_the_fields_of_records_are_written_in_a_fixed_order(made):
    (path,) = made.glob("*-test.array_record*")
    reader = array_record_module.ArrayRecordReader(str(path))
    (data,) = reader.read([0])
    reader.close()
    ordered = tf_example_pb2.Example.FromString(data).SerializeToString(deterministic=True)
    assert data == ordered


@pytest.mark.slow  # two processes import TFDS
def test_several_processes_write_the_same_bytes_as_one(made, tmp_path, monkeypatch):
    monkeypatch.setattr(record_builder, "SHARDS_PER_FILE", 1)
    monkeypatch.setattr(record_builder, "FILES_PER_PROCESS", 1)
    alone, _ = run_build(tmp_path / "alone", monkeypatch)
    counted = []
    run = record_builder.write_records
    monkeypatch.setattr(
        record_builder,
        "write_records",
        lambda *args, **options: run(*args, **options | {"workers": 2, "listener": counted.append}),
    )
    together, _ = run_build(tmp_path / "together", monkeypatch)

    names = sorted(str(path.relative_to(alone)) for path in alone.rglob("*") if path.is_file())
    assert sum("array_record" in name for name in names) == 4
    assert sum("pictures/" in name for name in names) == 4
    for name in names:
        assert (alone / name).read_bytes() == (together / name).read_bytes(), name
    assert (counted[-1].stage, counted[-1].done, counted[-1].finished) == ("records", 39, True)


def test_record_file_with_a_missing_shape_is_an_error(tmp_path):
    one = dataclasses.replace(next(iter(prepare_all().values())), captions=())
    shard = records.Shard(tmp_path / "shapes.npz", None, frozenset({one.id, "other"}))
    file = records.RecordFile(tmp_path / "a", tmp_path / "a.zip", (shard,), shard.ids)
    released = shapes.Released(np.ones((0, DIM), np.float16), (), np.ones((0, DIM), np.float16))
    shapes.save_shard(tmp_path / "shapes.npz", [dataclasses.replace(one, released=released)])
    with pytest.raises(ValueError, match="a: 1 shapes found in 1 shards, expected 2"):
        records.write_file(file, points=POINTS, dim=DIM, labels={})
