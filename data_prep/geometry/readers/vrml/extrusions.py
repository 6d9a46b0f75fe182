# SPDX-License-Identifier: Apache-2.0
"""Extrusion of VRML97: a cross section that moves along a spine."""

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers.vrml import transforms
from data_prep.geometry.readers.vrml.nodes import Node

_SQUARE = np.array([[1.0, 1], [1, -1], [-1, -1], [-1, 1], [1, 1]])
_UP = np.array([0.0, 1, 0])


def cross_section(node: Node) -> np.ndarray:
    """Returns the x and z of the cross section, float64 [points, 2]."""
    rows = node.rows("crossSection", 2)
    return rows if len(rows) > 1 else _SQUARE


def rings(node: Node) -> np.ndarray:
    """Returns the cross section at each point of the spine, float64 [spine, points, 3].

    Raises:
      scene.MeshError: the scales or orientations are fewer than the points of the spine.
      limits.LimitError: there are too many points.
    """
    outline = cross_section(node)
    spine = node.rows("spine", 3)
    if not len(spine):
        spine = np.array([[0.0, 0, 0], [0, 1, 0]])
    limits.VERTICES.check(len(spine) * len(outline))
    scales = _per_point(node.rows("scale", 2), [1, 1], len(spine))
    turns = _per_point(node.rows("orientation", 4), [0, 0, 1, 0], len(spine))
    planes = _planes(spine)
    flat = np.zeros((len(spine), len(outline), 3))
    flat[..., [0, 2]] = outline * scales[:, None]
    turned = np.stack([transforms.rotation(turn)[:3, :3] for turn in turns])
    return spine[:, None] + flat @ (planes @ turned).transpose(0, 2, 1)


def _per_point(rows: np.ndarray, default: list[float], count: int) -> np.ndarray:
    """Returns one row per point of the spine; a single row holds for all."""
    if len(rows) <= 1:
        return np.repeat(rows if len(rows) else np.array([default], np.float64), count, axis=0)
    if len(rows) < count:
        raise scene.MeshError("an extrusion with fewer scales or orientations than points")
    return rows[:count]


def _planes(spine: np.ndarray) -> np.ndarray:
    """Returns the axes of the cross section at each point, as columns, float64 [spine, 3, 3].

    The y axis follows the spine; the z axis is normal to its bend, does not turn over from one
    point to the next, and is that of a neighbour where the spine is straight.
    """
    closed = len(spine) > 2 and np.array_equal(spine[0], spine[-1])
    before = np.concatenate([spine[-2:-1] if closed else spine[:1], spine[:-1]])
    after = np.concatenate([spine[1:], spine[1:2] if closed else spine[-1:]])
    along = _unit(after - before)
    for i in range(1, len(along)):  # coinciding points
        along[i] = along[i] if along[i].any() else along[i - 1]
    if not along[0].any():
        first = along[along.any(axis=1)]
        along[~along.any(axis=1)] = first[0] if len(first) else _UP
    normal = _unit(np.cross(after - spine, before - spine))
    bent = np.flatnonzero(normal.any(axis=1))
    if not len(bent):
        return np.repeat(_straight(along[0])[None], len(spine), axis=0)
    normal[: bent[0]] = normal[bent[0]]
    for i in range(bent[0] + 1, len(normal)):
        if not normal[i].any():
            normal[i] = normal[i - 1]
        elif normal[i] @ normal[i - 1] < 0:
            normal[i] = -normal[i]
    return np.stack([np.cross(along, normal), along, normal], axis=2)


def _straight(along: np.ndarray) -> np.ndarray:
    """Returns the rotation that turns the y axis into the direction of a straight spine."""
    axis = np.cross(_UP, along)
    if not axis.any():
        axis = np.array([1.0, 0, 0])
    angle = np.arccos(np.clip(_UP @ along, -1, 1))
    return transforms.rotation(np.append(axis, angle))[:3, :3]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Returns vectors of length 1, or 0 for those that are negligible."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    largest = lengths.max(initial=0)
    return np.where(lengths > 1e-9 * largest, vectors / np.where(lengths, lengths, 1), 0)
