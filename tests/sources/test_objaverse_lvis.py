# SPDX-License-Identifier: Apache-2.0
"""The source `objaverse_lvis`: records, classes and evaluation of the released layout."""

import json

import numpy as np
import openshape_release as release
import pytest
from fake_data import DIM, FakeTeacher

from data_prep import build, build_flags, teachers
from mrd_jax.data import dataset_metadata, source
from mrd_jax.evaluation import held_out_split, retrieval, zero_shot

POINTS = 16
# In the order of the list.
CATEGORIES = ["zebra", "Bible", "bat_(animal)", "Bible", "ambulance"]
CLASSES = ["Bible", "ambulance", "bat_(animal)", "zebra"]


def write(root, *, categories=CATEGORIES):
    """Writes the list, the files and the class features; returns (shapes, class features)."""
    data = [release.shape(f"u{n}") for n in range(len(categories))]
    for shape in data:
        release.write_shape(root, shape)
    entries = [
        {"uid": shape["id"], "category": category, "group": "000-001"}
        | {"data_path": release.path_of(shape)}
        for shape, category in zip(data, categories, strict=True)
    ]
    release.write_json(root / "meta_data/split/lvis.json", entries)
    features = release.features(np.random.default_rng(1), len(set(categories)))
    np.save(root / "meta_data/lvis_cat_name_pt_feat.npy", features)
    return data, features


def run(root, *, teacher="released", **changes):
    options = {"points": POINTS, "execution": build_flags.Execution(workers=0)} | changes
    return build.build(
        build.Options(
            source="objaverse_lvis", input=root, output=root / "out", teacher=teacher, **options
        )
    )


def records(folder):
    opened = source.open_split(folder, "test")
    return [opened[i] for i in range(len(opened))]


def test_records_hold_points_features_and_classes(tmp_path):
    data, _ = write(tmp_path)
    got = records(run(tmp_path))
    assert [record["id"] for record in got] == ["u0", "u1", "u2", "u3", "u4"]
    assert [CLASSES[record["label"]] for record in got] == CATEGORIES
    for shape, record in zip(data, got, strict=True):
        kept = release.chosen(shape["id"], count=release.CLOUD, points=POINTS)
        want = release.expected_cloud(shape["xyz"][kept], y_up=True)
        np.testing.assert_allclose(record["xyz"], want, atol=5e-4)
        np.testing.assert_array_equal(record["rgb"], np.rint(shape["rgb"][kept] * 255))
        images = np.vstack([shape["image_feat"], shape["thumbnail_feat"]]).astype(np.float16)
        np.testing.assert_array_equal(record["image_features"], images)
        assert record["caption_kinds"] == ["name", "blip", "msft", "retrieved", "retrieved"]


def test_classes_are_sorted_and_their_features_have_unit_norm(tmp_path):
    _, features = write(tmp_path)
    folder = run(tmp_path) / "evaluation"
    assert json.loads((folder / "classes.json").read_text()) == CLASSES
    want = features / np.sqrt((features.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(np.load(folder / "class_features.npy"), want, atol=1e-6)


def test_evaluation_works_without_images_and_without_a_training_split(tmp_path):
    data, features = write(tmp_path)
    loaded = held_out_split.load_held_out(run(tmp_path))
    assert loaded.names == tuple(shape["text"][0] for shape in data)
    assert not loaded.unseen.any() and not any(path.is_file() for path in loaded.pictures)

    # Embeddings that equal the class features are always correct.
    embeddings = features[loaded.labels]
    assert zero_shot.zero_shot(embeddings, loaded)["top1"] == 1
    found = retrieval.retrieval(loaded.image_features, loaded)
    assert found["points_to_image/recall@1"] == 1
    assert not any(key.startswith("unseen/") for key in found)


def test_another_teacher_embeds_class_names_without_underscores(tmp_path, monkeypatch):
    write(tmp_path)
    (tmp_path / "meta_data/lvis_cat_name_pt_feat.npy").unlink()
    teacher, prompts = FakeTeacher(), []
    encode = teacher.encode_texts
    monkeypatch.setattr(
        teacher, "encode_texts", lambda texts: prompts.extend(texts) or encode(texts)
    )
    monkeypatch.setattr(teachers, "load_teacher", lambda *args, **kwargs: teacher)
    monkeypatch.setattr("data_prep.teachers.names.check", lambda *args, **kwargs: None)

    folder = run(tmp_path, teacher="fake/teacher")

    assert {"Bible", "ambulance", "bat (animal)", "zebra"} <= set(prompts)
    assert np.load(folder / "evaluation" / "class_features.npy").shape == (4, DIM)
    for record in records(folder):
        assert record["image_features"].shape == (0, DIM) and record["image_kinds"] == []
        assert record["text_features"].shape == (5, DIM)
    loaded = held_out_split.load_held_out(folder)
    assert not loaded.image_features.any()
    found = retrieval.retrieval(np.ones((5, DIM)), loaded)
    assert found and not any("image" in key for key in found)


def test_released_features_must_exist_and_lit_cannot_be_trained(tmp_path):
    write(tmp_path)
    (tmp_path / "meta_data/lvis_cat_name_pt_feat.npy").unlink()
    with pytest.raises(
        ValueError, match="no released features of the class names of objaverse_lvis"
    ):
        run(tmp_path)
    with pytest.raises(ValueError, match="no images to train a teacher on"):
        run(tmp_path, teacher="lit")


def test_a_class_without_shapes_remains_a_class_and_is_printed(tmp_path, capsys):
    write(tmp_path)
    (tmp_path / "Objaverse/000-001/u0.npy").unlink()
    folder = run(tmp_path)
    printed = capsys.readouterr().out
    assert "skipped, file missing: 1" in printed
    assert "1 classes have no shape and stay among the names: zebra" in printed
    assert json.loads((folder / "evaluation" / "classes.json").read_text()) == CLASSES
    assert dataset_metadata.read(folder)["counts"] == {"test": 4, "classes": 4}


def corrupt(features, kind):
    if kind == "rows":
        return features[:3]
    if kind == "dim":
        return features[:, :512]
    changed = features.copy()
    changed[1] = np.nan if kind == "nan" else 0
    return changed


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("rows", "3 features, expected one for each of 4 classes"),
        ("dim", r"class 'Bible' is float32 \[512\], expected 1280 floats"),
        ("nan", r"class 'ambulance' is float32 \[1280\], expected 1280 floats, all finite"),
        ("zero", r"class 'ambulance' is float32 \[1280\], .* all finite and not all zero"),
    ],
)
def test_the_error_for_invalid_class_features_names_the_class(tmp_path, kind, message):
    _, features = write(tmp_path)
    np.save(tmp_path / "meta_data/lvis_cat_name_pt_feat.npy", corrupt(features, kind))
    with pytest.raises(ValueError, match=f"lvis_cat_name_pt_feat.npy: .*{message}"):
        run(tmp_path)


def test_changed_class_features_require_overwrite(tmp_path):
    _, features = write(tmp_path)
    run(tmp_path)
    np.save(tmp_path / "meta_data/lvis_cat_name_pt_feat.npy", -features)
    with pytest.raises(ValueError, match="--overwrite"):
        run(tmp_path)
    got = np.load(run(tmp_path, overwrite=True) / "evaluation" / "class_features.npy")
    assert (np.sum(got * features, axis=1) < 0).all()


def test_a_duplicate_id_is_skipped_and_counted(tmp_path, capsys):
    write(tmp_path)
    path = tmp_path / "meta_data/split/lvis.json"
    entries = json.loads(path.read_text())
    release.write_json(path, [*entries, entries[1] | {"category": "zebra"}])
    got = records(run(tmp_path))
    assert "skipped, id listed before: 1" in capsys.readouterr().out
    assert [CLASSES[record["label"]] for record in got] == CATEGORIES
