# SPDX-License-Identifier: Apache-2.0
"""Loading a teacher suppresses the deprecation warning of Flax models and no other message."""

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
def printed_lines():
    """Returns a function that returns what transformers has printed."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    LOGGER.addHandler(handler)
    # transformers prints a warning once per process.
    transformers.utils.logging.warning_once.cache_clear()
    yield lambda: stream.getvalue().splitlines()
    LOGGER.removeHandler(handler)


def model():
    transformers.FlaxBertModel(transformers.BertConfig(**TINY), _do_init=False)


def test_transformers_warns_that_flax_models_are_deprecated(printed_lines):
    """If this fails, transformers has changed or removed the warning `notices.FLAX_DEPRECATED`."""
    model()
    assert [line.startswith(notices.FLAX_DEPRECATED) for line in printed_lines()] == [True]


def test_only_that_warning_is_suppressed_and_only_in_the_context(printed_lines):
    with notices.suppress_flax_deprecation():
        model()
        LOGGER.warning("weights are missing")
    transformers.utils.logging.warning_once.cache_clear()
    LOGGER.error(notices.FLAX_DEPRECATED)
    assert printed_lines() == ["weights are missing", notices.FLAX_DEPRECATED]


class StopLoadingError(Exception):
    """Stops loading a teacher after its model has been created."""


def stop_loading(*_, **__):
    raise StopLoadingError


def test_loading_a_clip_teacher_prints_nothing(printed_lines, monkeypatch, tmp_path):
    transformers.CLIPConfig(text_config=TINY, vision_config=TINY).save_pretrained(tmp_path)
    monkeypatch.setattr(clip, "_read_processor", lambda folder: (None, None))
    monkeypatch.setattr(clip_weights, "load", stop_loading)
    with pytest.raises(StopLoadingError):
        clip.ClipTeacher.load(tmp_path)
    assert printed_lines() == []


def test_loading_a_lit_teacher_prints_nothing(printed_lines, monkeypatch):
    try:
        folder = packages.locate(packages.MINILM)
    except FileNotFoundError as error:
        pytest.skip(f"the weight packages of the LiT teacher are not installed: {error}")
    monkeypatch.setattr(minilm.rules, "apply", stop_loading)
    with pytest.raises(StopLoadingError):
        minilm.MiniLM(folder, batch_size=8, dtype=np.float32)
    assert printed_lines() == []
