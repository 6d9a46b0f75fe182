# SPDX-License-Identifier: Apache-2.0
"""Positions of COLLADA meshes that joints or morph targets deform."""

from xml.etree.ElementTree import Element

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers.collada import document, sources
from data_prep.geometry.readers.collada.document import Document


def input_source(parent: Element, semantic: str) -> str:
    """Returns the reference of an input by its meaning; empty if there is none."""
    found = (i for i in parent.findall("input") if i.get("semantic") == semantic)
    return next((i.get("source", "") for i in found), "")


def morphed(morph: Element, base: np.ndarray, targets: list[np.ndarray], *, doc: Document):
    """Returns the positions of a morph with its initial weights, float64 [vertices, 3].

    Args:
      morph: element `morph`.
      base: [vertices, 3], positions of its mesh.
      targets: positions of the targets, in order.
      doc: parsed file.
    """
    parent = morph.find("targets")
    weights = None
    if parent is not None:
        weights = sources.read_source(input_source(parent, "MORPH_WEIGHT"), doc=doc)
    if weights is None or weights.size < len(targets):
        return base
    relative = morph.get("method") == "RELATIVE"
    result = base.copy()
    for weight, target in zip(weights.reshape(-1), targets, strict=False):
        if weight and target.shape == base.shape:
            result += weight * (target if relative else target - base)
    return result


def bind_shape(skin: Element) -> np.ndarray:
    """Returns the matrix [4, 4] that a skin applies to the positions of its mesh."""
    values = document.floats(skin.find("bind_shape_matrix"))
    return values.reshape(4, 4) if len(values) == 16 else np.eye(4)


def skinned(
    skin: Element, points: np.ndarray, joints: list[np.ndarray], *, doc: Document
) -> np.ndarray:
    """Returns the positions of a skin in the coordinates of the scene.

    Args:
      skin: element `skin`.
      points: [vertices, 3], positions of its mesh.
      joints: [4, 4] per joint, transforms to the coordinates of the scene.
      doc: parsed file.

    Raises:
      scene.MeshError: an index or a matrix is invalid.
    """
    shape = bind_shape(skin)
    points = points @ shape[:3, :3].T + shape[:3, 3]
    vertex, joint, weight = _influences(skin, vertices=len(points), doc=doc)
    holder = skin.find("joints")
    inverse = None
    if holder is not None:
        inverse = sources.read_source(input_source(holder, "INV_BIND_MATRIX"), doc=doc)
    if inverse is None or inverse.size != 16 * len(joints):
        raise scene.MeshError("a skin whose joints have no matrices")
    # A joint of -1 is the shape itself.
    matrices = np.concatenate([np.stack(joints) @ inverse.reshape(-1, 4, 4), np.eye(4)[None]])
    if len(joint) and (joint.min() < -1 or joint.max() >= len(joints)):
        raise scene.MeshError("a skin with a joint that does not exist")
    moved = np.einsum("nij,nj->ni", matrices[joint][:, :3, :3], points[vertex])
    moved += matrices[joint][:, :3, 3]
    result, total = np.zeros_like(points), np.zeros(len(points))
    np.add.at(result, vertex, moved * weight[:, None])
    np.add.at(total, vertex, weight)
    # Programs differ in whether weights sum to one; vertices without any stay in place.
    has_weight = total > 0
    result[has_weight] /= total[has_weight, None]
    result[~has_weight] = points[~has_weight]
    return result


def _influences(
    skin: Element, *, vertices: int, doc: Document
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns vertex, joint and weight of all influences of a skin."""
    element = skin.find("vertex_weights")
    if element is None:
        raise scene.MeshError("a skin without weights")
    inputs = {i.semantic: i for i in sources.read_inputs(element, doc=doc)}
    if "JOINT" not in inputs or "WEIGHT" not in inputs:
        raise scene.MeshError("a skin without weights")
    stride = max(i.offset for i in inputs.values()) + 1
    limits.ARRAY_BYTES.check(8 * stride)
    counts = document.integers(element.find("vcount"))
    indices = document.integers(element.find("v"))
    if (counts < 0).any() or len(counts) > vertices or counts.sum() * stride > len(indices):
        raise scene.MeshError("a skin with more weights than vertices")
    rows = indices[: counts.sum() * stride].reshape(-1, stride)
    weights = sources.read_source(inputs["WEIGHT"].source, doc=doc)
    chosen = rows[:, inputs["WEIGHT"].offset]
    if weights is None or len(chosen) and not 0 <= chosen.min() <= chosen.max() < weights.size:
        raise scene.MeshError("a skin with a weight that does not exist")
    vertex = np.repeat(np.arange(len(counts)), counts)
    return vertex, rows[:, inputs["JOINT"].offset], weights.reshape(-1)[chosen]
