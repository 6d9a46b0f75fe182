# SPDX-License-Identifier: Apache-2.0
"""Skinned and morphed positions, in the pose at rest."""

from typing import Any

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.readers.gltf import fields
from data_prep.geometry.readers.gltf.document import Document
from data_prep.geometry.readers.gltf.graph import Graph
from data_prep.geometry.scene import MeshError

# Vertices whose matrices are in memory at a time.
_BLOCK = 65_536


def joint_matrices(document: Document, graph: Graph, skin: int) -> np.ndarray:
    """Returns the matrices of the joints of a skin, float64 [joints, 4, 4], for column vectors.

    Each is the global transform of the joint times its inverse bind matrix. The transform of the
    node that holds the mesh does not apply.

    Raises:
      MeshError: the skin is malformed.
    """
    fields_of = fields.get_item(document.tree, "skins", skin)
    joints = fields.get_indices(fields_of, "joints")
    if not joints:
        raise MeshError("a skin without joints")
    matrices = np.array([graph.global_matrix(joint) for joint in joints])
    accessor = fields.get_index(fields_of, "inverseBindMatrices")
    if accessor is None:
        return matrices
    inverse = document.accessor(accessor)
    if inverse.shape[1:] != (4, 4) or len(inverse) < len(joints):
        raise MeshError("a skin with fewer inverse bind matrices than joints")
    return matrices @ inverse[: len(joints)].astype(np.float64)


def skin_positions(
    positions: np.ndarray, *, joints: np.ndarray, weights: np.ndarray, matrices: np.ndarray
) -> np.ndarray:
    """Transforms positions by the weighted sum of the matrices of their joints.

    Args:
      positions: float64 [vertices, 3].
      joints: integers [vertices, influences].
      weights: [vertices, influences]; they are scaled to a sum of 1.
      matrices: float64 [joints, 4, 4].

    Returns:
      float64 [vertices, 3].

    Raises:
      MeshError: a joint does not exist, or the shapes do not match.
    """
    is_matching = joints.shape == weights.shape and len(joints) == len(positions)
    if not is_matching or joints.dtype.kind not in "iu":
        raise MeshError("joints and weights of a skin do not match")
    weights = weights.astype(np.float64)
    # The standard asks for joint 0 where the weight is 0, but not every exporter writes it.
    joints = np.where(weights == 0, 0, joints)
    if joints.size and (joints.max() >= len(matrices) or joints.min() < 0):
        raise MeshError(f"a vertex names a joint that does not exist: {joints.max()}")
    total = weights.sum(axis=1, keepdims=True)
    # A vertex without weights follows its first joint, as three.js has it.
    weights[:, 0] = np.where(total[:, 0] == 0, 1, weights[:, 0])
    weights /= np.where(total == 0, 1, total)
    result = np.empty_like(positions)
    for start in range(0, len(positions), _BLOCK):
        block = slice(start, start + _BLOCK)
        mixed = np.zeros((len(positions[block]), 3, 4))
        for influence in range(joints.shape[1]):
            chosen = matrices[joints[block, influence], :3]
            mixed += weights[block, influence, None, None] * chosen
        moved = np.matmul(mixed[:, :, :3], positions[block, :, None])[..., 0]
        result[block] = moved + mixed[:, :, 3]
    return result


def morph_weights(mesh: dict[str, Any], weights: tuple[float, ...] | None) -> tuple[float, ...]:
    """Returns the weights of a mesh's morph targets: those of the node, else of the mesh."""
    if weights is not None:
        return weights
    count = len(fields.get_list(mesh, "weights"))
    return fields.get_numbers(mesh, "weights", (0.0,) * count) if count else ()


def morph(
    document: Document,
    values: np.ndarray,
    *,
    name: str,
    targets: list[dict[str, Any]],
    weights: tuple[float, ...],
) -> np.ndarray:
    """Adds the weighted displacements of morph targets to an attribute of the vertices.

    Args:
      document: open file.
      values: [vertices, width].
      name: name of the attribute, such as "POSITION".
      targets: morph targets of the primitive.
      weights: their weights; missing ones are 0.

    Raises:
      MeshError: a target does not have the shape of the attribute.
      limits.LimitError: the targets are too large.
    """
    used = [(t, w) for t, w in zip(targets, weights, strict=False) if w and t.get(name) is not None]
    limits.ARRAY_BYTES.check(len(used) * values.size * 4)
    for target, weight in used:
        displacement = document.accessor(fields.get_index(target, name))
        if displacement.shape[0] != values.shape[0] or displacement.ndim != values.ndim:
            raise MeshError(f"a morph target of a wrong length: {name}")
        width = min(displacement.shape[1], values.shape[1])  # RGB may displace RGBA
        moved = values.astype(np.float64)
        moved[:, :width] += weight * displacement[:, :width].astype(np.float64)
        values = moved
    return values
