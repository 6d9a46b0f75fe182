# SPDX-License-Identifier: Apache-2.0
"""The source `scanobjectnn`: OpenShape's file and the HDF5 files of the authors."""

import json
import os

import h5py
import numpy as np
import openshape_release as release
import pytest
from fake_data import DIM, FakeTeacher

from data_prep import build, build_flags, sources, teachers
from mrd_jax.data import source

POINTS = 24
NAMES = ["bag", "bin", "box", "cabinet", "chair", "desk", "display", "door"]
NAMES += ["shelf", "table", "bed", "pillow", "sink", "sofa", "toilet"]


def run(root, *, name="scanobjectnn", teacher="released", points=POINTS, **changes):
    options = {"execution": build_flags.Execution(workers=0)} | changes
    return build.build(
        build.Options(
            source=name, input=root, output=root / "out", teacher=teacher, points=points, **options
        )
    )


def records(folder, split="test"):
    opened = source.open_split(folder, split)
    return [opened[i] for i in range(len(opened))]


def write_class_features(folder, names=NAMES):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = {name: {"open_clip_text_feat": release.features(rng, 1)} for name in names}
    np.save(folder / "cat_name_pt_feat.npy", rows)


def write_released(folder, **changes):
    """Writes OpenShape's file; returns its content."""
    rng = np.random.default_rng(1)
    content = {"xyz": rng.normal(size=(4, 30, 3)).astype(np.float32)}
    content |= {"label": np.array([14, 0, 4, 4])} | changes
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "xyz_label.npy", content)
    write_class_features(folder)
    return content


@pytest.mark.parametrize("place", ["", "meta_data/scanobjectnn"])
def test_the_released_clouds_become_grey_records_in_order(tmp_path, place):
    content = write_released(tmp_path / place)
    folder = run(tmp_path)
    got = records(folder)
    assert [NAMES[record["label"]] for record in got] == ["toilet", "bag", "chair", "chair"]
    assert [record["id"] for record in got] == [f"xyz_label/{n:05d}" for n in range(4)]
    for cloud, record in zip(content["xyz"], got, strict=True):
        kept = release.chosen(record["id"], count=30, points=POINTS)
        want = release.expected_cloud(cloud[kept], y_up=True)
        np.testing.assert_allclose(record["xyz"], want, atol=5e-4)
        assert (record["rgb"] == 102).all()
    assert json.loads((folder / "evaluation" / "classes.json").read_text()) == NAMES


def test_released_colours_are_kept(tmp_path):
    content = write_released(tmp_path, rgb=np.random.default_rng(2).random((4, 30, 3)))
    for colours, record in zip(content["rgb"], records(run(tmp_path)), strict=True):
        kept = release.chosen(record["id"], count=30, points=POINTS)
        np.testing.assert_array_equal(record["rgb"], np.rint(colours[kept] * 255))


def test_clouds_of_different_sizes_are_read(tmp_path, capsys):
    clouds = np.empty(4, dtype=object)
    clouds[:] = [np.random.default_rng(n).normal(size=(30 - 5 * n, 3)) for n in range(4)]
    write_released(tmp_path, xyz=clouds)
    assert len(records(run(tmp_path))) == 2
    assert "skipped, fewer than 24 points: 2\n" in capsys.readouterr().out


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("ran",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": np.array([1, 2])}, "4 clouds, 2 labels and 4 colours"),
        ({"label": np.array([0, 1, 2, 15])}, "label 15, expected 0 to 14"),
        ({"label": np.array([0, 1, 2, -1])}, "label -1, expected 0 to 14"),
        ({"label": np.array([0, 1, 2, 0.5])}, "label 0.5, expected 0 to 14"),
        ({"note": Exploit()}, "refused: the pickle uses posix.mkdir"),
    ],
)
def test_an_inconsistent_or_malicious_released_file_is_an_error(
    tmp_path, monkeypatch, changes, message
):
    monkeypatch.chdir(tmp_path)
    write_released(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"xyz_label.npy: {message}"):
        run(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_features_of_another_number_of_classes_are_an_error(tmp_path):
    write_released(tmp_path)
    write_class_features(tmp_path, NAMES[:14])
    with pytest.raises(ValueError, match="cat_name_pt_feat.npy: 14 classes, expected the 15"):
        run(tmp_path)


# Variant -> file of its authors.
FILES = {
    "obj_bg": "main_split/test_objectdataset.h5",
    "obj_only": "main_split_nobg/test_objectdataset.h5",
    "pb_t25": "main_split/test_objectdataset_augmented25_norot.h5",
    "pb_t25_r": "main_split/test_objectdataset_augmented25rot.h5",
    "pb_t50_r": "main_split/test_objectdataset_augmentedrot.h5",
    "pb_t50_rs": "main_split/test_objectdataset_augmentedrot_scale75.h5",
}


def write_hdf5(path, labels, *, seed=0):
    data = np.random.default_rng(seed).normal(size=(len(labels), 2048, 3)).astype(np.float32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["data"] = data
        file["label"] = np.array(labels, np.int32)
        file["mask"] = np.zeros((len(labels), 2048), np.int32)
    return data


def test_every_variant_reads_its_file(tmp_path):
    write_class_features(tmp_path)
    data = {
        variant: write_hdf5(tmp_path / "h5_files" / name, [seed, 14], seed=seed)
        for seed, (variant, name) in enumerate(FILES.items())
    }
    for seed, variant in enumerate(FILES):
        got = records(run(tmp_path, name=f"scanobjectnn_{variant}"))
        assert [record["label"] for record in got] == [seed, 14]
        for cloud, record in zip(data[variant], got, strict=True):
            kept = release.chosen(record["id"], count=2048, points=POINTS)
            want = release.expected_cloud(cloud[kept], y_up=True)
            np.testing.assert_allclose(record["xyz"], want, atol=5e-4)
            assert (record["rgb"] == 102).all()
    assert {f"scanobjectnn_{v}" for v in FILES} == {
        name for name in sources.SOURCES if name.startswith("scanobjectnn_")
    }


def test_the_training_file_becomes_the_training_split(tmp_path, monkeypatch):
    monkeypatch.setattr(teachers, "load_teacher", lambda *args, **kwargs: FakeTeacher())
    monkeypatch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
    write_hdf5(tmp_path / FILES["pb_t50_rs"], [3])
    train = FILES["pb_t50_rs"].replace("test_", "training_")
    write_hdf5(tmp_path / train, [5, 6])
    folder = run(tmp_path, name="scanobjectnn_pb_t50_rs", teacher="fake/teacher")
    assert [NAMES[record["label"]] for record in records(folder)] == ["cabinet"]
    assert [NAMES[r["label"]] for r in records(folder, "train")] == ["desk", "display"]
    assert np.load(folder / "evaluation" / "class_features.npy").shape == (15, DIM)


def test_files_with_and_without_background_are_not_confused(tmp_path):
    nobg = tmp_path / "main_split_nobg"
    write_hdf5(nobg / "test_objectdataset.h5", [1])
    write_class_features(nobg)
    assert len(records(run(nobg, name="scanobjectnn_obj_only"))) == 1
    with pytest.raises(ValueError, match="no main_split/test_objectdataset.h5"):
        run(nobg, name="scanobjectnn_obj_bg")


def test_the_error_for_a_missing_file_names_the_available_variants(tmp_path, monkeypatch):
    monkeypatch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match="no xyz_label.npy of OpenShape in it$"):
        run(tmp_path, teacher="fake/teacher")
    for variant in ("obj_only", "pb_t50_r"):
        write_hdf5(tmp_path / FILES[variant], [1])
    with pytest.raises(ValueError, match=r"\['scanobjectnn_obj_only', 'scanobjectnn_pb_t50_r'\]"):
        run(tmp_path, teacher="fake/teacher")
    with pytest.raises(ValueError, match="no main_split/test_objectdataset_augmented25rot.h5"):
        run(tmp_path, name="scanobjectnn_pb_t25_r", teacher="fake/teacher")
