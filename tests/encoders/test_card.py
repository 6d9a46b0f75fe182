# SPDX-License-Identifier: Apache-2.0
"""The model card: JSON form, validation, and the card of a training run."""

import dataclasses
import json

import pytest
from tiny import tiny_config
from tiny_encoder import FIELDS, tiny_card

from mrd_jax import models
from mrd_jax.checkpoints import model_card

METADATA = {
    "teacher": {"name": "openai/clip", "dim": 24},
    "up_axis": "z",
    "from_y_up": "rotate",
    "normalisation": "unit_sphere",
    "points": 96,
}


def test_a_card_round_trips_through_json():
    card = tiny_card(size="openshape-4", source="openshape", source_file="model.pt")
    assert model_card.from_json(card.to_json()) == card
    assert model_card.from_dict(json.loads(json.dumps(card.as_dict()))) == card


def test_unknown_and_missing_fields_are_all_listed():
    fields = tiny_card().as_dict() | {"mood": "good"}
    del fields["licence"], fields["points"]
    with pytest.raises(model_card.CardError, match=r"\['mood'\].*\['licence', 'points'\]"):
        model_card.from_dict(fields)


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "not JSON"),
        ("[1]", "list; expected an object"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5_000, "not JSON"),
    ],
)
def test_text_that_is_not_a_card_is_rejected(text, message):
    with pytest.raises(model_card.CardError, match=message):
        model_card.from_json(text)


@pytest.mark.parametrize(
    "field, value, message",
    [
        ("up_axis", "y", "up_axis is 'y'; expected one of z"),
        ("from_y_up", "flip", "from_y_up is 'flip'; expected one of rotate, swap"),
        ("normalisation", "cube", "'cube'; expected one of unit_sphere"),
        ("source", "ulip", "'ulip'"),
        ("points", 0, "points is 0; expected a positive"),
        ("points", "many", "points is 'many'; expected int"),
        ("points", True, "points is True; expected int"),
        ("colour_fill", 1.5, "colour_fill is 1.5; expected 0 to 1"),
        ("teacher_dim", 25, "out_dim is 24 and teacher_dim is 25"),
        ("student", "point_bert", "student is 'point_bert'; expected dict"),
    ],
)
def test_an_invalid_value_is_rejected(field, value, message):
    with pytest.raises(model_card.CardError, match=message):
        dataclasses.replace(tiny_card(), **{field: value})


def test_a_mismatch_lists_every_field_with_both_values():
    card = tiny_card()
    card.expect(teacher="fake/teacher", points=card.points)
    with pytest.raises(model_card.CardMismatchError) as error:
        card.expect(teacher="openai/clip", up_axis="y", points=card.points)
    assert "teacher: 'fake/teacher' on the card, 'openai/clip' expected" in str(error.value)
    assert "up_axis: 'z' on the card, 'y' expected" in str(error.value)
    assert "points" not in str(error.value)


def test_expecting_an_unknown_field_is_an_error():
    with pytest.raises(TypeError, match="techer"):
        tiny_card().expect(techer="openai/clip")


@pytest.mark.parametrize("dtype", models.DTYPES)
@pytest.mark.parametrize("size", ["openshape-2", "uni3d-b"])
def test_the_student_on_the_card_builds_the_same_model(size, dtype):
    model = models.build_model(
        models.RELEASED[size] | {"out_dim": 8, "patch_dropout": 0.5, "remat": True, "dtype": dtype}
    )
    student = json.loads(json.dumps(model_card.student_of(model)))
    assert models.build_model(student) == model
    assert model_card.size_of(student) == size
    assert model_card.size_of(student | {"depth": 7}) == ""


def test_the_parameter_count_excludes_running_statistics():
    # Layer by layer, from the sizes in FIELDS.
    tokenizer = (9 * 64 + 64) + (64 * 64 + 64) + (64 * 16 + 16) + 2 * (64 + 64 + 16)
    lift = (3 + 16) * 64 + 64 + 2 * 64
    block = 2 * 64 * 2 + 64 * 3 * 64 + (64 * 64 + 64) + (64 * 96 + 96) + (96 * 64 + 64)
    want = tokenizer + lift + 64 + 2 * block + (64 * 24 + 24)
    abstract = model_card.abstract_variables(models.build_model(FIELDS), points=128)
    assert model_card.count_parameters(abstract) == want


def test_the_card_of_a_run_follows_from_its_config_and_data_set():
    config = tiny_config(augment__color_fill=0.25)
    card = model_card.from_run(config, metadata=METADATA)
    assert (card.teacher, card.teacher_dim, card.points) == ("openai/clip", 24, 64)
    assert (card.up_axis, card.normalisation, card.colour_fill) == ("z", "unit_sphere", 0.25)
    assert (card.source, card.source_sha256, card.size) == ("mrd_jax", "", "")
    assert card.from_y_up == "rotate"
    assert models.build_model(card.student) == models.build_model(config.model)


def test_the_card_of_a_run_records_that_the_axes_were_swapped():
    card = model_card.from_run(tiny_config(), metadata=METADATA | {"from_y_up": "swap"})
    assert card.from_y_up == "swap"


def test_a_data_set_of_an_earlier_version_has_to_be_prepared_again():
    old = {name: value for name, value in METADATA.items() if name != "from_y_up"}
    with pytest.raises(ValueError, match="from_y_up.*--overwrite"):
        model_card.from_run(tiny_config(), metadata=old)
