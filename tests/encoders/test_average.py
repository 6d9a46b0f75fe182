# SPDX-License-Identifier: Apache-2.0
"""The average of encoders, through the command."""

import json

import jax
import numpy as np
import pytest
from tiny import assert_trees_equal
from tiny_encoder import FIELDS, tiny_card, tiny_variables

from mrd_jax import encoder, models
from mrd_jax.checkpoints import model_card, restore
from mrd_jax.tools import average


def shifted(seed):
    """Returns the tiny encoder's variables with noise."""
    draw = np.random.default_rng(seed).normal
    return jax.tree.map(
        lambda leaf: leaf + draw(size=leaf.shape).astype(leaf.dtype) / 8, tiny_variables()
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Three encoders of one architecture; the last was trained with patch dropout."""
    folder = tmp_path_factory.mktemp("encoders")
    dropped = model_card.student_of(models.build_model(FIELDS | {"patch_dropout": 0.5}))
    cards = tiny_card(), tiny_card(), tiny_card(student=dropped)
    for number, card in enumerate(cards):
        encoder.save(folder / str(number), variables=shifted(number), card=card)
    return folder


def test_average_is_the_mean_of_all_arrays_with_the_card_of_the_first(saved, tmp_path, capsys):
    paths = [str(saved / name) for name in "012"]
    assert average.main([*paths, "--output", str(tmp_path / "average")]) == 0
    stored = restore.find_student(tmp_path / "average")
    want = jax.tree.map(
        lambda *leaves: np.mean(np.float64(leaves), axis=0).astype(np.float32),
        *map(shifted, range(3)),
    )
    assert_trees_equal(stored.read_variables(), want)
    assert stored.card == tiny_card()
    # The distance of every encoder from the average, in units of its norm.
    flat = [
        np.concatenate([x.ravel() for x in jax.tree.leaves(tree["params"])])
        for tree in (*map(shifted, range(3)), want)
    ]
    printed = capsys.readouterr().out
    for path, vector in zip(paths, flat[:3], strict=True):
        distance = np.linalg.norm(vector - flat[3]) / np.linalg.norm(flat[3])
        assert f"{path}: {distance:.3f} from the average" in printed


def test_average_of_encoders_of_another_origin_is_of_this_project(saved, tmp_path):
    converted = tiny_card(source="openshape", source_file="model.pt", source_sha256="ab" * 32)
    encoder.save(tmp_path / "converted", variables=shifted(5), card=converted)
    paths = [str(tmp_path / "converted"), str(saved / "0")]
    assert average.main([*paths, "--output", str(tmp_path / "average")]) == 0
    assert restore.find_student(tmp_path / "average").card == tiny_card()


def test_encoders_that_differ_are_refused_with_every_difference(saved, tmp_path, capsys):
    student = models.build_model(FIELDS | {"radius": 0.3, "relation_head": "linear"})
    card = tiny_card(
        student=model_card.student_of(student),
        teacher="another/teacher",
        parameters=model_card.count_parameters(model_card.abstract_variables(student, points=128)),
    )
    variables = tiny_variables()
    variables = variables | {
        "params": variables["params"] | {"relation_projection": variables["params"]["projection"]}
    }
    encoder.save(tmp_path / "other", variables=variables, card=card)
    arguments = [str(saved / "0"), str(tmp_path / "other"), "--output", str(tmp_path / "average")]
    assert average.main(arguments) == 2
    message = capsys.readouterr().err
    for text in (
        "student.radius: 0.3 in",
        "student.relation_head: 'linear' in",
        "teacher: 'another/teacher' in",
        "parameters: ",
    ):
        assert text in message
    assert not (tmp_path / "average").exists()


def test_one_encoder_given_twice_is_refused(saved, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        average.main([str(saved / "0")] * 2 + ["--output", str(tmp_path / "average")])
    assert error.value.code == 2
    assert "two or more different CHECKPOINTs" in capsys.readouterr().err


def test_card_without_the_field_of_a_relation_head_can_be_averaged(saved, tmp_path):
    """Earlier versions wrote such cards."""
    old = tmp_path / "old"
    encoder.save(old, variables=shifted(7), card=tiny_card())
    fields = json.loads((old / "config.json").read_text())
    del fields["student"]["relation_head"]
    (old / "config.json").write_text(json.dumps(fields))
    arguments = [str(old), str(saved / "0"), "--output", str(tmp_path / "average")]
    assert average.main(arguments) == 0
