# SPDX-License-Identifier: Apache-2.0
"""The student equals OpenShape's PyTorch model, and its options change only what they should."""

import functools
import json
import pathlib
import re
import runpy

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mrd_jax import models
from mrd_jax.models import grouping, point_bert

FIXTURE = pathlib.Path(__file__).parent / "fixtures" / "openshape_small.npz"
# What the fixture's notes allow: PyTorch's own rounding is below 5e-6, and every wrong
# convention moves the output by at least 6e-5.
PARITY = 3e-5

# PyTorch key -> (collection, path); "*" is the number of a layer.
WEIGHTS = {
    "ppat.cls_token": ("params", "cls_token"),
    "ppat.sa.mlp_convs.*.weight": ("params", "tokenizer/layer_*/kernel"),
    "ppat.sa.mlp_convs.*.bias": ("params", "tokenizer/layer_*/bias"),
    "ppat.sa.mlp_bns.*.weight": ("params", "tokenizer/layer_*/scale"),
    "ppat.sa.mlp_bns.*.bias": ("params", "tokenizer/layer_*/shift"),
    "ppat.sa.mlp_bns.*.running_mean": ("batch_stats", "tokenizer/layer_*/mean"),
    "ppat.sa.mlp_bns.*.running_var": ("batch_stats", "tokenizer/layer_*/var"),
    "ppat.lift.0.weight": ("params", "lift/kernel"),
    "ppat.lift.0.bias": ("params", "lift/bias"),
    "ppat.lift.2.weight": ("params", "lift_norm/scale"),
    "ppat.lift.2.bias": ("params", "lift_norm/bias"),
    "proj.weight": ("params", "projection/kernel"),
    "proj.bias": ("params", "projection/bias"),
}
BLOCK = {
    "0.norm.weight": "attention_norm/scale",
    "0.norm.bias": "attention_norm/bias",
    "0.fn.to_qkv.weight": "attention/qkv",
    "0.fn.to_out.0.weight": "attention/output/kernel",
    "0.fn.to_out.0.bias": "attention/output/bias",
    "1.norm.weight": "mlp_norm/scale",
    "1.norm.bias": "mlp_norm/bias",
    "1.fn.net.0.weight": "mlp/expand/kernel",
    "1.fn.net.0.bias": "mlp/expand/bias",
    "1.fn.net.3.weight": "mlp/contract/kernel",
    "1.fn.net.3.bias": "mlp/contract/bias",
}


def variables_of(state, depth):
    """Arrange a PyTorch state dict as Flax variables; kernels are [in, out]."""

    def kernel(array):
        return array.reshape(array.shape[:2]).T if array.ndim > 1 else array

    flat = {}
    for pattern, (collection, path) in WEIGHTS.items():
        for key, array in state.items():
            found = re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d+)"), key)
            if found:
                path_here = path.replace("*", found[1]) if "*" in path else path
                flat[(collection, *path_here.split("/"))] = kernel(array)
    for key, path in BLOCK.items():
        layers = [kernel(state[f"ppat.transformer.layers.{n}.{key}"]) for n in range(depth)]
        path = path.split("/")
        flat[("params", "transformer", "blocks", *path)] = np.stack(layers[:-1])
        flat[("params", "transformer", "last_block", *path)] = layers[-1]
    return flax.traverse_util.unflatten_dict(flat)


def model_of(config, **changes):
    names = dict(groups="patches", radius="prad", group_size="nsamp", out_dim="out_channel")
    fields = {key: config[key] for key in ("dim", "depth", "heads", "mlp_dim", "sa_dim")}
    fields |= {key: config[name] for key, name in names.items()}
    return models.build_model({"name": "point_bert", **fields, **changes})


@pytest.fixture(scope="module")
def peer():
    with np.load(FIXTURE) as archive:
        arrays = dict(archive)
    config = json.loads(str(arrays.pop("config")))
    state = {key[3:]: array for key, array in arrays.items() if key.startswith("sd/")}
    return config, variables_of(state, config["depth"]), arrays


def test_embedding_equals_the_peer(peer):
    config, variables, arrays = peer
    got = jax.jit(model_of(config).apply)(variables, arrays["in/xyz"], arrays["in/rgb"])
    np.testing.assert_allclose(got, arrays["out/embedding"], rtol=0, atol=PARITY)
    np.testing.assert_allclose(got, arrays["out/embedding_f64"], rtol=0, atol=PARITY)
    assert got.dtype == jnp.float32


def test_groups_equal_the_peer(peer):
    config, _, arrays = peer
    xyz = arrays["in/xyz"]
    chosen = grouping.farthest_point_sample(xyz, config["patches"])
    np.testing.assert_array_equal(chosen, arrays["idx/fps"])
    centres = grouping.gather(xyz, chosen)
    np.testing.assert_array_equal(centres, arrays["act/centroids"])
    index = grouping.ball_query(xyz, centres, radius=config["prad"], count=config["nsamp"])
    np.testing.assert_array_equal(index, arrays["idx/group"])


def test_every_stage_equals_the_peer(peer):
    config, variables, arrays = peer
    apply = functools.partial(
        model_of(config).apply, capture_intermediates=True, mutable=["intermediates"]
    )
    _, state = jax.jit(apply)(variables, arrays["in/xyz"], arrays["in/rgb"])
    got = flax.traverse_util.flatten_dict(state["intermediates"], sep="/")
    got = {key.removesuffix("/__call__"): value[0] for key, value in got.items() if value}

    def same(name, reference):
        want = arrays[reference]
        found = np.asarray(got[name]).reshape(want.shape)
        bound = max(PARITY, 1e-6 * np.abs(want).max())  # group features reach several hundred
        np.testing.assert_allclose(found, want, rtol=0, atol=bound, err_msg=name)

    same("tokenizer", "act/sa_features")
    same("lift_norm", "act/lift_tokens")
    same("transformer/blocks/attention", "act/layer0_attn_branch")
    same("transformer/blocks/mlp", "act/layer0_ff_branch")
    same("transformer", "act/cls")
    # The last block computes the first token only.
    for name, reference in (("attention", "attn"), ("mlp", "ff")):
        want = arrays[f"act/layer1_{reference}_branch"][:, 0]
        found = got[f"transformer/last_block/{name}"]
        np.testing.assert_allclose(found, want, rtol=0, atol=PARITY, err_msg=name)


def test_training_output_and_running_statistics_equal_the_peer(peer):
    config, variables, arrays = peer
    apply = functools.partial(model_of(config).apply, train=True, mutable=["batch_stats"])
    got, state = jax.jit(apply)(variables, arrays["in/xyz"], arrays["in/rgb"])
    np.testing.assert_allclose(got, arrays["train/embedding"], rtol=0, atol=PARITY)
    for number in range(3):
        layer = state["batch_stats"]["tokenizer"][f"layer_{number}"]
        for name, torch_name in (("mean", "running_mean"), ("var", "running_var")):
            want = arrays[f"train/sd/ppat.sa.mlp_bns.{number}.{torch_name}"]
            np.testing.assert_allclose(layer[name], want, rtol=1e-5, atol=1e-5)


def test_the_released_size_equals_the_peer(shared_dir):
    with np.load(shared_dir / "fixtures" / "full_openshape_s4.npz") as archive:
        arrays = dict(archive)
    config = json.loads(str(arrays["config"]))
    seeded = runpy.run_path(str(shared_dir / "fixtures" / "seeded_params.py"))
    state = seeded["params"](config["keys"], config["param_seed"])
    sizes = point_bert.SCALINGS[4]
    model = models.build_model({"name": "point_bert", "out_dim": 1280, **sizes})
    variables = variables_of(state, sizes["depth"])
    got = jax.jit(model.apply)(variables, arrays["in/xyz"], arrays["in/rgb"])
    chosen = grouping.farthest_point_sample(arrays["in/xyz"], sizes["groups"])
    np.testing.assert_array_equal(chosen, arrays["idx/fps"])
    np.testing.assert_allclose(got, arrays["out/embedding"], rtol=0, atol=PARITY)


@pytest.mark.parametrize(
    ("scaling", "released"),
    [(1, 5100768), (2, 13346880), (3, 25954368), (4, 32326080), (5, 72070336), (6, 171262144)],
)
def test_parameter_counts_are_those_of_the_released_models(scaling, released):
    sizes = point_bert.SCALINGS[scaling]
    model = models.build_model({"name": "point_bert", "out_dim": 1280, **sizes})
    cloud = jax.ShapeDtypeStruct((1, sizes["groups"], 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), cloud, cloud)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes["params"])) == released
