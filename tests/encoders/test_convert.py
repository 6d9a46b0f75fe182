# SPDX-License-Identifier: Apache-2.0
"""Conversion of the released sizes: every key is used or ignored, anything else is rejected."""

import flax
import jax
import numpy as np
import peers
import pytest

from mrd_jax import convert, models
from mrd_jax.checkpoints import model_card

# Parameters of the image model and of the loss that released files hold and encoders do not use.
UNUSED = (
    "visual.cls_token",
    "visual.pos_embed",
    "visual.patch_embed",
    "visual.head",
    "logit_scale",
)


def released_state(name):
    """Returns zeros of the released shapes that take no memory."""
    keys, _ = peers.released_keys()[name]
    return {key: np.broadcast_to(np.float32(0), shape) for key, shape in keys.items()}


def source_of(name):
    return name.partition("-")[0]


def test_every_released_size_has_a_list_of_keys():
    assert sorted(peers.released_keys()) == sorted(models.RELEASED)


# The largest size fills 4 GB.
SIZES = [
    pytest.param(name, marks=pytest.mark.slow) if name in ("uni3d-l", "uni3d-g") else name
    for name in models.RELEASED
]


@pytest.mark.parametrize("name", SIZES)
def test_every_released_size_converts_to_the_published_parameter_count(name):
    state = released_state(name)
    conversion = convert.convert(state, source=source_of(name), name="x.pt")
    assert model_card.size_of(model_card.student_of(conversion.model)) == name
    assert set(conversion.destinations) == set(state)
    used = sum(leaf.size for leaf in jax.tree.leaves(conversion.variables["params"]))
    unused = sum(v.size for key, v in state.items() if any(part in key for part in UNUSED))
    assert used + unused == peers.released_keys()[name][1]
    ignored = {key for key, path in conversion.destinations.items() if not path}
    assert all(
        key.endswith("num_batches_tracked") or any(p in key for p in UNUSED) for key in ignored
    )


def small_options(name):
    options = dict(groups=48, group_size=24)
    return options | (dict(radius=0.3, heads=2) if name.startswith("openshape") else dict(heads=3))


@pytest.mark.parametrize("name", ["openshape_small", "uni3d_small_glu", "uni3d_small_swiglu"])
def test_a_file_without_a_used_key_is_rejected(name):
    state, options = peers.small_state(name), small_options(name)
    source = name.partition("_")[0]
    conversion = convert.convert(state, source=source, name="x.pt", **options)
    used = [key for key, path in conversion.destinations.items() if path]
    for key in used[:: max(1, len(used) // 12)]:  # about a dozen of them
        without = {k: v for k, v in state.items() if k != key}
        with pytest.raises(ValueError, match="nothing in the file fills it|has no key"):
            convert.convert(without, source=source, name="x.pt", **options)


def test_an_unknown_key_is_rejected():
    state = peers.small_state("uni3d_small_glu") | {"point_encoder.extra.weight": np.zeros(3)}
    with pytest.raises(ValueError, match=r"point_encoder\.extra\.weight: 0 rules match"):
        convert.from_state_dict(state, source="uni3d", **small_options("uni3d_small_glu"))


def test_a_file_of_another_model_is_rejected():
    with pytest.raises(ValueError, match="has no key 'ppat.cls_token', which every openshape"):
        convert.from_state_dict(
            peers.small_state("uni3d_small_glu"), source="openshape", groups=8, group_size=4
        )
    with pytest.raises(ValueError, match="source is 'ulip'; choose from"):
        convert.from_state_dict({}, source="ulip", groups=8, group_size=4)


def test_an_unpublished_size_needs_the_fields_that_no_shape_determines():
    state = peers.small_state("openshape_small")
    with pytest.raises(ValueError, match="pass group_size, groups, radius"):
        convert.convert(state, source="openshape", name="x.pt")
    with pytest.raises(ValueError, match="radius is for OpenShape's ball groups"):
        convert.convert(
            peers.small_state("uni3d_small_glu"), source="uni3d", name="x", radius=0.2, groups=8,
            group_size=4, heads=3,
        )  # fmt: skip


def image_state(name):
    """Returns weights under the names of EVA in timm, with another value in every array."""
    prefix, values = "point_encoder.visual.", iter(range(1, 10_000))
    return {
        key.removeprefix(prefix): value + np.float32(next(values))
        for key, value in released_state(f"uni3d-{name}").items()
        if key.startswith(prefix)
    }


@pytest.mark.parametrize("name", ["ti", "b"])
def test_image_weights_fill_only_the_transformer_and_its_norm(name):
    state = image_state(name)
    part = convert.transformer_from_eva(state, size=name, name="eva.safetensors").variables
    assert set(part["params"]) == {"transformer", "norm"}
    visual = {"point_encoder.visual." + key: value for key, value in state.items()}
    whole = convert.convert(
        released_state(f"uni3d-{name}") | visual, source="uni3d", name="model.pt"
    )
    want = {key: whole.variables["params"][key] for key in part["params"]}
    jax.tree.map(np.testing.assert_array_equal, part["params"], want)
    flat = flax.traverse_util.flatten_dict(part["params"], sep="/")
    assert len({float(leaf.ravel()[0]) for leaf in flat.values()}) == len(flat)


def test_image_weights_of_another_depth_are_rejected():
    state = {key: value for key, value in image_state("ti").items() if "blocks.11." not in key}
    with pytest.raises(ValueError, match="layers/11/.*nothing in the file fills it"):
        convert.transformer_from_eva(state, size="ti", name="eva.safetensors")
