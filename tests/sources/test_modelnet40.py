# SPDX-License-Identifier: Apache-2.0
"""The source `modelnet40` in its three published formats, written here by hand."""

import json
import os

import h5py
import numpy as np
import openshape_release as release
import pytest
from fake_data import FakeTeacher

from data_prep import build, build_flags, shapes, teachers
from data_prep.foreign import safe_pickle
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import off
from data_prep.sources import modelnet40, published
from mrd_jax.data import source
from mrd_jax.evaluation import held_out_split, zero_shot

POINTS = 24
# In the order of the released features, which is not sorted.
CLASSES = ["sofa", "night stand", "airplane"]
SQUARE = "OFF\n4 2 0\n0 0 0\n2 0 0\n2 2 0\n0 2 0\n3 0 1 2\n3 0 2 3\n"


def run(root, *, teacher="released", points=POINTS, **changes):
    options = {"execution": build_flags.Execution(workers=0), "output": root / "out"} | changes
    return build.build(
        build.Options(source="modelnet40", input=root, teacher=teacher, points=points, **options)
    )


def records(folder, split="test"):
    opened = source.open_split(folder, split)
    return [opened[i] for i in range(len(opened))]


def write_class_features(folder, names=CLASSES):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = {name: {"open_clip_text_feat": release.features(rng, 1)} for name in names}
    np.save(folder / "cat_name_pt_feat.npy", rows)
    return np.concatenate([row["open_clip_text_feat"] for row in rows.values()])


def write_released(folder, *, change=None):
    """Writes OpenShape's three files; returns (clouds, class features). One cloud has colours."""
    rng = np.random.default_rng(2)
    names = ["airplane_0627", "sofa_0681", "night_stand_0201"]
    categories = ["airplane", "sofa", "night stand"]
    entries = [
        {"name": name, "category": category}
        for name, category in zip(names, categories, strict=True)
    ]
    clouds = [
        {"xyz": rng.normal(size=(30, 3)), "rgb": np.full((30, 3), 100)},
        {"xyz": rng.normal(size=(30, 3)), "rgb": rng.integers(0, 256, (30, 3))},
        {"xyz": rng.normal(size=(30, 3)).astype(np.float32), "rgb": np.full((30, 3), 100.0)},
    ]
    if change:
        change(entries, clouds)
    features = write_class_features(folder)
    np.save(folder / "test_pc.npy", np.array(clouds, dtype=object))
    release.write_json(folder / "test_split.json", entries)
    return clouds, features


@pytest.mark.parametrize(
    ("place", "workers"), [("", 0), ("modelnet40", 2), ("meta_data/modelnet40", 0)]
)
def test_the_released_clouds_become_records_in_the_order_of_the_list(tmp_path, place, workers):
    clouds, features = write_released(tmp_path / place)
    folder = run(tmp_path, execution=build_flags.Execution(workers=workers))
    got = records(folder)
    ids = ["airplane_0627", "sofa_0681", "night_stand_0201"]
    assert [record["id"] for record in got] == ids
    assert [CLASSES[record["label"]] for record in got] == ["airplane", "sofa", "night stand"]
    for shape_id, cloud, record in zip(ids, clouds, got, strict=True):
        kept = release.chosen(shape_id, count=30, points=POINTS)
        want = release.expected_cloud(cloud["xyz"][kept], y_up=True)
        np.testing.assert_allclose(record["xyz"], want, atol=5e-4)
        assert record["image_features"].shape == record["text_features"].shape == (0, 1280)
        assert record["captions"] == record["caption_kinds"] == record["image_kinds"] == []
    # OpenShape stores 100 for clouds without colour, which means 0.4 of 255.
    assert (got[0]["rgb"] == 102).all() and (got[2]["rgb"] == 102).all()
    kept = release.chosen("sofa_0681", count=30, points=POINTS)
    np.testing.assert_array_equal(got[1]["rgb"], clouds[1]["rgb"][kept])

    assert json.loads((folder / "evaluation" / "classes.json").read_text()) == CLASSES
    want = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(
        np.load(folder / "evaluation" / "class_features.npy"), want, atol=1e-6
    )


def test_evaluation_works_without_names_images_and_image_features(tmp_path):
    _, features = write_released(tmp_path)
    loaded = held_out_split.load_held_out(run(tmp_path))
    assert not loaded.image_features.any() and (loaded.name_index == -1).all()
    assert zero_shot.zero_shot(features[loaded.labels], loaded)["top1"] == 1
    assert zero_shot.zero_shot(-features[loaded.labels], loaded)["top1"] == 0


def duplicate_id(entries, clouds):
    entries[1]["name"] = entries[0]["name"]


def drop_points(entries, clouds):
    clouds[1]["xyz"] = clouds[1]["xyz"][:20]


def insert_nan(entries, clouds):
    clouds[1]["xyz"][3] = np.nan


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (duplicate_id, "id listed before"),
        (drop_points, "fewer than 24 points"),
        (insert_nan, "non-finite coordinates"),
    ],
)
def test_an_unusable_cloud_is_skipped_and_counted(tmp_path, capsys, change, reason):
    write_released(tmp_path, change=change)
    got = records(run(tmp_path))
    printed = capsys.readouterr().out
    assert f"skipped, {reason}: 1\n" in printed
    assert "1 classes have no shape and stay among the names: sofa" in printed
    assert [record["id"] for record in got] == ["airplane_0627", "night_stand_0201"]


def unknown_class(entries, clouds):
    entries[1]["category"] = "canoe"


def drop_cloud(entries, clouds):
    clouds.pop()


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("ran",)


def insert_exploit(entries, clouds):
    clouds[1]["rgb"] = Exploit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (unknown_class, r"cat_name_pt_feat.npy: no feature of the classes \['canoe'\]"),
        (drop_cloud, "test_pc.npy: 2 entries; expected a dict for each of the 3 shapes"),
        (insert_exploit, "test_pc.npy: refused: the pickle uses posix.mkdir"),
    ],
)
def test_inconsistent_or_malicious_released_files_are_errors(
    tmp_path, monkeypatch, change, message
):
    monkeypatch.chdir(tmp_path)
    write_released(tmp_path, change=change)
    with pytest.raises(ValueError, match=message):
        run(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("row", [None, {}, {"open_clip_text_feat": ["a", "b"]}])
def test_the_error_for_invalid_class_features_names_the_class(tmp_path, row):
    write_released(tmp_path)
    np.save(tmp_path / "cat_name_pt_feat.npy", {"sofa": row})
    with pytest.raises(ValueError, match="cat_name_pt_feat.npy: the feature of class 'sofa' is"):
        run(tmp_path)


@pytest.mark.parametrize("name", ["test_split.json", "test_pc.npy"])
def test_the_error_for_a_missing_released_file_names_it(tmp_path, name):
    write_released(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        run(tmp_path)


def write_off(root, path, text):
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def write_off_folders(root):
    """Writes two classes and an empty one; some headers have no line break before the counts."""
    write_off(root, "ModelNet40/night_stand/test/night_stand_0201.off", SQUARE)
    joined = SQUARE.replace("OFF\n", "OFF").replace("2 2 0\n", "2 2 8\n")
    write_off(root, "ModelNet40/night_stand/train/night_stand_0001.off", joined)
    write_off(root, "ModelNet40/airplane/test/airplane_0627.off", joined)
    (root / "ModelNet40/sofa/test").mkdir(parents=True)


def test_off_files_are_sampled_on_their_surface_in_both_splits(tmp_path, capsys):
    write_off_folders(tmp_path)
    write_class_features(tmp_path)
    folder = run(tmp_path, points=400)
    got = records(folder)
    assert [record["id"] for record in got] == ["airplane_0627", "night_stand_0201"]
    assert [CLASSES[record["label"]] for record in got] == ["airplane", "night stand"]
    assert [record["id"] for record in records(folder, "train")] == ["night_stand_0001"]
    assert "1 classes have no shape and stay among the names: sofa" in capsys.readouterr().out

    flat = got[1]["xyz"].astype(np.float64)
    assert np.abs(flat[:, 2]).max() < 1e-3  # the square is in the plane z = 0
    # Both triangles are sampled uniformly: the covariance of a square is a multiple of I.
    covariance = np.cov(flat[:, :2].T)
    np.testing.assert_allclose(covariance / covariance[0, 0], np.eye(2), atol=0.25)
    np.testing.assert_allclose(flat.mean(axis=0), 0, atol=1e-3)
    assert (got[1]["rgb"] == 102).all()


def test_a_shape_gives_the_same_cloud_whether_published_with_y_up_or_z_up():
    z_up = np.random.default_rng(0).normal(size=(30, 3))
    x, y, z = z_up.T
    y_up = np.stack([x, z, -y], axis=1)  # the quarter turn from z up to y up
    options = {"points": 20, "seed": 0, "shape_id": "a"}
    got, _ = published.make_cloud(z_up, None, **options, y_up=False)
    want, _ = published.make_cloud(y_up, None, **options, y_up=True)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_without_released_features_a_teacher_embeds_the_class_names(tmp_path, monkeypatch):
    write_off_folders(tmp_path)
    with pytest.raises(ValueError, match="no released features of the class names of modelnet40"):
        run(tmp_path)
    monkeypatch.setattr(teachers, "load_teacher", lambda *args, **kwargs: FakeTeacher())
    monkeypatch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
    folder = run(tmp_path, teacher="fake/teacher")
    names = json.loads((folder / "evaluation" / "classes.json").read_text())
    assert names == ["airplane", "night_stand", "sofa"]
    assert [names[record["label"]] for record in records(folder)] == ["airplane", "night_stand"]


def test_labels_are_updated_when_released_features_are_added_later(tmp_path, monkeypatch):
    write_off_folders(tmp_path)
    monkeypatch.setattr(teachers, "load_teacher", lambda *args, **kwargs: FakeTeacher())
    monkeypatch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)
    run(tmp_path, teacher="fake/teacher")
    write_class_features(tmp_path)
    got = records(run(tmp_path, overwrite=True))
    assert [CLASSES[record["label"]] for record in got] == ["airplane", "night stand"]


def from_smallest(triangle):
    """Returns the corners as tuples, beginning with the smallest one, in their order."""
    corners = [tuple(corner) for corner in triangle.tolist()]
    first = corners.index(min(corners))
    return tuple(corners[first:] + corners[:first])


@pytest.mark.parametrize(
    "text",
    [
        SQUARE,
        SQUARE.replace("OFF\n", "OFF"),
        SQUARE.replace("OFF\n", "OFF "),
        SQUARE.replace("OFF\n", "# made by hand\nOFF\n\n").replace("\n", "\r\n"),
        SQUARE.replace("4 2 0", "4 2"),
        SQUARE.replace("3 0 1 2\n", "3 0 1 2 255 0 0\n"),
        SQUARE.replace("4 2 0", "4 1 0").replace("3 0 1 2\n3 0 2 3\n", "4 0 1 2 3\n"),
        SQUARE + "\n\n",
    ],
)
def test_all_variants_of_the_off_format_are_parsed_alike(text):
    found = off.read(text.encode(), assets=Assets({}.get, folder=""), file_type="off")
    triangles = np.concatenate([part.triangles for part in found.parts])
    a, b, c, d = (0, 0, 0), (2, 0, 0), (2, 2, 0), (0, 2, 0)
    assert sorted(map(from_smallest, triangles)) == [(a, b, c), (a, c, d)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty file"),
        ("ply\n4 2 0\n", "malformed OFF: it does not start with OFF"),
        ("OFF", "malformed OFF: no counts of vertices and faces"),
        ("OFFfour 2 0\n", "malformed OFF: it does not start with OFF"),
        ("OFF\nfour 2 0\n", "malformed OFF: no counts of vertices and faces"),
        ("OFF\n-4 2 0\n", "malformed OFF: no counts of vertices and faces"),
        (SQUARE[:-20], "the file is truncated; faces found: 0 of 2"),
        (SQUARE[:-30], "the file is truncated; vertices found: 2 of 4"),
        ("OFF\n4 0 0\n" + SQUARE[10:34], "no faces"),
        (SQUARE.replace("2 2 0\n", "2 x 0\n"), "expected a number, found 'x'"),
        (SQUARE.replace("2 2 0\n", "2 2\n"), "malformed OFF: a vertex without three coordinates"),
        (SQUARE.replace("2 2 0\n", "2 nan 0\n"), "non-finite coordinates"),
        (
            SQUARE.replace("3 0 2 3", "3 0 2"),
            "malformed OFF: a face has fewer corners than it counts",
        ),
        (SQUARE.replace("3 0 2 3", "3 0 2 4"), "a face names a vertex that does not exist"),
        (SQUARE.replace("3 0 2 3", "3 0 2 -1"), "a face names a vertex that does not exist"),
    ],
)
def test_the_reason_to_skip_a_malformed_off_file(tmp_path, text, reason):
    write_off(tmp_path, "a.off", text)
    item = modelnet40.OffItem("a", "test", "chair", variant="off", path=str(tmp_path / "a.off"))
    with pytest.raises(shapes.SkipShape, match=f"^{reason}$"):
        item.read(points=4, rng=np.random.default_rng(0))


def test_malformed_off_files_are_skipped_and_counted(tmp_path, capsys):
    write_off_folders(tmp_path)
    write_class_features(tmp_path)
    write_off(tmp_path, "ModelNet40/sofa/test/sofa_0681.off", SQUARE[:-20])
    write_off(tmp_path, "ModelNet40/sofa/test/sofa_0682.off", SQUARE.replace("2", "0"))
    assert len(records(run(tmp_path))) == 2
    printed = capsys.readouterr().out
    assert "skipped, the file is truncated; faces found: 0 of 2: 1\n" in printed
    assert "5 items read, 3 shapes in the cache (0 items found prepared), 2 skipped" in printed


def write_hdf5(root, *, names=("airplane", "night_stand", "sofa")):
    """Writes files like those of PointNet's authors; returns {id: cloud} of all splits."""
    folder = root / "modelnet40_ply_hdf5_2048"
    folder.mkdir(parents=True)
    (folder / "shape_names.txt").write_text("".join(f"{name}\n" for name in names))
    rng = np.random.default_rng(3)
    clouds = {}
    for stem, labels in {"test0": [2, 0], "test1": [1], "train0": [1, 1]}.items():
        data = rng.normal(size=(len(labels), 2048, 3)).astype(np.float32)
        with h5py.File(folder / f"ply_data_{stem}.h5", "w") as file:
            file.create_dataset("data", data=data, compression="gzip")
            file.create_dataset("label", data=np.array(labels, np.uint8)[:, None])
            file.create_dataset("normal", data=np.zeros_like(data))
        clouds |= {f"ply_data_{stem}/{row:05d}": cloud for row, cloud in enumerate(data)}
    return clouds


def test_hdf5_rows_become_records_in_the_order_of_the_files(tmp_path):
    clouds = write_hdf5(tmp_path)
    write_class_features(tmp_path)
    folder = run(tmp_path, points=2048)
    got = records(folder)
    ids = ["ply_data_test0/00000", "ply_data_test0/00001", "ply_data_test1/00000"]
    assert [record["id"] for record in got] == ids
    assert [CLASSES[record["label"]] for record in got] == ["sofa", "airplane", "night stand"]
    assert [CLASSES[r["label"]] for r in records(folder, "train")] == ["night stand"] * 2
    for record in got:
        kept = release.chosen(record["id"], count=2048, points=2048)
        want = release.expected_cloud(clouds[record["id"]][kept], y_up=True)
        np.testing.assert_allclose(record["xyz"], want, atol=5e-4)
        assert (record["rgb"] == 102).all()


def test_requesting_more_points_than_an_hdf5_file_has_is_an_error(tmp_path):
    write_hdf5(tmp_path)
    write_class_features(tmp_path)
    with pytest.raises(ValueError, match=r"test0.h5: clouds of 2048 points.*pass --points 2048"):
        run(tmp_path, points=10_000)


def test_hdf5_labels_out_of_range_and_missing_class_names_are_errors(tmp_path):
    write_hdf5(tmp_path, names=("airplane", "night_stand"))
    write_class_features(tmp_path)
    with pytest.raises(ValueError, match="ply_data_test0.h5: label 2, expected 0 to 1"):
        run(tmp_path)
    (tmp_path / "modelnet40_ply_hdf5_2048/shape_names.txt").unlink()
    with pytest.raises(ValueError, match="shape_names.txt is missing"):
        run(tmp_path)


def test_the_error_for_a_corrupt_hdf5_file_names_it(tmp_path):
    write_hdf5(tmp_path)
    write_class_features(tmp_path)
    path = tmp_path / "modelnet40_ply_hdf5_2048/ply_data_test1.h5"
    with h5py.File(path, "w") as file:
        file["data"] = np.zeros((3, 5, 2))
        file["label"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"test1.h5: data \[3, 5, 2\] and 3 labels"):
        run(tmp_path)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="ply_data_test1.h5: not a valid HDF5 file"):
        run(tmp_path)


def test_a_folder_without_a_format_or_with_two_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"found \[\].*test_split.json"):
        run(tmp_path)
    write_hdf5(tmp_path)
    write_off_folders(tmp_path)
    with pytest.raises(ValueError, match=r"in one format, found \['hdf5', 'off'\]"):
        run(tmp_path)


def test_shapes_are_prepared_again_when_the_format_changes(tmp_path):
    write_off_folders(tmp_path / "one")
    write_class_features(tmp_path / "one")
    write_released(tmp_path / "two")
    run(tmp_path / "one", output=tmp_path / "out")
    folder = run(tmp_path / "two", output=tmp_path / "out", overwrite=True)
    assert [record["id"] for record in records(folder)][1] == "sofa_0681"
    assert safe_pickle.load(tmp_path / "two/test_pc.npy")[1]["rgb"].max() > 102
