# SPDX-License-Identifier: Apache-2.0
"""The schedule of the lambdas, as a table, and the bounds of the weights of the terms."""

import jax.numpy as jnp
import loss_inputs
import numpy as np
import pytest

from mrd_jax import losses
from mrd_jax.losses import lambda_schedule

# Factor before the updates 0, 1, ..., 9 of a run of ten steps, and after the last, by warm-up and
# anneal.
SCHEDULES = {
    (0.0, 0.0): [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    (0.5, 0.0): [0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1, 1, 1, 1],
    (0.0, 0.2): [1, 1, 1, 1, 1, 1, 1, 1, 1, 0.5, 0],
    (0.4, 0.5): [0, 0.25, 0.5, 0.75, 1, 1, 0.8, 0.6, 0.4, 0.2, 0],
    (0.0, 1.0): [1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0],
}


@pytest.mark.parametrize("fractions", SCHEDULES, ids=str)
def test_factor_rises_at_the_beginning_and_falls_at_the_end(fractions):
    warmup, anneal = fractions
    config = loss_inputs.loss_config(lambda_warmup=warmup, lambda_anneal=anneal)
    factors = [lambda_schedule.factor(config, np.int32(n), total_steps=10) for n in range(11)]
    np.testing.assert_allclose(factors, SCHEDULES[fractions], atol=1e-6)
    assert lambda_schedule.is_constant(config) == (fractions == (0.0, 0.0))


@pytest.mark.parametrize("floor", [0.0, 0.25, 0.8])
def test_no_term_falls_below_the_floor_whatever_its_logit(floor):
    config = loss_inputs.loss_config(
        term_weights="dynamic", term_weight_floor=floor, lambda_intra=0.0
    )
    weights = loss_inputs.float32(loss_inputs.weights_of(config))
    weights["term_mixing"] = jnp.array([50.0, -50.0, 50.0])
    found = losses.mixing_weights(weights, config)
    shares = [float(found[f"weight/{term}"]) for term in ("image", "text")]
    # Of two active terms, one has all that the floor leaves.
    np.testing.assert_allclose(shares, [floor / 2, 1 - floor / 2], atol=1e-6)
    assert "weight/intra" not in found


def test_initial_weights_of_the_terms_are_equal_and_absent_if_they_are_static():
    config = loss_inputs.loss_config(term_weights="dynamic")
    params = losses.init_loss_params(config)
    found = losses.mixing_weights(params, config)
    shares = [float(found[f"weight/{term}"]) for term in losses.options.TERMS]
    np.testing.assert_allclose(shares, [1 / 3] * 3, rtol=1e-6)
    static = loss_inputs.loss_config()
    assert "term_mixing" not in losses.init_loss_params(static)
    assert "weight/intra" not in losses.mixing_weights(params, static)
