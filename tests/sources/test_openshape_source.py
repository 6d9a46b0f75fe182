# SPDX-License-Identifier: Apache-2.0
"""The source `openshape`: records, resuming, and invalid files of the released layout."""

import dataclasses
import json
import os
import pickle

import numpy as np
import openshape_release as release
import pytest

from data_prep import build, build_flags, prepare, shapes, sources
from data_prep.foreign import safe_pickle
from data_prep.sources import openshape
from mrd_jax.data import dataset_metadata, source

POINTS = 16


def run(root, output, *, name="openshape", teacher="released", **changes):
    options = {"points": POINTS, "execution": build_flags.Execution(workers=0)} | changes
    return build.build(
        build.Options(source=name, input=root, output=output, teacher=teacher, **options)
    )


def records(folder, split="train"):
    opened = source.open_split(folder, split)
    return [opened[i] for i in range(len(opened))]


def four_shapes():
    """Returns two shapes of Objaverse, whose names are filtered, and two of other data sets."""
    return [
        release.shape("u1", names=2),
        release.shape("u2", retrieved=0, blip_caption=""),
        release.shape("s1", dataset="ShapeNet", names=3),
        release.shape("a1", dataset="ABO", points=30),
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("release")
    release.write_training(root, four_shapes(), rejected=["u2", "s1"])
    return run(root, root / "out")


def test_points_and_colours_match_the_files(built):
    for data, record in zip(four_shapes(), records(built), strict=True):
        kept = release.chosen(data["id"], count=len(data["xyz"]), points=POINTS)
        want = release.expected_cloud(data["xyz"][kept], y_up=True)
        np.testing.assert_allclose(record["xyz"], want, atol=5e-4)
        np.testing.assert_array_equal(record["rgb"], np.rint(data["rgb"][kept] * 255))


def test_image_features_are_the_views_and_the_thumbnail_of_objaverse(built):
    for data, record in zip(four_shapes(), records(built), strict=True):
        want, kinds = data["image_feat"], ["render"] * 12
        if data["dataset"] == "Objaverse":
            want, kinds = np.vstack([want, data["thumbnail_feat"]]), [*kinds, "picture"]
        assert record["image_kinds"] == kinds
        np.testing.assert_array_equal(record["image_features"], want.astype(np.float16))
        assert record["picture"] == ""


def test_captions_have_the_kinds_and_features_of_openshape(built):
    u1, u2, s1, a1 = four_shapes()
    want = {
        "u1": [("name", "u1 name 0", u1["text_feat"][0]["prompt_avg"])],
        "u2": [("name_rejected", "u2 name 0", u2["text_feat"][0]["prompt_avg"])],
        # The filter applies to Objaverse only.
        "s1": [("name", f"s1 name {n}", s1["text_feat"][n]["prompt_avg"]) for n in range(3)],
        "a1": [("name", "a1 name 0", a1["text_feat"][0]["prompt_avg"])],
    }
    for data, record in zip((u1, u2, s1, a1), records(built), strict=True):
        rows = want[data["id"]]
        for kind in ("blip", "msft"):
            if data[f"{kind}_caption"]:
                feature = data[f"{kind}_caption_feat"]["prompt_avg"]
                rows.append((kind, data[f"{kind}_caption"], feature))
        retrieved = zip(data["retrieval_text"], data["retrieval_text_feat"], strict=True)
        rows += [("retrieved", text, versions["original"]) for text, versions in retrieved]
        assert record["caption_kinds"] == [kind for kind, _, _ in rows]
        assert record["captions"] == [text for _, text, _ in rows]
        features = np.concatenate([feature for _, _, feature in rows]).astype(np.float16)
        np.testing.assert_array_equal(record["text_features"], features)
        assert record["name"] == rows[0][1] and record["label"] == -1


def test_records_keep_the_order_of_the_list_and_name_their_data_set(built):
    got = [(record["id"], record["source"]) for record in records(built)]
    names = ["openshape/Objaverse", "openshape/Objaverse", "openshape/ShapeNet", "openshape/ABO"]
    assert got == list(zip(["u1", "u2", "s1", "a1"], names, strict=True))


def test_the_metadata_describe_the_teacher_of_the_release(built):
    metadata = dataset_metadata.read(built)
    assert metadata["teacher"]["name"] == "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
    assert (metadata["teacher"]["dim"], metadata["teacher"]["kind"]) == (1280, "clip")
    assert (metadata["up_axis"], metadata["normalisation"]) == ("z", "unit_sphere")
    assert metadata["from_y_up"] == "swap"
    assert (metadata["points"], metadata["counts"]) == (POINTS, {"train": 4, "classes": 0})
    assert json.loads((built / "evaluation" / "classes.json").read_text()) == []


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("openshape_no_lvis", "train_no_lvis.json"),
        ("openshape_shapenet", "ablation/train_shapenet_only.json"),
    ],
)
def test_the_other_training_lists_are_sources(tmp_path, name, split):
    release.write_training(tmp_path, [release.shape("s7", dataset="ShapeNet")], split=split)
    assert [r["id"] for r in records(run(tmp_path, tmp_path / "out", name=name))] == ["s7"]


def test_a_second_run_does_nothing_and_records_do_not_depend_on_workers(tmp_path, capsys):
    release.write_training(tmp_path, four_shapes())
    first = run(tmp_path, tmp_path / "one")
    run(tmp_path, tmp_path / "one")
    assert "nothing to do" in capsys.readouterr().out
    second = run(tmp_path, tmp_path / "two", execution=build_flags.Execution(workers=2))
    for one, two in zip(records(first), records(second), strict=True):
        for key, value in one.items():
            np.testing.assert_array_equal(value, two[key])


def test_an_interrupted_import_resumes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "ITEMS_PER_SHARD", 1)
    release.write_training(tmp_path, four_shapes())
    read, original = [], safe_pickle.load

    def load(path):
        if len(read) == 2:
            raise KeyboardInterrupt
        read.append(path.name)
        return original(path)

    with monkeypatch.context() as broken:
        broken.setattr(safe_pickle, "load", load)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, tmp_path / "out")
    assert read == ["u1.npy", "u2.npy"] and not (tmp_path / "out" / "openshape").exists()
    capsys.readouterr()

    got = records(run(tmp_path, tmp_path / "out"))
    assert "4 items read, 4 shapes in the cache (2 items found prepared)" in capsys.readouterr().out
    whole = records(run(tmp_path, tmp_path / "whole"))
    for one, two in zip(got, whole, strict=True):
        np.testing.assert_array_equal(one["image_features"], two["image_features"])
        assert one["id"] == two["id"]


def test_a_changed_filter_requires_overwrite(tmp_path):
    release.write_training(tmp_path, four_shapes())
    assert records(run(tmp_path, tmp_path / "out"))[0]["caption_kinds"][0] == "name"
    release.write_training(tmp_path, four_shapes(), rejected=["u1"])
    with pytest.raises(ValueError, match="--overwrite"):
        run(tmp_path, tmp_path / "out")
    folder = run(tmp_path, tmp_path / "out", overwrite=True)
    assert records(folder)[0]["caption_kinds"][0] == "name_rejected"


class Exploit:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_malicious_pickle_stops_the_import_and_is_named(tmp_path, workers):
    created = tmp_path / "created"
    data = four_shapes()
    data[2]["msft_caption_feat"] = Exploit(created)
    release.write_training(tmp_path, data)
    kind = safe_pickle.UnsafePickleError if workers == 0 else RuntimeError
    with pytest.raises(kind, match=r"ShapeNet/s1\.npy: refused: the pickle uses posix.system"):
        run(tmp_path, tmp_path / "out", execution=build_flags.Execution(workers=workers))
    assert not created.exists() and not (tmp_path / "out" / "openshape").exists()


def test_unsafe_pickle_error_can_be_pickled():
    error = safe_pickle.UnsafePickleError("a.npy: refused")
    assert str(pickle.loads(pickle.dumps(error))) == "a.npy: refused"


def test_unusable_shapes_are_skipped_and_counted_by_reason(tmp_path, capsys):
    same = np.zeros((release.CLOUD, 3))
    nan = np.full((release.CLOUD, 3), np.nan)
    no_features = {"image_feat": None, "thumbnail_feat": None, "text": [], "text_feat": []}
    no_features |= {"blip_caption": "", "msft_caption": "", "retrieval_text": []}
    no_features |= {"retrieval_text_feat": []}
    changes = {
        "fewer than 16 points": {"points": 15},
        "non-finite coordinates": {"xyz": nan},
        "all points coincide": {"xyz": same},
        "xyz is not numbers [points, 3]": {"xyz": np.zeros((release.CLOUD, 4))},
        "rgb is not numbers [points, 3]": {"rgb": np.zeros((5, 3))},
        "colours outside 0..1": {"rgb": np.full((release.CLOUD, 3), 100.0)},
        "a feature is not 1280 numbers": {"image_feat": np.zeros((12, 512), np.float32)},
        "text and its features differ in number": {"text": ["a", "b"]},
        "a text without its feature 'prompt_avg'": {"blip_caption_feat": {}},
        "no features": no_features,
    }
    data = [release.shape(f"bad{n}", **change) for n, change in enumerate(changes.values())]
    data += [release.shape("good"), release.shape("good"), release.shape("gone")]
    release.write_training(tmp_path, data)
    (tmp_path / "Objaverse/000-001/gone.npy").unlink()

    folder = run(tmp_path, tmp_path / "out")

    printed = capsys.readouterr().out
    for reason in [*changes, "file missing", "id listed before"]:
        assert f"skipped, {reason}: 1\n" in printed
    assert "13 items read, 1 shapes in the cache (0 items found prepared), 12 skipped" in printed
    assert " bytes, " in printed
    assert [record["id"] for record in records(folder)] == ["good"]


def test_unusable_features_are_dropped_with_their_captions_and_counted(tmp_path, capsys):
    data = release.shape("u1", retrieved=3)
    data["image_feat"][3] = 0
    data["thumbnail_feat"][7] = np.inf
    data["retrieval_text_feat"][1]["original"][0, 5] = np.nan
    data["blip_caption"] = "  "
    release.write_training(tmp_path, [data])
    release.write_json(tmp_path / "meta_data/gpt4_filtering.json", {})

    (record,) = records(run(tmp_path, tmp_path / "out"))

    printed = capsys.readouterr().out
    assert "kept, left out a feature that is not finite: 2\n" in printed
    assert "kept, left out a feature that is zero: 1\n" in printed
    assert "kept, left out an empty text: 1\n" in printed
    assert "kept, name not in the GPT-4 filter: 1\n" in printed
    assert record["image_kinds"] == ["render"] * 11
    kept = np.delete(data["image_feat"], 3, axis=0).astype(np.float16)
    np.testing.assert_array_equal(record["image_features"], kept)
    assert record["caption_kinds"] == ["name", "msft", "retrieved", "retrieved"]
    last = data["retrieval_text_feat"][2]["original"].astype(np.float16)
    np.testing.assert_array_equal(record["text_features"][-1:], last)


def test_the_error_for_a_missing_list_or_filter_names_the_searched_paths(tmp_path):
    with pytest.raises(ValueError, match="no meta_data/split/train_all.json or split/train_all"):
        run(tmp_path, tmp_path / "out")
    release.write_training(tmp_path, four_shapes())
    (tmp_path / "meta_data/gpt4_filtering.json").unlink()
    with pytest.raises(ValueError, match="no meta_data/gpt4_filtering.json.*meta_data.zip"):
        run(tmp_path, tmp_path / "out")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not a JSON file"),
        ("[]", "expected a list of shapes"),
        ('{"id": 1}', "expected a list of shapes"),
        ('[{"id": "a", "dataset": "b", "group": 3}]', "entry 0 has no string 'group'"),
    ],
)
def test_an_invalid_list_is_an_error(tmp_path, content, message):
    release.write_training(tmp_path, four_shapes())
    (tmp_path / "meta_data/split/train_all.json").write_text(content)
    with pytest.raises(ValueError, match=f"train_all.json: .*{message}"):
        run(tmp_path, tmp_path / "out")


def test_an_invalid_filter_is_an_error(tmp_path):
    release.write_training(tmp_path, four_shapes())
    (tmp_path / "meta_data/gpt4_filtering.json").write_text('{"u1": "N"}')
    with pytest.raises(ValueError, match="gpt4_filtering.json: not a filter"):
        run(tmp_path, tmp_path / "out")


def test_a_listed_path_is_located_by_its_longest_suffix_and_never_outside_the_folder(tmp_path):
    for place in ("ABO/x.npy", "x.npy"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).touch()
    assert openshape.locate(tmp_path, "/mnt/data/ABO/x.npy") == tmp_path / "ABO/x.npy"
    assert openshape.locate(tmp_path, "elsewhere/x.npy") == tmp_path / "x.npy"
    with pytest.raises(ValueError, match="leaves its archive"):
        openshape.locate(tmp_path / "ABO", "../x.npy")
    assert openshape.locate(tmp_path, "y.npy") is None


def test_a_file_that_is_added_later_is_prepared_by_the_next_run(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(prepare, "ITEMS_PER_SHARD", 2)
    release.write_training(tmp_path, four_shapes())
    (tmp_path / "ABO/a1.npy").rename(tmp_path / "later")
    assert len(records(run(tmp_path, tmp_path / "out"))) == 3
    run(tmp_path, tmp_path / "out")
    assert "(4 items found prepared), 1 skipped" in capsys.readouterr().out
    (tmp_path / "later").rename(tmp_path / "ABO/a1.npy")
    folder = run(tmp_path, tmp_path / "out", overwrite=True)
    assert "(2 items found prepared), 0 skipped" in capsys.readouterr().out
    assert [record["id"] for record in records(folder)] == ["u1", "u2", "s1", "a1"]


def test_an_import_without_any_shape_is_an_error(tmp_path):
    release.write_training(tmp_path, four_shapes())
    for path in tmp_path.rglob("*.npy"):
        path.unlink()
    with pytest.raises(ValueError, match="every listed shape was skipped"):
        run(tmp_path, tmp_path / "out")


def test_an_incompatible_teacher_is_an_error(tmp_path):
    with pytest.raises(
        ValueError, match="openshape has features but no images.*--teacher released"
    ):
        run(tmp_path, tmp_path / "out", teacher="openai/clip-vit-base-patch32")
    with pytest.raises(ValueError, match="furniture has no released features"):
        run(tmp_path, tmp_path / "out", name="furniture")


def test_a_shard_can_mix_shapes_with_and_without_released_features(tmp_path):
    release.write_training(tmp_path, four_shapes())
    origin = sources.SOURCES["openshape"]
    settings = {"points": POINTS, "views": 1, "image_size": 8, "seed": 0}
    saved = [origin.prepare(item, **settings) for item in origin.items(tmp_path)]
    saved[1] = dataclasses.replace(saved[1], released=None)
    shapes.save_shard(tmp_path / "shard.npz", saved)
    loaded = shapes.load_shard(tmp_path / "shard.npz")
    assert loaded[1].released is None
    for index in (0, 2, 3):
        for field in ("image", "image_kinds", "text"):
            np.testing.assert_array_equal(
                getattr(loaded[index].released, field), getattr(saved[index].released, field)
            )


@pytest.mark.parametrize("field", ["image", "image_kinds", "text"])
def test_a_changed_feature_changes_the_fingerprint_of_its_shape(tmp_path, field):
    release.write_training(tmp_path, four_shapes())
    origin = sources.SOURCES["openshape"]
    item = origin.items(tmp_path)[0]
    shape = origin.prepare(item, points=POINTS, views=1, image_size=8, seed=0)
    value = getattr(shape.released, field)
    other = value[::-1] if field == "image_kinds" else -value
    changed = dataclasses.replace(shape.released, **{field: other})
    changed = dataclasses.replace(shape, released=changed)
    assert shapes.fingerprint(changed) != shapes.fingerprint(shape)
