# SPDX-License-Identifier: Apache-2.0
"""Parser of the Object File Format (OFF) of Princeton's ModelNet.

In many files of ModelNet40 no line break separates the word OFF from the counts ("OFF6586 5534 0").
"""

import numpy as np

from data_prep import shapes
from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.surface import Surface, join


def parse(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Parses the vertices and faces of an OFF file; triangulates polygons as fans.

    Args:
      data: content of the file.

    Returns:
      vertices float64 [vertices, 3] and faces int64 [triangles, 3].

    Raises:
      shapes.SkipShape: the file is malformed, too large or has no faces.
    """
    lines = [line for line in (raw.split(b"#")[0].split() for raw in data.splitlines()) if line]
    if not lines or not lines[0][0].startswith(b"OFF"):
        raise shapes.SkipShape("malformed OFF: it does not start with OFF")
    first = [lines[0][0].removeprefix(b"OFF"), *lines[0][1:]]
    lines[0] = [word for word in first if word]
    if not lines[0]:
        lines.pop(0)
    try:
        vertex_count, face_count = (int(word) for word in lines[0][:2])
    except (IndexError, ValueError) as error:
        raise shapes.SkipShape("malformed OFF: no counts") from error
    body = lines[1:]
    if min(vertex_count, face_count) < 0 or len(body) < vertex_count + face_count:
        raise shapes.SkipShape("malformed OFF: fewer lines than it counts")
    if vertex_count > limits.VERTICES.maximum() or face_count > limits.FACES.maximum():
        raise shapes.SkipShape(f"too large: {vertex_count} vertices, {face_count} faces")
    if not vertex_count or not face_count:
        raise shapes.SkipShape("no faces")
    try:
        vertices = np.array([line[:3] for line in body[:vertex_count]], np.float64)
        faces = _triangles(body[vertex_count : vertex_count + face_count])
    except (IndexError, ValueError, OverflowError) as error:
        raise shapes.SkipShape("malformed OFF: not numbers") from error
    if vertices.shape != (vertex_count, 3):
        raise shapes.SkipShape("malformed OFF: not numbers")
    if not np.isfinite(vertices).all():
        raise shapes.SkipShape("non-finite coordinates")
    if not len(faces) or faces.min() < 0 or faces.max() >= vertex_count:
        raise shapes.SkipShape("malformed OFF: a face names no vertex")
    return vertices, faces


def surface(vertices: np.ndarray, faces: np.ndarray) -> Surface:
    """Returns an untextured white surface.

    Args:
      vertices: [vertices, 3], z up.
      faces: int [triangles, 3], indices into `vertices`.
    """
    return join([scene.Part(vertices[faces])], fill=1, notes=[])


def _triangles(lines: list[list[bytes]]) -> np.ndarray:
    """Triangulates polygons as fans around their first corner; ignores face colours."""
    triangles = []
    for line in lines:
        corners = [int(word) for word in line[1 : int(line[0]) + 1]]
        if len(corners) != int(line[0]):
            raise ValueError("a face has fewer corners than it counts")
        triangles += [(corners[0], *pair) for pair in zip(corners[1:-1], corners[2:], strict=True)]
    return np.array(triangles, np.int64).reshape(-1, 3)
