# SPDX-License-Identifier: Apache-2.0
"""A name is embedded as the mean direction of 64 sentences about it."""

import numpy as np

from data_prep.teachers import prompts


class CountingTeacher:
    """Embeds a text as a vector that depends on its words and whose length is not 1."""

    def __init__(self):
        self.texts = []

    def encode_texts(self, texts):
        self.texts += texts
        rows = [(len(text), text.count(" ") + 1, 3.0) for text in texts]
        return np.array(rows).reshape(len(texts), 3)


def test_there_are_64_different_templates_with_one_place_for_the_name():
    assert len(prompts.TEMPLATES) == len(set(prompts.TEMPLATES)) == 64
    assert all(template.count("{}") == 1 for template in prompts.TEMPLATES)
    assert all(template == template.strip() for template in prompts.TEMPLATES)


def test_every_name_goes_through_every_template():
    teacher = CountingTeacher()
    prompts.prompt_average(teacher, ["sofa", "floor lamp"])
    assert len(teacher.texts) == len(set(teacher.texts)) == 128
    assert sum("floor lamp" in text for text in teacher.texts) == 64


def test_names_of_shapes_go_through_a_few_of_the_same_templates():
    teacher = CountingTeacher()
    prompts.prompt_average(teacher, ["sofa"], templates=prompts.NAME_TEMPLATES)
    assert len(teacher.texts) == 8
    assert set(prompts.NAME_TEMPLATES) < set(prompts.TEMPLATES)


def test_prompts_are_normalised_before_the_mean_and_the_mean_after_it():
    want = []
    for name in ("sofa", "floor lamp"):
        total = np.zeros(3)
        for template in prompts.TEMPLATES:
            text = template.replace("{}", name)
            vector = np.array([len(text), text.count(" ") + 1, 3.0])
            total += vector / np.sqrt((vector**2).sum())
        want.append(total / np.sqrt((total**2).sum()))
    got = prompts.prompt_average(CountingTeacher(), ["sofa", "floor lamp"])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got.dtype == np.float32


def test_no_names_give_no_rows():
    assert prompts.prompt_average(CountingTeacher(), []).shape == (0, 3)
