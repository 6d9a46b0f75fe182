# SPDX-License-Identifier: Apache-2.0
"""Triangulation of polygons of any number of corners, convex or concave."""

import typing

import numpy as np

from data_prep.foreign import limits

# A fan whose triangles cover this much more than the polygon's area overlaps itself.
_OVERLAP = 1e-6
# Corners, padding included, of polygons whose ears are clipped together: they fit into a cache.
_BATCH_CORNERS = 2**16


class Triangulation(typing.NamedTuple):
    """Triangles of some polygons, in the order of the polygons.

    Attributes:
      corners: int64 [triangles, 3], positions in the list of the corners of all polygons.
      polygon: int64 [triangles], index of the polygon of each triangle.
    """

    corners: np.ndarray
    polygon: np.ndarray


def triangulate(
    vertices: np.ndarray, indices: np.ndarray, *, counts: np.ndarray | None = None
) -> Triangulation:
    """Cuts polygons into triangles; a polygon of n corners gives n - 2.

    A polygon becomes a fan around its first corner (a quad: corners 0 1 2 and 2 3 0), unless the
    triangles of the fan overlap, as in a concave polygon: its ears are clipped in the plane of its
    Newell normal. Polygons of fewer than three corners are dropped; those without area become a
    fan of triangles without area.

    Args:
      vertices: float64 [vertices, 3].
      indices: int [corners], vertex of every corner, polygon after polygon; or int [polygons, n].
        All must be valid.
      counts: int [polygons], corners of each polygon; None for `indices` of two axes.

    Returns:
      The triangles. `indices.reshape(-1)[result.corners]` are their vertices.

    Raises:
      limits.LimitError: there are too many faces, or concave polygons with too many corners.
    """
    if counts is None:
        counts = np.full(len(indices), indices.shape[1])
    indices, counts = np.asarray(indices).reshape(-1), np.asarray(counts, np.int64)
    triangles = np.maximum(counts - 2, 0)
    limits.FACES.check(int(triangles.sum()))
    starts = np.cumsum(counts) - counts
    polygon = np.repeat(np.arange(len(counts)), triangles)
    first = np.cumsum(triangles) - triangles  # first triangle of each polygon
    step = np.arange(len(polygon)) - first[polygon]
    corners = np.stack([np.zeros_like(step), step + 1, step + 2], axis=1)
    # The order in which data sets of earlier versions have the corners: it decides which points a
    # seed samples.
    corners[(step == 1) & (counts[polygon] == 4)] = (2, 3, 0)
    corners += starts[polygon, None]
    many = np.flatnonzero(counts > 3)
    if len(many):
        chosen, normals, covered = _overlapping(
            vertices, indices, corners, triangles=triangles, many=many
        )
        limits.CONCAVE_CORNERS.check(int((counts[chosen] ** 2).sum()))
        for batch in _batches(counts[chosen]):
            rows = chosen[batch]
            places = np.minimum(np.arange(counts[rows].max()), counts[rows, None] - 1)
            points = vertices[indices[starts[rows, None] + places]]
            cut, row = _clip_ears(_project(points, normals[batch]), counts[rows])
            # A polygon that crosses or folds itself may be no better off.
            areas = np.abs(
                np.einsum("tk,tk->t", _normals(points[row[:, None], cut]), normals[batch][row])
            )
            kept = np.bincount(row, areas) < covered[batch] * (1 - _OVERLAP)
            target = first[rows[row]] + np.concatenate([np.arange(n) for n in triangles[rows]])
            cut += starts[rows[row], None]
            corners[target[kept[row]]] = cut[kept[row]]
    return Triangulation(corners, polygon)


def _overlapping(
    vertices: np.ndarray,
    indices: np.ndarray,
    corners: np.ndarray,
    *,
    triangles: np.ndarray,
    many: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the polygons whose fan overlaps itself.

    Args:
      vertices: float64 [vertices, 3].
      indices: int [corners], vertex of every corner.
      corners: int [triangles, 3], the fans of all polygons.
      triangles: int [polygons], triangles of each polygon.
      many: polygons of more than three corners.

    Returns:
      Indices of the polygons; their Newell normals [found, 3]; the area that their fans cover in
      the plane of the normal, times the normal's length [found].
    """
    fans = corners if len(many) == len(triangles) else corners[np.repeat(triangles > 1, triangles)]
    sizes = triangles[many]
    ends = np.cumsum(sizes)
    with np.errstate(over="ignore", invalid="ignore"):
        crosses = _normals(vertices[indices[fans]])
        # The sum over the triangles of a fan is Newell's normal.
        normals = np.add.reduceat(crosses, ends - sizes)
        lengths = np.sqrt(np.einsum("pk,pk->p", normals, normals))
        areas = np.einsum("tk,tk->t", crosses, np.repeat(normals, sizes, axis=0))
        covered = np.add.reduceat(np.abs(areas), ends - sizes)
        overlaps = covered > lengths**2 * (1 + _OVERLAP)
        overlaps &= np.isfinite(covered) & (lengths > 0)
    return many[overlaps], normals[overlaps], covered[overlaps]


def _normals(triangles: np.ndarray) -> np.ndarray:
    """Returns normals [n, 3] as long as twice the area; several times as fast as `numpy.cross`."""
    edges = triangles[:, 1:] - triangles[:, :1]
    x, y, z = edges[:, 0].T
    u, v, w = edges[:, 1].T
    return np.stack([y * w - z * v, z * u - x * w, x * v - y * u], axis=1)


def _batches(counts: np.ndarray) -> list[np.ndarray]:
    """Groups polygons of similar numbers of corners; returns arrays of indices."""
    batches = []
    # Sizes in steps of 3/2 and 4/3 bound both the padding and the number of groups.
    octave = 2 ** np.floor(np.log2(np.maximum(counts - 1, 1))).astype(np.int64)
    widths = np.where(counts <= octave * 3 // 2, octave * 3 // 2, octave * 2)
    for width in np.unique(widths):
        group = np.flatnonzero(widths == width)
        size = max(_BATCH_CORNERS // int(width), 1)
        batches += [group[i : i + size] for i in range(0, len(group), size)]
    return batches


def _project(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Projects polygons [p, n, 3] along the main axis of their normals, counterclockwise."""
    axis = np.abs(normals).argmax(axis=1)
    positive = normals[np.arange(len(axis)), axis] > 0
    left, right = (axis + 1) % 3, (axis + 2) % 3
    axes = np.where(positive[:, None], np.stack([left, right], 1), np.stack([right, left], 1))
    flat = np.take_along_axis(points, axes[:, None], axis=2)
    return flat - flat[:, :1]  # the differences below are exact for far coordinates


class _Ears:
    """Rings of corners that are left of some polygons, and which of the corners are ears."""

    def __init__(self, points: np.ndarray, counts: np.ndarray):
        polygons, width = points.shape[:2]
        self._points = points
        self.left = counts.copy()
        position = np.arange(width)
        self.before = np.where(position > 0, position - 1, counts[:, None] - 1)
        self.after = np.where(position + 1 < counts[:, None], position + 1, 0)
        self._turn = np.full((polygons, width), -np.inf)
        self._reflex = np.zeros((polygons, width), bool)
        self._ear = np.zeros((polygons, width), bool)
        rows = np.arange(polygons)
        steps = [(rows[counts > k], k) for k in range(width)]
        for chosen, corner in steps:
            self._measure(chosen, np.full(len(chosen), corner))
        for chosen, corner in steps:
            self._test(chosen, np.full(len(chosen), corner))

    def _measure(self, rows: np.ndarray, corner: np.ndarray) -> None:
        """Computes whether corners turn left, as those of a convex polygon do."""
        at = self._points[rows, corner]
        into = at - self._points[rows, self.before[rows, corner]]
        out = self._points[rows, self.after[rows, corner]] - at
        turn = into[:, 0] * out[:, 1] - into[:, 1] * out[:, 0]
        self._turn[rows, corner] = turn
        self._reflex[rows, corner] = turn < 0

    def _test(self, rows: np.ndarray, corner: np.ndarray) -> None:
        """Computes whether corners are ears: no other corner lies in their triangle.

        It is enough to look at reflex corners. Those at the place of a corner of the triangle are
        the second visit of a bridge to a hole.
        """
        around = (self.before[rows, corner], corner, self.after[rows, corner])
        x, y = self._points[rows, :, 0], self._points[rows, :, 1]
        xs, ys = np.stack([self._points[rows, c] for c in around]).transpose(2, 0, 1)[..., None]
        inside = self._reflex[rows]
        for a, b in ((0, 1), (1, 2), (2, 0)):
            side = (xs[b] - xs[a]) * (y - ys[a]) - (ys[b] - ys[a]) * (x - xs[a])
            inside &= (side >= 0) & ((x != xs[a]) | (y != ys[a]))
        turn = self._turn[rows, corner]
        self._ear[rows, corner] = (turn == 0) | ((turn > 0) & ~inside.any(axis=1))

    def clip(self, rows: np.ndarray) -> np.ndarray:
        """Removes an ear of each of some polygons; returns the corners of the triangles [r, 3]."""
        ear = self._ear[rows]
        corner = ear.argmax(axis=1)
        # Only a polygon that crosses itself has no ear.
        stuck = ~ear[np.arange(len(rows)), corner]
        corner[stuck] = self._turn[rows[stuck]].argmax(axis=1)
        before, after = self.before[rows, corner], self.after[rows, corner]
        self.after[rows, before], self.before[rows, after] = after, before
        self._ear[rows, corner] = self._reflex[rows, corner] = False
        self._turn[rows, corner] = -np.inf
        self.left[rows] -= 1
        twice, neighbours = np.tile(rows, 2), np.concatenate([before, after])
        self._measure(twice, neighbours)
        self._test(twice, neighbours)
        return np.stack([before, corner, after], axis=1)


def _clip_ears(points: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cuts polygons in a plane into triangles by clipping their ears, all polygons at once.

    Args:
      points: [polygons, n, 2], corners counterclockwise; those from `counts` on are ignored.
      counts: int [polygons], corners of each polygon, at least 3.

    Returns:
      int [triangles, 3], corners of the triangles, and int [triangles], their polygons, ascending.
    """
    ears = _Ears(points, counts)
    cut = np.zeros((len(points), points.shape[1] - 2, 3), np.int64)
    for step in range(points.shape[1] - 3):
        rows = np.flatnonzero(ears.left > 3)
        cut[rows, step] = ears.clip(rows)
    # The last triangle of every polygon is what is left of it.
    rows = np.arange(len(points))
    corner = cut[rows, np.maximum(counts - 4, 0), 0] * (counts > 3)
    before, after = ears.before[rows, corner], ears.after[rows, corner]
    cut[rows, counts - 3] = np.stack([before, corner, after], axis=1)
    is_triangle = np.arange(cut.shape[1]) < counts[:, None] - 2
    return cut[is_triangle], np.nonzero(is_triangle)[0]
