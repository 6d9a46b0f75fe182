# SPDX-License-Identifier: Apache-2.0
"""Embeds a mesh with a file of `mrd_jax.tools.export`: jax, flatbuffers, numpy and trimesh only.

python embed_exported.py encoder.npz chair.glb
"""

import json
import sys

import numpy as np
import trimesh
from jax import export


def prepare(mesh_file, card, *, up="y"):
    """Samples a mesh; returns xyz and rgb, [1, points, 3], by the conventions of the encoder."""
    mesh = trimesh.load_mesh(mesh_file)
    xyz = trimesh.sample.sample_surface(mesh, card["points"], seed=0)[0]
    if up == "y":
        sign = -1 if card["from_y_up"] == "rotate" else 1
        xyz = xyz[:, [0, 2, 1]] * [1, sign, 1]
    xyz = xyz - xyz.mean(axis=0)
    xyz = xyz / np.linalg.norm(xyz, axis=1).max()
    return np.float32(xyz)[None], np.full((1, *xyz.shape), card["colour_fill"], np.float32)


def embed(encoder_file, mesh_file):
    """Returns the embedding of a mesh without colours, [1, dim], unit norm."""
    with np.load(encoder_file) as file:
        card = json.loads(str(file["card"]))["card"]
        program = export.deserialize(bytearray(file["program"]))
        weights = {name: file[name] for name in file if name.startswith("weights/")}
    return np.asarray(program.call(weights, *prepare(mesh_file, card)))


if __name__ == "__main__":
    print(embed(*sys.argv[1:]))
