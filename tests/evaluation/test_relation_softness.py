# SPDX-License-Identifier: Apache-2.0
"""Softness of the relations of a held-out split, on the shapes that the objective compares."""

import held_out_example
import loss_inputs
import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE

from mrd_jax.evaluation import relation_softness
from mrd_jax.evaluation.metrics import classification, neighbourhood

WITHOUT_PICTURE = 1


@pytest.mark.parametrize("mix, shapes", [("divergences", 5), ("targets", 4)])
def test_mixed_targets_are_measured_on_the_shapes_with_all_modalities(mix, shapes):
    rows = held_out_example.records()
    rows[WITHOUT_PICTURE]["image_features"] = np.zeros((0, 3), np.float16)
    held_out = held_out_example.held_out(rows=rows)
    config = loss_inputs.loss_config(mix=mix, lambda_image=0.0, lambda_text=0.0)
    found = relation_softness.measure(
        np.stack([CHAIR, TABLE, LAMP, CHAIR + TABLE, TABLE + LAMP]),
        held_out,
        config,
        weights={"log_scale": np.float32(1.0)},
        batch_size=8,
    )
    texts = np.stack([CHAIR, CHAIR, TABLE, LAMP, CHAIR + TABLE + LAMP])
    if shapes == 4:
        texts = np.delete(texts, WITHOUT_PICTURE, axis=0)
    texts = classification.normalise(texts)
    wanted = neighbourhood.softness([texts @ texts.T], temperature=0.25, exclude_self=True)
    assert found["relation/intra/TT/teacher_neighbours"] == pytest.approx(wanted.neighbours)
    assert found["relation/intra/VV/teacher_neighbours"] < shapes
