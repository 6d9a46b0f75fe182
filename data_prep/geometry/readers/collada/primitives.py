# SPDX-License-Identifier: Apache-2.0
"""Polygons, strips and fans of COLLADA geometry as triangles."""

import dataclasses
from xml.etree.ElementTree import Element

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers import polygons
from data_prep.geometry.readers.collada import document, sources
from data_prep.geometry.readers.collada.document import Document

_KINDS = ("triangles", "polylist", "polygons", "tristrips", "trifans")
_IGNORED = ("lines", "linestrips")


@dataclasses.dataclass(frozen=True)
class Primitive:
    """Triangles of one material symbol.

    Attributes:
      symbol: symbol of the material, or None.
      vertices: int64 [faces, 3], indices into the positions.
      positions: reference to the array of positions.
      uv: [faces, 3, 2] by number of the set, origin at the lower left.
      colours: float32 [faces, 3, 4], RGBA of the corners, or None.
    """

    symbol: str | None
    vertices: np.ndarray
    positions: str
    uv: dict[int, np.ndarray]
    colours: np.ndarray | None


def read_mesh(mesh: Element, *, doc: Document) -> list[Primitive]:
    """Reads the primitives of an element `mesh` that have faces.

    Raises:
      scene.MeshError: an index or a count is invalid.
      limits.LimitError: there are too many faces.
    """
    found = [_read(element, doc=doc) for element in mesh if element.tag in _KINDS]
    if any(element.tag in _IGNORED for element in mesh):
        doc.assets.notes.append("lines, ignored")
    return [primitive for primitive in found if primitive is not None]


def _read(element: Element, *, doc: Document) -> Primitive | None:
    """Reads one primitive; None if it has no faces."""
    inputs = sources.read_inputs(element, doc=doc)
    stride = max((i.offset for i in inputs), default=0) + 1
    limits.ARRAY_BYTES.check(8 * stride)
    position = next((i for i in inputs if i.semantic == "POSITION"), None)
    points = None if position is None else sources.read_source(position.source, doc=doc)
    lists = _index_lists(element, stride=stride)
    if not lists and not element.findall("ph"):
        return None
    if position is None or points is None or points.shape[1] < 2:
        raise scene.MeshError("a primitive without positions")
    points = _three(points)
    for hole in element.findall("ph"):
        rings = [document.integers(ring).reshape(-1, stride) for ring in hole]
        if rings and all(map(len, rings)):
            for ring in rings:
                _checked(ring[:, position.offset], len(points))
            lists.append(_bridged(rings, points=points, offset=position.offset))
    indices, counts = _corners(element, lists)
    chosen = _checked(indices[:, position.offset], len(points))
    corners = _triangulate(element.tag, points, chosen, counts)
    if not len(corners):
        return None
    return Primitive(
        symbol=element.get("material"),
        vertices=chosen[corners],
        positions=position.source,
        uv={
            i.set: values[:, :, :2]
            for i in reversed(inputs)
            if i.semantic == "TEXCOORD"
            and (values := _values(i, indices[corners], doc=doc)) is not None
        },
        colours=_colours(inputs, indices[corners], doc=doc),
    )


def _index_lists(element: Element, *, stride: int) -> list[np.ndarray]:
    """Returns the indices of each element `p`, [corners, stride]."""
    lists = [document.integers(p) for p in element.findall("p")]
    return [n[: len(n) // stride * stride].reshape(-1, stride) for n in lists if len(n) >= stride]


def _bridged(rings: list[np.ndarray], *, points: np.ndarray, offset: int) -> np.ndarray:
    """Returns a polygon with holes as one ring: an edge there and back connects each hole.

    Args:
      rings: indices [corners, stride] of the outer ring, then of the holes.
      points: [points, 3].
      offset: position of the index of a point.
    """
    joined = rings[0]
    for hole in rings[1:]:
        limits.CONCAVE_CORNERS.check(len(joined) * len(hole))
        outer, inner = points[joined[:, offset]], points[hole[:, offset]]
        distances = np.linalg.norm(outer[:, None] - inner, axis=2)
        at, start = np.unravel_index(np.argmin(distances), distances.shape)
        around = np.concatenate([hole[start:], hole[: start + 1]])
        joined = np.concatenate([joined[: at + 1], around, joined[at:]])
    return joined


def _corners(element: Element, lists: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of all corners [corners, stride], and the corners of each polygon."""
    indices = np.concatenate(lists)
    if element.tag == "triangles":
        return indices[: len(indices) // 3 * 3], np.full(len(indices) // 3, 3)
    if element.tag == "polylist":
        counts = document.integers(element.find("vcount"))
        if (counts < 0).any() or counts.sum() > len(indices):
            raise scene.MeshError("polygons with more corners than indices")
        return indices[: counts.sum()], counts
    return indices, np.array([len(numbers) for numbers in lists])


def _triangulate(
    kind: str, points: np.ndarray, chosen: np.ndarray, counts: np.ndarray
) -> np.ndarray:
    """Returns the triangles as positions in the list of corners, int64 [faces, 3]."""
    if kind not in ("tristrips", "trifans"):
        return polygons.triangulate(points, chosen, counts=counts).corners
    triangles = np.maximum(counts - 2, 0)
    limits.FACES.check(int(triangles.sum()))
    first = np.repeat(np.cumsum(counts) - counts, triangles)
    step = np.arange(len(first)) - np.repeat(np.cumsum(triangles) - triangles, triangles)
    if kind == "trifans":
        return np.stack([first, first + step + 1, first + step + 2], axis=1)
    odd = step % 2
    return np.stack([first + step, first + step + 1 + odd, first + step + 2 - odd], axis=1)


def _checked(indices: np.ndarray, count: int) -> np.ndarray:
    """Returns indices that are valid. MeshError if one is not."""
    if len(indices) and (indices.min() < 0 or indices.max() >= count):
        raise scene.MeshError("an index of an array item that does not exist")
    return indices


def _three(points: np.ndarray) -> np.ndarray:
    """Returns points with exactly three components."""
    if points.shape[1] == 3:
        return points
    return np.pad(points[:, :3], ((0, 0), (0, max(0, 3 - points.shape[1]))))


def _values(chosen: sources.Input, corners: np.ndarray, *, doc: Document) -> np.ndarray | None:
    """Returns the items of an input at corners [faces, 3, stride], or None and a note."""
    items = sources.read_source(chosen.source, doc=doc)
    if items is None or items.shape[1] < 2:
        return None
    indices = corners[..., chosen.offset]
    if len(indices) and (indices.min() < 0 or indices.max() >= len(items)):
        doc.assets.notes.append(f"{chosen.semantic} beyond its array, ignored")
        return None
    return items[indices]


def _colours(
    inputs: list[sources.Input], corners: np.ndarray, *, doc: Document
) -> np.ndarray | None:
    """Returns the colours of the corners, those of the lowest set, or None."""
    chosen = min((i for i in inputs if i.semantic == "COLOR"), key=lambda i: i.set, default=None)
    values = None if chosen is None else _values(chosen, corners, doc=doc)
    if values is None or values.shape[2] < 3:
        return None
    if values.max(initial=0) > 1.5:  # 0 to 255 instead of 0 to 1
        values = values / 255
    rgba = np.ones((*values.shape[:2], 4), np.float32)
    rgba[..., : values.shape[2]] = values[..., :4]
    return rgba


def positions(primitive: Primitive, *, doc: Document) -> np.ndarray:
    """Returns the positions that a primitive indexes, float64 [vertices, 3]."""
    return _three(sources.read_source(primitive.positions, doc=doc))
