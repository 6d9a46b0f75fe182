# SPDX-License-Identifier: Apache-2.0
"""Loading a teacher says nothing that users cannot act upon, and nothing else is silenced."""

import io
import logging

import numpy as np
import pytest
import transformers

from data_prep.teachers import clip, clip_weights, notices
from data_prep.teachers.lit.frozen import minilm, packages

LOGGER = logging.getLogger("transformers.modeling_flax_utils")
TINY = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


@pytest.fixture
def heard():
    """What transformers prints."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    LOGGER.addHandler(handler)
    # It says a thing once in a process.
    transformers.utils.logging.warning_once.cache_clear()
    yield lambda: stream.getvalue().splitlines()
    LOGGER.removeHandler(handler)


def model():
    transformers.FlaxBertModel(transformers.BertConfig(**TINY), _do_init=False)


def test_transformers_would_say_that_its_flax_models_end(heard):
    """If this fails, `notices.FLAX_ENDS` has no use any more, or another wording."""
    model()
    assert [line.startswith(notices.FLAX_ENDS) for line in heard()] == [True]


def test_that_message_alone_is_silenced_and_only_meanwhile(heard):
    with notices.without_flax_notice():
        model()
        LOGGER.warning("weights are missing")
    transformers.utils.logging.warning_once.cache_clear()
    LOGGER.error(notices.FLAX_ENDS)
    assert heard() == ["weights are missing", notices.FLAX_ENDS]


class EnoughError(Exception):
    """Ends the loading of a teacher after its model was made."""


def enough(*_, **__):
    raise EnoughError


def test_a_clip_teacher_is_loaded_without_it(heard, monkeypatch, tmp_path):
    transformers.CLIPConfig(text_config=TINY, vision_config=TINY).save_pretrained(tmp_path)
    monkeypatch.setattr(clip, "_read_processor", lambda folder: (None, None))
    monkeypatch.setattr(clip_weights, "load", enough)
    with pytest.raises(EnoughError):
        clip.ClipTeacher.load(tmp_path)
    assert heard() == []


def test_a_lit_teacher_is_loaded_without_it(heard, monkeypatch):
    try:
        folder = packages.locate(packages.MINILM)
    except FileNotFoundError as error:
        pytest.skip(f"the weight packages of the LiT teacher are absent: {error}")
    monkeypatch.setattr(minilm.rules, "apply", enough)
    with pytest.raises(EnoughError):
        minilm.MiniLM(folder, batch_size=8, dtype=np.float32)
    assert heard() == []
