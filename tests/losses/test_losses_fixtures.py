# SPDX-License-Identifier: Apache-2.0
"""Without relation terms, the objective equals those of OpenShape and Uni3D where these agree.

`fixtures/peer_losses.npz` has the results of their public code for random embeddings, in float64.
"""

import functools
import math
import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest
import reference_losses as reference

from mrd_jax import losses

PEERS = np.load(pathlib.Path(__file__).parents[1] / "fixtures" / "peer_losses.npz")
CASES = [str(name) for name in PEERS["names"]]

# Sum of an image and a text term, as in their code; the relation terms are disabled.
CONFIG = ml_collections.ConfigDict(
    {
        "image_weight": 1.0,
        "text_weight": 1.0,
        "lambda_intra": 0.0,
        "lambda_image": 0.0,
        "lambda_text": 0.0,
        "relation": "similarity",
        "divergence": "jeffrey",
        "weights": "static",
        "term_weights": "static",
        "term_weight_floor": 0.0,
        "lambda_warmup": 0.0,
        "lambda_anneal": 0.0,
        "mix": "divergences",
        "entropy_weight": 0.0,
        "teacher_temperature": 0.1,
        "student_temperature": 0.1,
        "learn_student_temperature": False,
        "student_temperature_cross": 0.0,
        "student_temperature_follows": "none",
        "relation_features": "drawn",
        "teacher_temperatures": {"intra": (), "image": (), "text": ()},
        "neighbours_within": 0.0,
        "neighbours_across": 0.0,
        "form": "plain",
        "block": 1024,
        "dtype": "float32",
        "exclude_self_intra": True,
        "exclude_self_cross": False,
        "candidates": {"intra": ("VV",), "image": ("VV",), "text": ("TT",)},
        "log_scale_init": math.log(1 / 0.07),
        "log_scale_max": math.log(100),
    }
)


@functools.cache
def ours(case, *, has_image=None):
    """Returns our parts and the gradients of points and log_scale for one input of the fixture."""
    points, image, text = (jnp.asarray(PEERS[f"{case}/{name}"]) for name in ("pc", "image", "text"))
    embeddings = {
        "image": image,
        "text": text,
        "has_image": jnp.ones(len(points), bool) if has_image is None else PEERS[has_image],
        "has_text": PEERS[f"{case}/has_text"],
    }

    def value(points, log_scale):
        changed = embeddings | {"points": points, "log_scale": log_scale}
        return losses.mrd_loss(changed, {}, CONFIG)

    run = jax.value_and_grad(value, (0, 1), has_aux=True)
    (_, parts), gradients = run(points, jnp.asarray(PEERS[f"{case}/log_logit_scale"]))
    return parts, *gradients


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_openshape(case):
    parts = ours(case)[0]
    for part, name in (
        ("contrastive_image", "image_loss"),
        ("contrastive_text", "text_loss"),
        ("total", "loss"),
    ):
        reference.assert_close(parts[part], PEERS[f"{case}/openshape/{name}_f64"])


@pytest.mark.parametrize("case", CASES)
def test_gradients_are_those_of_openshape(case):
    _, points, log_scale = ours(case)
    reference.assert_close(points, PEERS[f"{case}/openshape/grad_pc_f64"])
    reference.assert_close(log_scale, PEERS[f"{case}/openshape/grad_log_logit_scale_f64"])


@pytest.mark.parametrize("case", CASES)
def test_accuracies_are_those_of_openshape(case):
    parts = ours(case)[0]
    reference.assert_close(parts["accuracy_image"], PEERS[f"{case}/openshape/image_acc"])
    # OpenShape reports -1 if no sample has a text; we report 0.
    expected = max(0, PEERS[f"{case}/openshape/text_acc"])
    reference.assert_close(parts["accuracy_text"], expected)


def test_uni3d_agrees_where_no_modality_is_missing():
    parts, points, log_scale = ours("case0_full")
    reference.assert_close(parts["total"], PEERS["case0_full/uni3d/loss_f64"])
    reference.assert_close(points, PEERS["case0_full/uni3d/grad_pc_f64"])
    reference.assert_close(log_scale, PEERS["case0_full/uni3d/grad_log_logit_scale_f64"])


def test_uni3d_differs_by_design_where_a_modality_is_missing():
    # Uni3D keeps the features of masked samples as negatives, and has no mask for texts.
    parts = ours("case1_partial", has_image="case1_partial/use_image")[0]
    assert abs(float(parts["total"]) - PEERS["case1_partial/uni3d/loss_f64"]) > 0.1
