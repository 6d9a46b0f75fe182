# SPDX-License-Identifier: Apache-2.0
"""The parity tests detect each convention of the peers: a single wrong one fails them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import peers
import pytest

from mrd_jax.models import grouping, norm, tokenizer, transformer, uni3d

pytestmark = pytest.mark.usefixtures("fast_compile")
OPENSHAPE, GLU, SWIGLU, GELU = peers.SMALL


def with_options(field, value):
    """Returns a change that replaces one field of the options of every block."""

    def change(monkeypatch, peer):
        original = transformer.BlockOptions
        monkeypatch.setattr(
            transformer, "BlockOptions", lambda *a, **k: original(*a, **(k | {field: value}))
        )

    return change


def constant(module, name, value):
    """Returns a change that replaces a constant."""

    def change(monkeypatch, peer):
        monkeypatch.setattr(module, name, value)

    return change


def nearest_in_ball(monkeypatch, peer):
    """Takes the nearest points of a ball instead of the first by index."""

    def query(xyz, centres, *, radius, count):
        return grouping.knn(xyz, centres, count=count)

    monkeypatch.setattr(grouping, "ball_query", query)


def pad_balls_with_zero(monkeypatch, peer):
    """Pads small balls with index 0 instead of their first point."""
    original = grouping.ball_query

    def query(xyz, centres, *, radius, count):
        index = original(xyz, centres, radius=radius, count=count)
        return jnp.where((index == index[..., :1]).at[..., 0].set(False), 0, index)

    monkeypatch.setattr(grouping, "ball_query", query)


def offsets_scaled(monkeypatch, peer):
    """Divides offsets by the radius, as later versions of PointNet++ do."""
    original = tokenizer.group_points

    def group(*arguments, **options):
        groups = original(*arguments, **options)
        return groups.at[..., :3].divide(peer.model.radius)

    monkeypatch.setattr(tokenizer, "group_points", group)


def plain_sampling(monkeypatch, peer):
    """Samples points near the origin, too."""
    monkeypatch.setattr(uni3d.Uni3D, "skip_squared_norm", None)


def gate_second(monkeypatch, peer):
    """Applies SiLU to the second half of a packed gate."""
    original = jnp.split

    def split(x, parts, axis=0):
        halves = original(x, parts, axis)
        return halves[::-1] if axis == -1 and parts == 2 and x.ndim == 2 else halves

    monkeypatch.setattr(transformer.jnp, "split", split)


def no_query_bias(monkeypatch, peer):
    """Removes the bias of the queries."""
    for block in peer.variables["params"]["transformer"].values():
        block["attention"]["query_bias"] = 0 * block["attention"]["query_bias"]


def swap_concatenation(monkeypatch, peer):
    """Concatenates [local, maximum] instead of [maximum, local]."""
    joined = peer.variables["params"]["tokenizer"]["joined"]
    joined["kernel"] = np.concatenate(np.split(joined["kernel"], 2)[::-1])


CHANGES = [
    (OPENSHAPE, "LayerNorm epsilon", with_options("epsilon", 1e-6)),
    (OPENSHAPE, "approximate GELU", constant(transformer, "gelu", nn.gelu)),
    (OPENSHAPE, "ball by distance", nearest_in_ball),
    (OPENSHAPE, "fill rule", pad_balls_with_zero),
    (OPENSHAPE, "offsets over radius", offsets_scaled),
    (OPENSHAPE, "batch norm epsilon", constant(norm, "EPSILON", 1e-3)),
    (GLU, "sampling near the origin", plain_sampling),
    (GLU, "half of the gate", gate_second),
    (GLU, "order of maximum and local", swap_concatenation),
    (SWIGLU, "inner norm", with_options("mlp", "swiglu")),
    (SWIGLU, "bias of queries", no_query_bias),
    (GELU, "approximate GELU", constant(transformer, "gelu", nn.gelu)),
    (GELU, "LayerNorm epsilon", constant(uni3d, "EPSILON", 1e-5)),
]


@pytest.mark.parametrize(
    ("name", "change"),
    [(n, f) for n, _, f in CHANGES],
    ids=[f"{n}: {label}" for n, label, _ in CHANGES],
)
def test_a_wrong_convention_breaks_parity(name, change, monkeypatch):
    cached = peers.small(name)
    peer = peers.Peer(cached.arrays, cached.model, jax.tree.map(np.copy, cached.variables))
    change(monkeypatch, peer)
    got = jax.jit(lambda xyz, rgb: peer.model.apply(peer.variables, xyz, rgb))(
        peer["in/xyz"], peer["in/rgb"]
    )
    assert np.abs(got - peer["out/embedding"]).max() > peers.PARITY
