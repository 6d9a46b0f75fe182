# SPDX-License-Identifier: Apache-2.0
"""Encoders with reproducible random weights that were exported to the peers' PyTorch modules.

`tests/fixtures/exported.npz` holds, by case, what the peers' own modules (OpenShape_code abe5aa42,
Uni3D 64e03c3c with timm 1.0.31, torch 2.13 on a CPU) computed with the exported weights after
`load_state_dict(strict=True)`: CASE/embedding, and CASE/sums, the sums of every array they loaded.
"""

import zlib
from typing import Any

import jax
import numpy as np

from mrd_jax import models
from mrd_jax.checkpoints import model_card

POINTS = 512
_POINT_BERT = dict(
    name="point_bert", dim=128, depth=3, heads=2, mlp_dim=192, sa_dim=32, groups=32, group_size=16,
    radius=0.3, out_dim=40,
)  # fmt: skip
_UNI3D = dict(
    name="uni3d", dim=96, depth=3, heads=3, mlp_dim=64, encoder_dim=48, groups=32, group_size=16,
    out_dim=40,
)  # fmt: skip
# Name -> (module, vertical axis of the module's clouds, fields of the student).
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "openshape": ("openshape", "z", _POINT_BERT),
    "openshape_y_up": ("openshape", "y", _POINT_BERT),
    "openshape_xyz": ("openshape", "z", _POINT_BERT | dict(colour=False)),
    "openshape_bare": ("openshape", "y", _POINT_BERT | dict(projection=False, out_dim=128)),
    "uni3d_swiglu": ("uni3d", "z", _UNI3D | dict(mlp="swiglu")),
    "uni3d_swiglu_norm": ("uni3d", "z", _UNI3D | dict(mlp="swiglu_norm")),
    "uni3d_gelu": ("uni3d", "z", _UNI3D | dict(mlp="gelu", dim=176, heads=2)),
}


def student(case: str) -> dict[str, Any]:
    """Returns the arguments of `build_model` for a case."""
    return model_card.student_of(models.build_model(CASES[case][2]))


def variables(case: str) -> dict[str, Any]:
    """Draws the variables of a case; every array depends on its path alone."""
    model = models.build_model(CASES[case][2])
    shapes = model_card.abstract_variables(model, points=POINTS)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        name = jax.tree_util.keystr(path)
        noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(leaf.shape)
        if "'var'" in name:
            noise = 0.6 + 0.4 * np.tanh(noise)
        elif "'scale'" in name:
            noise = 1 + 0.2 * noise
        elif leaf.ndim > 1:
            noise = noise / np.sqrt(leaf.shape[-2])
        else:
            noise = 0.2 * noise
        return noise.astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def clouds() -> tuple[np.ndarray, np.ndarray]:
    """Returns xyz, z up, and rgb, each [3, POINTS, 3]."""
    rng = np.random.default_rng(7)
    xyz = rng.uniform(-1, 1, (3, POINTS, 3)) * rng.uniform(0.2, 1, (3, 1, 3))
    xyz /= np.linalg.norm(xyz, axis=-1).max(axis=1)[:, None, None]
    return xyz.astype(np.float32), rng.uniform(0, 1, (3, POINTS, 3)).astype(np.float32)


def sums(state: dict[str, np.ndarray]) -> np.ndarray:
    """Returns [keys, 2]: the sum of each array, and the sum weighted by position; keys sorted."""
    rows = []
    for key in sorted(state):
        values = state[key].astype(np.float64).ravel()
        rows.append([values.sum(), values @ np.cos(np.arange(values.size))])
    return np.array(rows)
