# SPDX-License-Identifier: Apache-2.0
"""Shading normals of triangle soups."""

import numpy as np

# Faces at a smaller angle are shaded as one smooth surface, so that eight-sided legs look round.
SMOOTH_COSINE = np.cos(np.radians(46.0))
# Where more faces meet (tips of fans, mostly flat caps), each is shaded separately.
MAX_SMOOTH_FACES = 32


def group_corners(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sorts the corners of a triangle soup by position.

    Args:
      triangles: float32 [faces, 3, 3].

    Returns:
      Corner indices in sorted order [3 * faces], and the index into them at which each position
      begins [positions].
    """
    low, high = triangles.min(axis=(0, 1)), triangles.max(axis=(0, 1))
    # Corners closer than a millionth of the object have the same position. With a power of two,
    # halves and quarters of the object, where symmetric models have corners, are not near a
    # rounding boundary.
    scale = 2**19 / max(float((high - low).max()), 1e-30)
    grid = np.rint((triangles.reshape(-1, 3).astype(np.float64) - low) * scale).astype(np.int64)
    position = grid[:, 0] << 40 | grid[:, 1] << 20 | grid[:, 2]  # 20 bits per axis
    order = np.argsort(position)
    return order, np.flatnonzero(np.diff(position[order], prepend=-1))


def corner_normals(triangles: np.ndarray, *, order: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Computes shading normals: smooth over small bends, flat at edges.

    The normals of files are ignored, because most files of the catalogues have none. The normal of
    a corner is the mean, weighted by angle, over the faces at its position whose normals are close
    to that of its own face.

    Args:
      triangles: float32 [faces, 3, 3].
      order: corner indices by position, from `group_corners`.
      first: start of each position, from `group_corners`.

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
        smooth = (facet[corner] * facet[other]).sum(axis=1) > SMOOTH_COSINE
        total[corner] += weighted[other] * smooth[:, None]
    normals = np.empty_like(total)
    normals[order] = unit(total)
    return normals.reshape(triangles.shape).astype(np.float32)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Scales vectors [..., 3] to length 1; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
