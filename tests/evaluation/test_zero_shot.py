# SPDX-License-Identifier: Apache-2.0
"""Zero-shot accuracy, results, and the held-out split that they are computed on."""

import dataclasses
import json

import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE, Split, held_out, record, records

from mrd_jax import evaluation
from mrd_jax.data import source
from mrd_jax.evaluation import results, zero_shot
from mrd_jax.evaluation.metrics import classification

# Ranks of the true class: 1, 2, 1, 3; the last shape has no class.
EMBEDDINGS = np.stack(
    [
        3 * CHAIR + 0.1 * TABLE,
        1 * CHAIR + 2 * TABLE,
        TABLE + 0.5 * LAMP,
        3 * CHAIR + 2 * TABLE + LAMP,
        LAMP,
    ]
)


def test_accuracy_excludes_unlabelled_shapes():
    assert zero_shot.zero_shot(EMBEDDINGS, held_out()) == {
        "top1": 2 / 4,
        "top3": 1.0,
        "top5": 1.0,
        # chair 1 of 2, table 1 of 1, lamp 0 of 1.
        "mean_per_class": pytest.approx((0.5 + 1 + 0) / 3),
        "count": 4,
        "classes": 3,
    }


@pytest.mark.parametrize("chunk", [1, 3])
def test_accuracy_does_not_depend_on_the_chunk_size(chunk):
    whole = classification.label_ranks(
        zero_shot.class_scores(EMBEDDINGS, held_out())[:4], labels=np.array([0, 0, 1, 2])
    )
    np.testing.assert_array_equal(whole, [1, 2, 1, 3])
    np.testing.assert_array_equal(zero_shot.class_ranks(EMBEDDINGS, held_out(), chunk=chunk), whole)
    want = zero_shot.zero_shot(EMBEDDINGS, held_out())
    assert zero_shot.zero_shot(EMBEDDINGS, held_out(), chunk=chunk) == want


def test_non_finite_embedding_raises_even_for_an_unlabelled_shape():
    embeddings = EMBEDDINGS.copy()
    embeddings[4, 0] = np.nan
    with pytest.raises(ValueError, match="first is row 4"):
        zero_shot.zero_shot(embeddings, held_out())


def test_accuracy_does_not_depend_on_the_length_of_embeddings():
    lengths = np.array([[0.1], [10], [3], [1000], [1]])
    assert zero_shot.zero_shot(lengths * EMBEDDINGS, held_out()) == zero_shot.zero_shot(
        EMBEDDINGS, held_out()
    )


def test_embeddings_of_a_wrong_shape_raise():
    with pytest.raises(ValueError, match=r"\(4, 3\): expected \(5, 3\)"):
        zero_shot.zero_shot(EMBEDDINGS[:4], held_out())


def test_split_without_labelled_shapes_raises():
    unlabelled = dataclasses.replace(held_out(), labels=np.full(5, -1))
    with pytest.raises(ValueError, match="no held-out shape has a known class"):
        zero_shot.zero_shot(EMBEDDINGS, unlabelled)


def test_predictions_are_sorted_by_score():
    best = zero_shot.predictions(np.array([[0.1, 0.9, 0.5], [0.2, 0.2, 0.1]]), top=2)
    np.testing.assert_array_equal(best.classes, [[1, 2], [0, 1]])
    np.testing.assert_array_equal(best.scores, [[0.9, 0.5], [0.2, 0.2]])


def test_result_records_which_shapes_are_correct():
    result = results.from_embeddings(EMBEDDINGS, name=results.STUDENT, held_out=held_out())
    np.testing.assert_array_equal(result.correct, [True, False, True, False])
    assert result.metrics["top1"] == result.correct.mean()
    assert result.retrieval["points_to_text/queries"] == 5


def test_student_is_compared_with_every_method_that_has_a_result_per_shape():
    student = results.from_embeddings(EMBEDDINGS, name=results.STUDENT, held_out=held_out())
    teacher = results.from_embeddings(
        held_out().image_features, name=results.TEACHER, held_out=held_out()
    )
    chance = results.Result("chance", "", {"top1": 1 / 3})
    compared = results.compare_with_student([chance, student, teacher])
    assert list(compared) == ["teacher"]
    # Correct: student 0 and 2; teacher 0, 1 and 3. The desk's views are half chair, half table: a
    # tie, and a tie is wrong.
    assert (compared["teacher"].only_first, compared["teacher"].only_second) == (1, 2)


@pytest.mark.parametrize(
    "name, current",
    [("floor", "hand-crafted"), ("histogram", "hand-crafted"), ("ceiling", "teacher")],
)
def test_rows_of_version_0_1_are_read_under_their_current_names(name, current):
    row = results.Result(name, "", {"top1": 0.5}, np.array([True, False]))
    restored = results.from_dict(row.as_dict())
    assert restored.name == current
    np.testing.assert_array_equal(restored.correct, row.correct)


def test_image_feature_is_the_mean_of_normalised_views():
    # Views of length 2 and 5 have the same weight.
    np.testing.assert_allclose(held_out().image_features[2], [0.5, 0.5, 0])


def test_names_that_occur_twice_are_one_text():
    split = held_out()
    assert split.text_names == ("Stool", "Desk", "Torch", "Thing")
    np.testing.assert_array_equal(split.name_index, [0, 0, 1, 2, 3])
    np.testing.assert_array_equal(split.text_features[:3], [CHAIR, TABLE, LAMP])


def test_unseen_is_true_for_the_listed_shapes():
    np.testing.assert_array_equal(held_out().unseen, [False, False, True, True, False])


def test_shape_without_views_and_name_has_zero_feature_and_no_text():
    split = held_out(rows=[record("", label=0, feature=CHAIR, views=[]), *records()])
    np.testing.assert_array_equal(split.image_features[0], np.zeros(3))
    assert split.name_index[0] == -1


def test_label_out_of_range_raises():
    with pytest.raises(ValueError, match="labels run from 0 to 3: expected -1 to 2"):
        held_out(rows=[*records()[:1], record("Odd", label=3, feature=LAMP)])


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Returns a folder with evaluation files, whose splits are the example's records."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "classes.json").write_text(json.dumps(["chair", "table", "lamp"]))
    np.save(folder / "class_features.npy", 2 * np.stack([CHAIR, TABLE, LAMP]))
    (folder / "unseen_names.json").write_text(json.dumps(["d", "t"]))
    splits = {"test": records(), "train": [record("Stool", label=0, feature=CHAIR)]}
    monkeypatch.setattr(source, "open_split", lambda directory, split: Split(splits[split]))
    return tmp_path


def test_load_held_out_reads_the_evaluation_files(dataset):
    got, want = evaluation.load_held_out(dataset), held_out()
    for field in dataclasses.fields(evaluation.HeldOut):
        if field.name != "pictures":
            np.testing.assert_array_equal(getattr(got, field.name), getattr(want, field.name))
    assert got.pictures[0] == dataset / "evaluation" / "pictures" / "Stool.jpg"


def test_load_held_out_reads_the_training_split(dataset):
    assert evaluation.load_held_out(dataset, "train").ids == ("shop#Stool",)


def test_missing_file_is_named_with_the_command_that_writes_it(dataset):
    (dataset / "evaluation" / "class_features.npy").unlink()
    with pytest.raises(FileNotFoundError, match="class_features.npy is missing.*data_prep.build"):
        evaluation.load_held_out(dataset)


def test_unseen_id_outside_the_split_raises(dataset):
    (dataset / "evaluation" / "unseen_names.json").write_text(json.dumps(["d", "gone"]))
    with pytest.raises(ValueError, match="1 ids are not in the split, such as 'gone'"):
        evaluation.load_held_out(dataset)


def test_different_numbers_of_classes_and_class_features_raise(dataset):
    np.save(dataset / "evaluation" / "class_features.npy", np.eye(3)[:2])
    with pytest.raises(ValueError, match=r"shape \(2, 3\), classes.json 3 names"):
        evaluation.load_held_out(dataset)
