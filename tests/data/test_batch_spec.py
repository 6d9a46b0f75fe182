# SPDX-License-Identifier: Apache-2.0
"""The batch contract, fake batches and random keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec

CONFIG = ConfigDict(
    {
        "batch_size": 16,
        "data": {"points": 20, "image_positives": 1, "text_positives": 1},
        "loss": {"relation_features": "drawn"},
        "teacher": {"dim": 5},
    }
)


def test_the_batch_spec_has_these_shapes_and_types():
    spec = {
        name: (leaf.shape, leaf.dtype.name) for name, leaf in batch_spec.batch_spec(CONFIG).items()
    }

    assert spec == {
        "xyz": ((16, 20, 3), "float16"),
        "rgb": ((16, 20, 3), "uint8"),
        "image": ((16, 5), "float16"),
        "text": ((16, 5), "float16"),
        "has_image": ((16,), "bool"),
        "has_text": ((16,), "bool"),
        "label": ((16,), "int32"),
        "index": ((16,), "int32"),
        "epoch": ((16,), "int32"),
    }


def test_fake_batches_satisfy_the_batch_spec_and_are_deterministic():
    fake, again, other = (batch_spec.fake_batch(CONFIG, seed=seed) for seed in (1, 1, 2))

    for name, leaf in batch_spec.batch_spec(CONFIG).items():
        assert fake[name].shape == leaf.shape and fake[name].dtype == leaf.dtype
        np.testing.assert_array_equal(fake[name], again[name])
    assert not np.array_equal(fake["xyz"], other["xyz"])
    assert np.linalg.norm(fake["xyz"].astype(np.float32), axis=-1).max() < 1.001


def test_missing_modalities_of_fake_batches_are_zeros():
    fake = batch_spec.fake_batch(ConfigDict(CONFIG.to_dict() | {"batch_size": 64}))

    for name in ("image", "text"):
        assert 0 < fake[f"has_{name}"].sum() < 64
        np.testing.assert_array_equal(fake[name].any(axis=1), fake[f"has_{name}"])


def test_random_keys_depend_on_seed_sample_and_epoch_only():
    index, epoch = jnp.array([0, 1, 0, 1, 5]), jnp.array([0, 0, 1, 1, 0])

    def draws(seed, index, epoch):
        return np.asarray(jax.vmap(jax.random.bits)(batch_spec.sample_keys(seed, index, epoch)))

    bits = draws(7, index, epoch)
    assert len(set(bits.tolist())) == 5
    np.testing.assert_array_equal(draws(7, index[3:4], epoch[3:4]), bits[3:4])
    np.testing.assert_array_equal(draws(7, index[::-1], epoch[::-1]), bits[::-1])
    assert not np.isin(draws(8, index, epoch), bits).any()


def test_a_process_loads_its_part_of_the_batch():
    assert batch_spec.check_batch_size(48, process_count=4, device_count=16) == 12


@pytest.mark.parametrize(
    ("size", "processes", "devices", "message"),
    [
        (10, 4, 4, "batch_size is 10, which does not divide over 4 processes"),
        (12, 4, 8, "batch_size is 12, which does not divide over 8 devices"),
        (0, 1, 1, "batch_size is 0"),
    ],
)
def test_a_batch_size_that_does_not_divide_is_rejected(size, processes, devices, message):
    with pytest.raises(ValueError, match=message):
        batch_spec.check_batch_size(size, process_count=processes, device_count=devices)
