# SPDX-License-Identifier: Apache-2.0
"""Transforms of VRML nodes, float64 [4, 4] for column vectors."""

import math

import numpy as np

from data_prep.geometry.readers.vrml.nodes import Node


def transform(node: Node) -> np.ndarray:
    """Returns the transform of a node Transform: scale, rotate and translate about a centre."""
    center = node.vector("center", 0, 0, 0)
    orientation = rotation(node.vector("scaleOrientation", 0, 0, 1, 0))
    scaled = orientation @ np.diag([*_scale(node, "scale"), 1.0]) @ orientation.T
    return (
        translation(node.vector("translation", 0, 0, 0) + center)
        @ rotation(node.vector("rotation", 0, 0, 1, 0))
        @ scaled
        @ translation(-center)
    )


def property_transform(node: Node) -> np.ndarray | None:
    """Returns the transform of a node of VRML 1.0; None if it is none."""
    if node.kind == "Translation":
        return translation(node.vector("translation", 0, 0, 0))
    if node.kind == "Rotation":
        return rotation(node.vector("rotation", 0, 0, 1, 0))
    if node.kind == "Scale":
        return np.diag([*node.vector("scaleFactor", 1, 1, 1), 1.0])
    if node.kind == "MatrixTransform":
        # For row vectors.
        return node.vector("matrix", *np.eye(4).reshape(-1)).reshape(4, 4).T
    if node.kind == "Transform":
        fields = dict(node.fields)
        if "scaleFactor" in fields:
            fields["scale"] = fields["scaleFactor"]
        return transform(Node("Transform", fields))
    return None


def _scale(node: Node, name: str) -> np.ndarray:
    return node.vector(name, 1, 1, 1)


def translation(offset: np.ndarray) -> np.ndarray:
    """Returns a translation."""
    result = np.eye(4)
    result[:3, 3] = offset
    return result


def rotation(axis_angle: np.ndarray) -> np.ndarray:
    """Returns a rotation about an axis [3] by an angle in radians."""
    length = np.linalg.norm(axis_angle[:3])
    result = np.eye(4)
    if length:
        x, y, z = axis_angle[:3] / length
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        angle = float(axis_angle[3])
        result[:3, :3] += math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return result


def texture_transform(node: Node, uv: np.ndarray) -> np.ndarray:
    """Applies a node TextureTransform to coordinates [..., 2]: scale and rotate about a centre."""
    center, angle = node.vector("center", 0, 0), float(node.vector("rotation", 0)[0])
    cosine, sine = math.cos(angle), math.sin(angle)
    turned = np.array([[cosine, -sine], [sine, cosine]])
    # The standard transforms coordinates: translated first, then rotated, then scaled.
    moved = (uv + node.vector("translation", 0, 0) + center) @ turned.T
    return moved * node.vector("scale", 1, 1) - center
