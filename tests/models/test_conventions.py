# SPDX-License-Identifier: Apache-2.0
"""Parity would notice each convention of the peers: flipped alone, the embedding is off."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest

from mrd_jax.models import grouping, norm, tokenizer, transformer, uni3d

OPENSHAPE, GLU, SWIGLU, GELU = peers.SMALL


def with_options(field, value):
    """Replaces one field of every block's options."""

    def flip(monkeypatch, peer):
        original = transformer.BlockOptions
        monkeypatch.setattr(
            transformer, "BlockOptions", lambda *a, **k: original(*a, **(k | {field: value}))
        )

    return flip


def constant(module, name, value):
    def flip(monkeypatch, peer):
        monkeypatch.setattr(module, name, value)

    return flip


def nearest_in_ball(monkeypatch, peer):
    """The nearest points of a ball instead of the first by index."""

    def query(xyz, centres, *, radius, count):
        return grouping.knn(xyz, centres, count=count)

    monkeypatch.setattr(grouping, "ball_query", query)


def zero_fills_the_ball(monkeypatch, peer):
    """Short balls repeat point 0 instead of their own first one."""
    original = grouping.ball_query

    def query(xyz, centres, *, radius, count):
        index = original(xyz, centres, radius=radius, count=count)
        return jnp.where((index == index[..., :1]).at[..., 0].set(False), 0, index)

    monkeypatch.setattr(grouping, "ball_query", query)


def offsets_scaled(monkeypatch, peer):
    """Offsets divided by the radius, as later versions of PointNet++ do."""
    original = tokenizer.group_points

    def group(*arguments, **options):
        groups = original(*arguments, **options)
        return groups.at[..., :3].divide(peer.model.radius)

    monkeypatch.setattr(tokenizer, "group_points", group)


def plain_sampling(monkeypatch, peer):
    """Points near the origin may be chosen."""
    monkeypatch.setattr(uni3d, "NEAR_ORIGIN", None)


def gate_second(monkeypatch, peer):
    """SiLU on the second half of a packed gate."""
    original = jnp.split

    def split(x, parts, axis=0):
        halves = original(x, parts, axis)
        return halves[::-1] if axis == -1 and parts == 2 and x.ndim == 2 else halves

    monkeypatch.setattr(transformer.jnp, "split", split)


def one_more_bias(monkeypatch, peer):
    """Queries without their bias."""
    for block in peer.variables["params"]["transformer"].values():
        block["attention"]["query_bias"] = 0 * block["attention"]["query_bias"]


def joined_the_other_way(monkeypatch, peer):
    """[local, maximum] instead of [maximum, local]."""
    joined = peer.variables["params"]["tokenizer"]["joined"]
    joined["kernel"] = np.concatenate(np.split(joined["kernel"], 2)[::-1])


FLIPS = [
    (OPENSHAPE, "LayerNorm epsilon", with_options("epsilon", 1e-6)),
    (OPENSHAPE, "approximate GELU", constant(transformer, "gelu", nn.gelu)),
    (OPENSHAPE, "ball by distance", nearest_in_ball),
    (OPENSHAPE, "fill rule", zero_fills_the_ball),
    (OPENSHAPE, "offsets over radius", offsets_scaled),
    (OPENSHAPE, "batch norm epsilon", constant(norm, "EPSILON", 1e-3)),
    (GLU, "sampling near the origin", plain_sampling),
    (GLU, "half of the gate", gate_second),
    (GLU, "order of maximum and local", joined_the_other_way),
    (SWIGLU, "inner norm", with_options("mlp", "swiglu")),
    (SWIGLU, "bias of queries", one_more_bias),
    (GELU, "approximate GELU", constant(transformer, "gelu", nn.gelu)),
    (GELU, "LayerNorm epsilon", constant(uni3d, "EPSILON", 1e-5)),
]


@pytest.mark.parametrize(
    ("name", "flip"), [(n, f) for n, _, f in FLIPS], ids=[f"{n}: {what}" for n, what, _ in FLIPS]
)
def test_a_flipped_convention_is_noticed(name, flip, monkeypatch):
    cached = peers.small(name)
    peer = peers.Peer(cached.arrays, cached.model, jax.tree.map(np.copy, cached.variables))
    flip(monkeypatch, peer)
    got = jax.jit(lambda xyz, rgb: peer.model.apply(peer.variables, xyz, rgb))(
        peer["in/xyz"], peer["in/rgb"]
    )
    assert np.abs(got - peer["out/embedding"]).max() > peers.PARITY
