# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the peers' PyTorch code: inputs, weights, activations, checkpoint keys."""

import dataclasses
import functools
import json
import pathlib
from typing import Any

import numpy as np
import seeded_weights

from mrd_jax import convert

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
# Tolerance for an embedding: PyTorch's own rounding error is below 5e-6, and every wrong convention
# changes the embedding by at least 6e-5.
PARITY = 3e-5

SMALL = ("openshape_small", "uni3d_small_glu", "uni3d_small_swiglu", "uni3d_small_gelu")
REAL = {"openshape-4": "full_openshape_s4", "uni3d-ti": "full_uni3d_ti", "uni3d-b": "full_uni3d_b"}


@dataclasses.dataclass(frozen=True)
class Peer:
    """A fixture: its arrays by name, and the encoder with its weights."""

    arrays: dict[str, np.ndarray]
    model: Any
    variables: dict[str, Any]

    def apply(self, **options):
        return self.model.apply(self.variables, self["in/xyz"], self["in/rgb"], **options)

    def __getitem__(self, name):
        return self.arrays[name]


def small_state(name):
    """Returns the stored state dict of a small model: PyTorch key -> array."""
    return {key[3:]: array for key, array in read(name)[0].items() if key.startswith("sd/")}


@functools.cache
def small(name):
    """Returns a small model with its stored weights."""
    arrays, config = read(name)
    state = small_state(name)
    if name.startswith("openshape"):
        fields = dict(
            source="openshape", groups=config["patches"], group_size=config["nsamp"],
            radius=config["prad"], heads=config["heads"],
        )  # fmt: skip
    else:
        fields = dict(
            source="uni3d", groups=config["pc"]["num_group"], heads=config["eva"]["num_heads"],
            group_size=config["pc"]["group_size"],
        )  # fmt: skip
    return Peer(arrays, *convert.from_state_dict(state, **fields))


def real(name):
    """Returns a published size, with weights generated from the seed and the key of each array."""
    arrays, config = read(REAL[name])
    state = seeded_weights.seeded_state(config["keys"], config["param_seed"])
    for key, sums in ((key[7:], sums) for key, sums in arrays.items() if key[:7] == "checks/"):
        values = state[key].astype(np.float64)
        np.testing.assert_allclose([values.sum(), (values**2).sum()], sums, rtol=1e-6, atol=1e-6)
    converted = convert.convert(state, source=name.partition("-")[0], name=name)
    return Peer(arrays, converted.model, converted.variables)


@functools.cache
def released_keys():
    """Returns {model: ({key: shape} of its checkpoint, parameter count)}."""
    models, rows = {}, []
    for line in (FIXTURES / "released_keys.tsv").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        if not line.startswith("\t"):
            name, depth, parameters = line.split("\t")
            rows = {}
            models[name] = (rows, int(parameters))
            continue
        _, key, shape, _ = line.split("\t")
        for layer in range(int(depth) if "*" in key else 1):
            rows[key.replace("*", str(layer))] = tuple(json.loads(shape))
    return models


def read(name):
    """Returns the arrays of a fixture by name, and its config."""
    with np.load(FIXTURES / f"{name}.npz") as archive:
        arrays = dict(archive)
    return arrays, json.loads(str(arrays.pop("config")))
