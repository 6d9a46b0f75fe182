# SPDX-License-Identifier: Apache-2.0
"""Shading normals of triangle soups."""

import numpy as np

# Faces that meet at less than this are shaded as one smooth surface; eight-sided legs are round.
SMOOTH_COSINE = np.cos(np.radians(46.0))
# Where more faces meet (tips of fans, mostly flat caps), each is shaded by itself.
MAX_SMOOTH_FACES = 32


def same_place(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts the corners of a triangle soup by place.

    Args:
      triangles: float32 [faces, 3, 3].

    Returns:
      Corner numbers in sorted order [3 faces], and where in it each new place begins [places].
    """
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    # Corners closer than a millionth of the object are in one place. A power of two puts halves
    # and quarters of the object, where symmetric models have corners, far from rounding's edge.
    scale = 2**19 / max(float((high - low).max()), 1e-30)
    grid = np.rint((triangles.reshape(-1, 3).astype(np.float64) - low) * scale).astype(np.int64)
    place = grid[:, 0] << 40 | grid[:, 1] << 20 | grid[:, 2]  # 20 bits an axis
    order = np.argsort(place)
    return order, np.flatnonzero(np.diff(place[order], prepend=-1))


def corner_normals(triangles: np.ndarray, *, order: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Shading normals: smooth over gentle bends, flat at edges.

    Most of the catalogues' files have no normals, so nobody's are used. A corner takes the mean
    normal, by angle, of the faces that meet there and bend little against its own.

    Args:
      triangles: float32 [faces, 3, 3].
      order: corners by place, from `same_place`.
      first: where each place begins, from `same_place`.

    Returns:
      float32 [faces, 3, 3], unit length, zero on degenerate faces.
    """
    face = unit(np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0]))
    ahead = unit(np.roll(triangles, -1, axis=1) - triangles)
    cosine = -(ahead * np.roll(ahead, 1, axis=1)).sum(axis=-1)
    angle = np.arccos(np.clip(cosine, -1, 1)).ravel()  # of each corner
    count = np.diff(first, append=len(order))
    start, meeting = np.repeat(first, count), np.repeat(count, count)
    rank = np.arange(len(order)) - start
    meeting[meeting > MAX_SMOOTH_FACES] = 1
    facet = face[order // 3]
    weighted = facet * angle[order, None]
    total = weighted.copy()
    for turn in range(1, meeting.max()):
        corner = np.flatnonzero(meeting > turn)
        other = start[corner] + (rank[corner] + turn) % meeting[corner]
        gentle = (facet[corner] * facet[other]).sum(axis=1) > SMOOTH_COSINE
        total[corner] += weighted[other] * gentle[:, None]
    normals = np.empty_like(total)
    normals[order] = unit(total)
    return normals.reshape(triangles.shape).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., 3] scaled to length 1; zero stays zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
