# SPDX-License-Identifier: Apache-2.0
"""The encoders equal the peers' PyTorch models: groups, every stage, training, real sizes."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest

from mrd_jax.models import grouping, uni3d

UNI3D = [name for name in peers.SMALL if name.startswith("uni3d")]
# (our name, name in the fixture) of the output of each stage.
OPENSHAPE_STAGES = (
    ("tokenizer", "act/sa_features"),
    ("lift_norm", "act/lift_tokens"),
    ("transformer/blocks/attention", "act/layer0_attn_branch"),
    ("transformer/blocks/mlp", "act/layer0_ff_branch"),
    ("transformer/last_block/attention", "act/layer1_attn_branch"),
    ("transformer/last_block/mlp", "act/layer1_ff_branch"),
    ("transformer", "act/cls"),
)
UNI3D_STAGES = (
    ("tokenizer", "act/group_tokens"),
    ("lift", "act/encoder2trans"),
    ("position", "act/pos_embed"),
    ("transformer/blocks/attention", "act/block0_attn_branch"),
    ("transformer/blocks/mlp", "act/block0_mlp_branch"),
    ("transformer/last_block/attention", "act/block1_attn_branch"),
    ("transformer/last_block/mlp", "act/block1_mlp_branch"),
    ("transformer", "act/cls_norm"),
    ("norm", "act/cls_fc_norm"),
)
# PyTorch names of the batch norms of each tokenizer, in our order.
NORMS = {
    "openshape": [f"ppat.sa.mlp_bns.{n}" for n in range(3)],
    "uni3d": [f"point_encoder.encoder.{part}.1" for part in ("first_conv", "second_conv")],
}


@functools.cache
def evaluated(name):
    """Returns the embedding and the intermediate values of a small model."""
    peer = peers.small(name)
    apply = functools.partial(peer.apply, capture_intermediates=True, mutable=["intermediates"])
    embedding, state = jax.jit(apply)()
    values = flax.traverse_util.flatten_dict(state["intermediates"], sep="/")
    values = {key.removesuffix("/__call__"): value for key, value in values.items() if value}
    # Blocks return (tokens, None).
    return embedding, {key: np.asarray(jax.tree.leaves(value)[0]) for key, value in values.items()}


@pytest.mark.parametrize("name", peers.SMALL)
def test_embedding_equals_the_peer(name):
    got, peer = evaluated(name)[0], peers.small(name)
    np.testing.assert_allclose(got, peer["out/embedding"], rtol=0, atol=peers.PARITY)
    np.testing.assert_allclose(got, peer["out/embedding_f64"], rtol=0, atol=peers.PARITY)
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("name", peers.SMALL)
def test_every_stage_equals_the_peer(name):
    peer, got = peers.small(name), evaluated(name)[1]
    stages = OPENSHAPE_STAGES if name.startswith("openshape") else UNI3D_STAGES
    for ours, theirs in stages:
        want = peer[theirs]
        if "last_block" in ours:
            want = want[:, 0]  # the last block computes the first token only
        values = got[ours].reshape(want.shape)
        bound = 1e-4 * np.abs(want).max()
        np.testing.assert_allclose(values, want, rtol=0, atol=bound, err_msg=ours)


@pytest.mark.parametrize("name", peers.SMALL)
def test_training_output_and_running_statistics_equal_the_peer(name):
    peer = peers.small(name)
    apply = functools.partial(peer.apply, train=True, mutable=["batch_stats"])
    got, state = jax.jit(apply)()
    np.testing.assert_allclose(got, peer["train/embedding"], rtol=0, atol=peers.PARITY)
    for number, torch_name in enumerate(NORMS[name.partition("_")[0]]):
        layer = state["batch_stats"]["tokenizer"][f"layer_{number}"]
        for ours, theirs in (("mean", "running_mean"), ("var", "running_var")):
            want = peer[f"train/sd/{torch_name}.{theirs}"]
            np.testing.assert_allclose(layer[ours], want, rtol=1e-5, atol=1e-5)


def test_openshape_groups_equal_the_peer():
    peer = peers.small("openshape_small")
    chosen = grouping.farthest_point_sample(peer["in/xyz"], peer.model.groups)
    np.testing.assert_array_equal(chosen, peer["idx/fps"])
    centres = grouping.gather(peer["in/xyz"], chosen)
    np.testing.assert_array_equal(centres, peer["act/centroids"])
    index = grouping.ball_query(
        peer["in/xyz"], centres, radius=peer.model.radius, count=peer.model.group_size
    )
    np.testing.assert_array_equal(index, peer["idx/group"])


@pytest.mark.parametrize("name", UNI3D)
def test_uni3d_groups_equal_the_peer(name):
    peer = peers.small(name)
    xyz, count = peer["in/xyz"], peer.model.groups
    plain = grouping.farthest_point_sample(xyz, count)
    np.testing.assert_array_equal(plain, peer["idx/fps_plain_start0"])
    chosen = grouping.farthest_point_sample(xyz, count, skip_squared_norm=uni3d.NEAR_ORIGIN)
    np.testing.assert_array_equal(chosen, peer["idx/fps"])
    centres = grouping.gather(xyz, chosen)
    np.testing.assert_array_equal(centres, peer["act/center"])
    index = grouping.knn(xyz, centres, count=peer.model.group_size)
    np.testing.assert_array_equal(np.sort(index), peer["idx/group_sorted"])


@pytest.mark.parametrize("name", [
    "openshape-4", "uni3d-ti", pytest.param("uni3d-b", marks=pytest.mark.slow),
])  # fmt: skip
def test_published_size_equals_the_peer(name):
    peer = peers.real(name)
    got = jax.jit(peer.apply)()
    skip = uni3d.NEAR_ORIGIN if name.startswith("uni3d") else None
    chosen = grouping.farthest_point_sample(
        peer["in/xyz"], peer.model.groups, skip_squared_norm=skip
    )
    np.testing.assert_array_equal(chosen, peer["idx/fps"])
    np.testing.assert_allclose(got, peer["out/embedding"], rtol=0, atol=peers.PARITY)


@pytest.mark.parametrize("name", peers.SMALL)
def test_bfloat16_stays_near_float32(name):
    peer = peers.small(name)
    half = jax.jit(peer.model.clone(dtype=jnp.bfloat16).apply)
    got = half(peer.variables, peer["in/xyz"], peer["in/rgb"])
    want = peer["out/embedding"]
    lengths = np.linalg.norm(got, axis=-1) * np.linalg.norm(want, axis=-1)
    distance = 1 - np.sum(got * want, axis=-1) / lengths
    assert got.dtype == jnp.float32
    assert 0 < distance.max() < 2e-2
