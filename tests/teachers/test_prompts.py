# SPDX-License-Identifier: Apache-2.0
"""Prompt averaging over the templates."""

import numpy as np

from data_prep.teachers import prompts


class RecordingTeacher:
    """Embeds a text as a vector that depends on its words and is not normalised."""

    def __init__(self):
        self.texts = []

    def encode_texts(self, texts):
        self.texts += texts
        rows = [(len(text), text.count(" ") + 1, 3.0) for text in texts]
        return np.array(rows).reshape(len(texts), 3)


def test_the_64_templates_differ_and_have_one_placeholder():
    assert len(prompts.TEMPLATES) == len(set(prompts.TEMPLATES)) == 64
    assert all(template.count("{}") == 1 for template in prompts.TEMPLATES)
    assert all(template == template.strip() for template in prompts.TEMPLATES)


def test_names_are_encoded_with_all_templates():
    teacher = RecordingTeacher()
    prompts.prompt_average(teacher, ["sofa", "floor lamp"])
    assert len(teacher.texts) == len(set(teacher.texts)) == 128
    assert sum("floor lamp" in text for text in teacher.texts) == 64


def test_names_of_shapes_are_encoded_with_a_subset_of_the_templates():
    teacher = RecordingTeacher()
    prompts.prompt_average(teacher, ["sofa"], templates=prompts.NAME_TEMPLATES)
    assert len(teacher.texts) == 8
    assert set(prompts.NAME_TEMPLATES) < set(prompts.TEMPLATES)


def test_prompt_features_and_their_mean_are_normalised():
    want = []
    for name in ("sofa", "floor lamp"):
        total = np.zeros(3)
        for template in prompts.TEMPLATES:
            text = template.replace("{}", name)
            vector = np.array([len(text), text.count(" ") + 1, 3.0])
            total += vector / np.sqrt((vector**2).sum())
        want.append(total / np.sqrt((total**2).sum()))
    got = prompts.prompt_average(RecordingTeacher(), ["sofa", "floor lamp"])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert got.dtype == np.float32


def test_no_names_give_an_empty_array():
    assert prompts.prompt_average(RecordingTeacher(), []).shape == (0, 3)
