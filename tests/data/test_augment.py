# SPDX-License-Identifier: Apache-2.0
"""Augmentation matches a numpy reference with the same random draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from mrd_jax.data import augment, batch_spec

pytestmark = pytest.mark.usefixtures("fast_compile")
POINTS, WINDOW, SAMPLES = 48, 32, 6
NEUTRAL = {
    "dropout_max": 0.0,
    "scale": (1.0, 1.0),
    "shift": 0.0,
    "rotate_sigma": 0.0,
    "rotate_clip": 0.18,
    "rotate_z": 0.0,
    "color_drop": 0.0,
    "color_fill": 0.4,
    "mirror": 0.0,
    "jitter_sigma": 0.0,
    "color_jitter": 0.0,
}
OPTIONS = {
    "nothing": {},
    "dropout": {"dropout_max": 0.875},
    "scale": {"scale": (0.8, 1.25)},
    "shift": {"shift": 0.1},
    "small rotations": {"rotate_sigma": 0.5, "rotate_clip": 0.4},
    "any rotation about z": {"rotate_z": 180.0},
    "a little rotation about z": {"rotate_z": 15.0},
    "mirror": {"mirror": 0.5},
    "jitter": {"jitter_sigma": 0.02},
    "colour jitter": {"color_jitter": 0.4},
    "colour drop": {"color_drop": 0.5},
}
ALL = {name: value for option in OPTIONS.values() for name, value in option.items()}


def config_of(**changes) -> ConfigDict:
    return ConfigDict(NEUTRAL | changes)


def run(data, config, *, keys, num_points=WINDOW):
    """Runs `augment` compiled, as the step does."""
    return jax.jit(
        lambda data, keys: augment.augment(data, config, keys=keys, num_points=num_points)
    )(data, keys)


def clouds(samples: int = SAMPLES, points: int = POINTS) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "xyz": rng.uniform(-0.6, 0.6, (samples, points, 3)).astype(np.float16),
        "rgb": rng.integers(0, 256, (samples, points, 3)).astype(np.uint8),
    }


def keys_of(samples: int = SAMPLES) -> jax.Array:
    return batch_spec.sample_keys(3, jnp.arange(samples), jnp.zeros(samples, jnp.int32))


def reference(xyz, rgb, config, key, count):
    """Augments one cloud with numpy in float64, in the documented order, with rotation matrices."""
    draw = dict(zip(augment.DRAWS, jax.random.split(key, len(augment.DRAWS)), strict=True))

    def uniform(name, low=0.0, high=1.0, shape=()):
        return low + (high - low) * np.asarray(jax.random.uniform(draw[name], shape), np.float64)

    def normal(name, shape):
        return np.asarray(jax.random.normal(draw[name], shape), np.float64)

    start = int(jax.random.randint(draw["window"], (), 0, len(xyz)))
    xyz = np.roll(xyz.astype(np.float64), -start, axis=0)[:count]
    rgb = np.roll(rgb.astype(np.float64), -start, axis=0)[:count] / 255

    dropped = uniform("dropout", shape=(count, 1))[:, 0] < uniform("dropout_ratio") * (
        config.dropout_max
    )
    xyz[dropped] = xyz[0]
    if uniform("mirror") < config.mirror:
        xyz = xyz @ np.diag([-1, 1, 1])
    xyz = xyz * uniform("scale", *config.scale)
    xyz = xyz + uniform("shift", -config.shift, config.shift, (3,))
    x, y, z = np.clip(
        config.rotate_sigma * normal("rotate", (3,)), -config.rotate_clip, config.rotate_clip
    )
    turn = np.radians(config.rotate_z)
    xyz = xyz @ rotation(0, x).T @ rotation(1, y).T @ rotation(2, z).T
    xyz = xyz @ rotation(2, uniform("rotate_z", -turn, turn)).T
    xyz = xyz + config.jitter_sigma * normal("jitter", xyz.shape)

    rgb = rgb + uniform("color_jitter", -config.color_jitter, config.color_jitter, (3,))
    rgb = np.clip(rgb, 0, 1)
    if uniform("color_drop") < config.color_drop:
        rgb = np.full_like(rgb, config.color_fill)
    return xyz, rgb


def rotation(axis, angle):
    sin, cos = np.sin(angle), np.cos(angle)
    return {
        0: np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]]),
        1: np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]),
        2: np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]),
    }[axis]


@pytest.mark.parametrize("name", [*OPTIONS, "everything"])
def test_each_transformation_matches_the_numpy_reference(name):
    config = config_of(**OPTIONS.get(name, ALL))
    data, keys = clouds(), keys_of()

    got = run(data, config, keys=keys)

    want, unchanged = (
        [reference(data["xyz"][i], data["rgb"][i], c, keys[i], WINDOW) for i in range(SAMPLES)]
        for c in (config, config_of())
    )
    changes = {"nothing": (False, False), "everything": (True, True)}
    changes = changes.get(name, (False, True) if "colour" in name else (True, False))
    for part, changed in enumerate(changes):
        assert got[part].dtype == jnp.float32
        assert changed == any((want[i][part] != unchanged[i][part]).any() for i in range(SAMPLES))
        np.testing.assert_allclose(got[part], [cloud[part] for cloud in want], atol=1e-5)


def test_samples_of_a_batch_are_augmented_independently():
    config, data, keys = config_of(**ALL), clouds(), keys_of()
    step = jax.jit(lambda data, keys: augment.augment(data, config, keys=keys, num_points=WINDOW))

    together = step(data, keys)

    for i in range(SAMPLES):
        alone = step({name: values[i : i + 1] for name, values in data.items()}, keys[i : i + 1])
        for got, want in zip(together, alone, strict=True):
            np.testing.assert_allclose(got[i], want[0], atol=1e-6)


def test_dropout_drops_up_to_the_largest_fraction_and_keeps_colours():
    data = clouds(samples=200, points=100)
    config = config_of(dropout_max=0.8)

    xyz, rgb = run(data, config, keys=keys_of(200), num_points=100)

    first = np.all(np.asarray(xyz) == np.asarray(xyz[:, :1]), axis=-1)
    fraction = first.mean(axis=1)
    assert fraction.min() < 0.05 and 0.7 < fraction.max() < 0.95
    assert abs(fraction.mean() - 0.4) < 0.06
    for i in range(5):
        colours = np.sort(np.asarray(rgb[i] * 255).round(), axis=0)
        np.testing.assert_array_equal(colours, np.sort(data["rgb"][i], axis=0))


def test_rotations_cover_the_full_circle_or_stay_within_the_limit():
    data = clouds(samples=300, points=1)

    def angles(limit):
        turned, _ = run(data, config_of(rotate_z=limit), keys=keys_of(300), num_points=1)
        both = [np.arctan2(xyz[:, 0, 1], xyz[:, 0, 0]) for xyz in (turned, data["xyz"])]
        return np.degrees((both[0] - both[1] + np.pi) % (2 * np.pi) - np.pi)

    few = angles(15.0)
    assert np.histogram(angles(180.0), bins=8, range=(-180, 180))[0].min() > 15
    assert 13 < few.max() < 15.2 and -15.2 < few.min() < -13


def test_probabilities_are_met_and_apply_to_whole_clouds():
    data = clouds(samples=400, points=4)

    xyz, rgb = run(data, config_of(color_drop=0.25, mirror=0.75), keys=keys_of(400), num_points=4)

    filled = np.all(np.asarray(rgb) == np.float32(0.4), axis=(1, 2))
    across = [np.sort(values[..., 0]) for values in (xyz, data["xyz"], -data["xyz"])]
    mirrored = np.all(across[0] == across[2], axis=1)
    assert abs(filled.mean() - 0.25) < 0.07
    assert abs(mirrored.mean() - 0.75) < 0.07
    assert np.all(mirrored | np.all(across[0] == across[1], axis=1))


def test_windows_start_at_any_point():
    data = clouds(samples=300, points=6)
    xyz, _ = run(data, config_of(), keys=keys_of(300), num_points=2)

    starts = np.argmax(np.all(data["xyz"] == np.asarray(xyz[:, :1]), axis=-1), axis=1)

    assert np.bincount(starts, minlength=6).min() > 25


def test_evaluation_clouds_are_the_first_points_unchanged():
    data = clouds()
    xyz, rgb = augment.plain(data, num_points=WINDOW)

    np.testing.assert_array_equal(xyz, data["xyz"][:, :WINDOW].astype(np.float32))
    np.testing.assert_allclose(rgb, data["rgb"][:, :WINDOW] / 255, atol=1e-7)


@pytest.mark.parametrize("count", [0, POINTS + 1])
def test_a_window_larger_than_the_cloud_is_rejected(count):
    with pytest.raises(ValueError, match=f"num_points is {count}.*{POINTS} points per cloud"):
        augment.plain(clouds(), num_points=count)
    with pytest.raises(ValueError, match="config.model.points"):
        augment.augment(clouds(), config_of(), keys=keys_of(), num_points=count)


def test_evaluation_windows_are_consecutive_and_the_last_ends_with_the_cloud():
    data = clouds()
    points = data["xyz"].shape[1]
    second, _ = augment.plain(data, num_points=WINDOW, window=1)
    start = min(WINDOW, points - WINDOW)
    np.testing.assert_array_equal(second, data["xyz"][:, start : start + WINDOW])
    last, rgb = augment.plain(data, num_points=WINDOW, window=points)
    np.testing.assert_array_equal(last, data["xyz"][:, -WINDOW:])
    np.testing.assert_allclose(rgb, data["rgb"][:, -WINDOW:] / 255.0, rtol=1e-6)
