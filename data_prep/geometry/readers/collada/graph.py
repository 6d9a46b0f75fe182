# SPDX-License-Identifier: Apache-2.0
"""Nodes of a COLLADA scene: their transforms, and the meshes that they place."""

import dataclasses
import math
from collections.abc import Iterator
from xml.etree.ElementTree import Element

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.readers.collada import document
from data_prep.geometry.readers.collada.document import Document


@dataclasses.dataclass(frozen=True)
class Placed:
    """Mesh or controller at a place of the scene.

    Attributes:
      element: element `instance_geometry` or `instance_controller`.
      transform: float64 [4, 4], to the coordinates of the scene.
    """

    element: Element
    transform: np.ndarray


def instances(nodes: list[Element], *, doc: Document) -> Iterator[Placed]:
    """Yields the meshes and controllers below some nodes.

    Raises:
      limits.LimitError: nodes are nested too deeply, or there are too many of them.
    """
    stack = [(node, np.eye(4), 1) for node in reversed(nodes)]
    visited = 0
    while stack:
        node, parent, depth = stack.pop()
        visited += 1
        limits.NODES.check(visited)
        limits.DEPTH.check(depth)
        transform = parent @ local_transform(node)
        children = []
        for child in node:
            if child.tag in ("instance_geometry", "instance_controller"):
                yield Placed(child, transform)
            elif child.tag == "node":
                children.append(child)
            elif child.tag == "instance_node":
                target = doc.target(child.get("url"), kind="node")
                if target is not None:
                    children.append(target)
        stack += [(child, transform, depth + 1) for child in reversed(children)]


def world_transforms(nodes: list[Element]) -> dict[Element, np.ndarray]:
    """Returns the transforms of some nodes and those below them, without instances of others."""
    found = {}
    stack = [(node, np.eye(4), 1) for node in nodes]
    while stack:
        node, parent, depth = stack.pop()
        limits.DEPTH.check(depth)
        found[node] = parent @ local_transform(node)
        stack += [(child, found[node], depth + 1) for child in node.findall("node")]
    return found


def local_transform(node: Element) -> np.ndarray:
    """Returns the product of the transforms of a node, float64 [4, 4], in their order."""
    result = np.eye(4)
    for element in node:
        make = _TRANSFORMS.get(element.tag)
        if make is not None:
            values = document.floats(element)
            count, function = make
            # An incomplete transform, as of an empty element, is the identity.
            if len(values) >= count:
                result = result @ function(values)
    return result


def _matrix(values: np.ndarray) -> np.ndarray:
    return values[:16].reshape(4, 4)


def _translate(values: np.ndarray) -> np.ndarray:
    result = np.eye(4)
    result[:3, 3] = values[:3]
    return result


def _scale(values: np.ndarray) -> np.ndarray:
    return np.diag([*values[:3], 1.0])


def _rotate(values: np.ndarray) -> np.ndarray:
    """Returns the rotation about an axis by an angle in degrees."""
    length = np.linalg.norm(values[:3])
    if not length:
        return np.eye(4)
    x, y, z = values[:3] / length
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(values[3])
    result = np.eye(4)
    result[:3, :3] += math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return result


def _look_at(values: np.ndarray) -> np.ndarray:
    """Returns the place of something that looks from an eye to a point."""
    eye, target, up = values[:9].reshape(3, 3)
    backward = eye - target
    right = np.cross(up, backward)
    above = np.cross(backward, right)
    lengths = [np.linalg.norm(axis) for axis in (right, above, backward)]
    result = np.eye(4)
    if all(lengths):
        axes = (right, above, backward)
        result[:3, :3] = np.stack([axis / n for axis, n in zip(axes, lengths, strict=True)], axis=1)
    result[:3, 3] = eye
    return result


def _skew(values: np.ndarray) -> np.ndarray:
    """Returns the shear by an angle in degrees, of the axis values[1:4] along values[4:7]."""
    result = np.eye(4)
    lengths = np.linalg.norm(values[1:4]), np.linalg.norm(values[4:7])
    if all(lengths):
        across, along = values[1:4] / lengths[0], values[4:7] / lengths[1]
        result[:3, :3] += math.tan(math.radians(values[0])) * np.outer(along, across)
    return result


# Function from the numbers of a transform to its matrix, and how many it needs.
_TRANSFORMS = {
    "matrix": (16, _matrix),
    "translate": (3, _translate),
    "scale": (3, _scale),
    "rotate": (4, _rotate),
    "lookat": (9, _look_at),
    "skew": (7, _skew),
}
