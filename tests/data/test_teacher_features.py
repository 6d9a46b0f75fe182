# SPDX-License-Identifier: Apache-2.0
"""Several positives per sample, and means of the teacher's features."""

import collections
import itertools

import numpy as np
import pytest
from test_loader import POINTS, RECORDS, batches, config_of, raw_record, records

from configs import base
from mrd_jax.data import batch_spec, captions, source, teacher_features, views
from mrd_jax.training import calibration

# Ways to draw the images and captions of a record; kinds repeat, so that they are not uniform.
IMAGES = ["render", "picture", "render", "render", "picture"]
CAPTIONS = ["name", "tags", "blip", "tags", "msft", "tags"]
CAPTION_RULES = [
    {},
    {"caption_kinds": ("tags", "blip")},
    {"caption_groups": (("name",), ("blip", "msft"), ("retrieved",))},
    {"caption_groups": (("name",), ("tags", "msft")), "caption_chances": (1.0, 3.0)},
    {"caption_kinds": ("description",)},
]


def assert_frequencies(draw, probabilities, *, count=4000):
    """Compares frequencies of draws with probabilities, within four standard deviations."""
    counts = collections.Counter(draw() for _ in range(count))
    frequencies = np.array([counts[i] / count for i in range(len(probabilities))])
    spread = np.sqrt(probabilities * (1 - probabilities) / count)
    np.testing.assert_array_less(np.abs(frequencies - probabilities), 4 * spread + 1e-9)
    assert abs(sum(probabilities) + counts[None] / count - 1) < 1e-9


@pytest.mark.parametrize("chance", [-1.0, 0.0, 0.3, 1.0])
@pytest.mark.parametrize("kinds", [IMAGES, ["render"] * 3, ["picture"]])
def test_probabilities_of_images_are_the_frequencies_of_the_draws(kinds, chance):
    rng = np.random.default_rng(0)
    assert_frequencies(
        lambda: views.draw(kinds, rng=rng, picture_probability=chance),
        views.probabilities(kinds, picture_probability=chance),
    )


@pytest.mark.parametrize("number", range(len(CAPTION_RULES)))
def test_probabilities_of_captions_are_the_frequencies_of_the_draws(number):
    rng, config = np.random.default_rng(0), config_of(**CAPTION_RULES[number]).data
    assert_frequencies(
        lambda: captions.draw(CAPTIONS, rng=rng, config=config),
        captions.probabilities(CAPTIONS, config=config),
    )
    assert len(captions.probabilities([], config=config)) == 0


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_the_mean_is_the_direction_of_the_expected_unit_feature():
    features = np.random.default_rng(1).normal(size=(3, 4)).astype(np.float16)
    features[1] *= 50  # the length of a feature has no effect
    got = teacher_features.mean(features, np.array([0.5, 0.2, 0.3]), dim=4)
    rows = unit(features.astype(np.float64))
    assert got.dtype == np.float16
    np.testing.assert_allclose(got, unit(0.5 * rows[0] + 0.2 * rows[1] + 0.3 * rows[2]), atol=1e-3)
    assert not teacher_features.mean(features[:0], np.zeros(0), dim=4).any()
    assert not teacher_features.mean(features, np.zeros(3), dim=4).any()


def test_a_stream_has_means_of_the_images_and_of_the_captions_that_may_be_drawn():
    config = config_of(caption_kinds=("tag",), relation_features="mean")
    for got in batches(config, 4):
        for row, index in enumerate(got["index"].tolist()):
            record = raw_record(index)
            expected = {"image_mean": record["image_features"], "text_mean": [0, 0, 0, 0]}
            if len(record["text_features"]):
                expected["text_mean"] = record["text_features"][1:]  # the first is a name
            for name, features in expected.items():
                features = np.asarray(features, np.float64).reshape(-1, 4)
                wanted = unit(unit(features).mean(axis=0)) if features.any() else np.zeros(4)
                np.testing.assert_allclose(got[name][row], wanted, atol=1e-3)


def test_means_and_positives_leave_the_other_arrays_of_a_stream_as_they_are():
    config = config_of(relation_features="mean", image_positives=3, text_positives=2)
    for got, want in zip(batches(config, 6), batches(config_of(), 6), strict=True):
        spec = batch_spec.batch_spec(config)
        assert {name: (a.shape, a.dtype) for name, a in got.items()} == {
            name: (leaf.shape, leaf.dtype) for name, leaf in spec.items()
        }
        for name in want:
            one = (
                got[name][:, 0] if name in ("image", "text", "has_image", "has_text") else got[name]
            )
            np.testing.assert_array_equal(one, want[name], err_msg=name)


def test_positives_are_distinct_and_a_record_with_fewer_has_empty_slots():
    """Records have three images and four captions, record 3 no image and record 5 no caption."""
    stream = batches(config_of(image_positives=5, text_positives=2), 12)
    drawn = {name: np.concatenate([got[name] for got in stream]) for name in stream[0]}
    filled = np.where(drawn["index"] == 3, 0, 3)
    np.testing.assert_array_equal(drawn["has_image"], np.arange(5) < filled[:, None])
    np.testing.assert_array_equal(drawn["has_text"].all(axis=1), drawn["index"] != 5)
    assert not drawn["image"][~drawn["has_image"]].any()
    orders = collections.Counter(tuple(row) for row in drawn["image"][filled > 0, :3, 1].tolist())
    assert set(orders) == set(itertools.permutations([0, 1, 2]))
    words = drawn["text"][drawn["has_text"].all(axis=1), :, 2]
    assert (words[:, 0] != words[:, 1]).all() and set(words[:, 1]) == {0, 1, 2, 3}


def test_positives_follow_the_rules_for_kinds_while_there_are_any():
    pictures = config_of(picture_probability=1.0, image_positives=2)
    for got in batches(pictures, 3):
        rows = got["image"][got["has_image"].all(axis=1), :, 1]
        assert (rows[:, 0] == 2).all() and set(rows[:, 1]) <= {0, 1}
    names = config_of(caption_groups=(("name",), ("tag",)), text_positives=2)
    for got in batches(names, 3):
        rows = got["text"][got["has_text"].all(axis=1), :, 2]
        # After the only name, a tag; after a tag, either.
        assert (rows[rows[:, 0] == 0, 1] > 0).all()


def test_more_positives_than_any_record_has_are_rejected():
    teacher_features.check_positives(records(), config_of(image_positives=3, text_positives=4))
    with pytest.raises(ValueError, match="image_positives is 4, .* at most 3 images; expected at"):
        teacher_features.check_positives(records(), config_of(image_positives=4))
    only_names = config_of(caption_kinds=("name",), text_positives=2)
    with pytest.raises(ValueError, match="text_positives is 2, .* at most 1 captions that may"):
        teacher_features.check_positives(records(), only_names)


def test_one_record_with_enough_images_suffices():
    raw = [raw_record(index) for index in range(RECORDS)]
    raw[17]["image_features"] = np.ones((6, 4), np.float16)
    raw[17]["image_kinds"] = [b"render"] * 6
    opened = source.RecordSource(
        raw, shards=[("a", RECORDS)], directory="some/folder", split="train", cache=False
    )
    teacher_features.check_positives(opened, config_of(image_positives=6))


def test_fake_batches_have_positives_and_means():
    config = config_of(batch_size=64, image_positives=3, text_positives=2, relation_features="mean")
    fake = batch_spec.fake_batch(config)
    assert fake["image"].shape == (64, 3, 4) and fake["xyz"].shape == (64, POINTS, 3)
    filled = fake["has_image"].sum(axis=1)
    assert set(filled) == {0, 1, 2, 3}
    np.testing.assert_array_equal(fake["has_image"], np.arange(3) < filled[:, None])
    np.testing.assert_array_equal(fake["image"].any(axis=2), fake["has_image"])
    np.testing.assert_array_equal(fake["image_mean"].any(axis=1), filled > 0)


@pytest.fixture
def config_of_means(monkeypatch):
    """A batch has every record, so that relations follow from the means of the records alone."""
    monkeypatch.setattr(calibration, "SAMPLES", RECORDS)
    config = base.get_config()
    config.batch_size, config.teacher.dim, config.data.points = RECORDS, 4, POINTS
    config.data.image_positives, config.loss.relation_features = 2, "mean"
    return config


def image_neighbours(fields, *, temperature):
    """Returns the neighbours of the relation VV between the records that have these features."""
    raw = [raw_record(index) for index in range(RECORDS)]
    features = [each["image_features"] for each in raw if all(len(each[name]) for name in fields)]
    rows = unit(np.stack([unit(each.astype(np.float64)).mean(axis=0) for each in features]))
    weights = np.exp(rows @ rows.T / temperature)
    chances = weights / weights.sum(axis=1, keepdims=True)
    return np.exp(-(chances * np.log(chances)).sum(axis=1)).mean()


def softness_of(measured, term, name):
    (soft,) = (s for t, s in measured.softness.items() if (t.term, t.name) == (term, name))
    return soft


def test_calibration_measures_the_relations_of_the_means(config_of_means):
    config = config_of_means
    measured = calibration.measure(config, records())
    wanted = image_neighbours(["image_features"], temperature=config.loss.teacher_temperature)
    assert softness_of(measured, "image", "VV").neighbours == pytest.approx(wanted, rel=1e-3)
    config.loss.relation_features = "drawn"
    drawn = calibration.measure(config, records()).softness
    assert not any(
        drawn[t].neighbours == pytest.approx(s.neighbours)
        for t, s in measured.softness.items()
        if "V" in t.name
    )


@pytest.mark.parametrize("candidates, mix, fields", [
    # Record 3 has no image, record 5 no caption.
    (("VV", "TV"), "divergences", ["image_features"]),
    # Targets that are mixed need a caption as well; the student's PV needs an image.
    (("VV", "TV"), "targets", ["image_features", "text_features"]),
    (("VV",), "targets", ["image_features"]),
])  # fmt: skip
def test_calibration_measures_the_samples_that_the_objective_compares(
    config_of_means, candidates, mix, fields
):
    config = config_of_means
    config.loss.mix, config.loss.candidates.image = mix, candidates
    # So flat that the number of neighbours is nearly that of the records.
    config.loss.teacher_temperature = 10.0
    measured = calibration.measure(config, records())
    wanted = image_neighbours(fields, temperature=10.0)
    assert softness_of(measured, "image", "VV").neighbours == pytest.approx(wanted, rel=1e-4)
    assert wanted == pytest.approx(RECORDS - len(fields), rel=1e-2)


def test_calibration_without_texts_names_the_cause_and_what_to_do(config_of_means):
    config, without = config_of_means, [raw_record(index) for index in range(RECORDS)]
    for each in without:
        each["text_features"], each["caption_kinds"] = each["text_features"][:0], []
    opened = source.RecordSource(
        without, shards=[("a", RECORDS)], directory="some/folder", split="train", cache=False
    )
    config.loss.neighbours_within, config.loss.candidates.intra = 6.0, ("VV",)
    config.loss.candidates.text = ("VT",)
    config.loss.neighbours_across = 7.0
    message = (
        "config.loss.neighbours_across is 7.0, image/TV: no sample has both modalities of the "
        "relation; set config.loss.neighbours_across to 0 for the fixed temperature, or remove TV "
        "from config.loss.candidates.image"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        calibration.calibrate(config, opened)
    config.loss.neighbours_across = 0.0
    measured = calibration.measure(config, opened)
    assert softness_of(measured, "image", "VV").neighbours == pytest.approx(6, rel=1e-3)
    assert measured.lines()[2] == "image/TV: temperature 0.1, no sample has both modalities"
    assert calibration.calibrate(config, opened).loss.teacher_temperatures.image[1] == 0.1
