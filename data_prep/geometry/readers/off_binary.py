# SPDX-License-Identifier: Apache-2.0
"""Binary form of the Object File Format: big-endian int32 and float32, as Geomview defines it."""

import struct

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import file_checks
from data_prep.geometry.scene import MeshError


def read(
    data: bytes, position: int, *, columns: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Reads the counts, the vertices and the faces.

    Args:
      data: bytes of the file.
      position: position behind the word BINARY.
      columns: numbers per vertex.

    Returns:
      The fields of `off.Body`.

    Raises:
      MeshError: the file is truncated or malformed.
      limits.LimitError: the file exceeds a limit.
    """
    line_end = data.find(b"\n", position)
    if line_end < 0 or len(data) < line_end + 13:
        raise MeshError("malformed OFF: no counts of vertices and faces")
    vertex_count, face_count, _ = struct.unpack_from(">3i", data, line_end + 1)
    if min(vertex_count, face_count) < 0:
        raise MeshError("malformed OFF: a negative count")
    (limits.VERTICES if face_count else limits.POINTS).check(vertex_count)
    limits.FACES.check(face_count)
    position = line_end + 13
    available = (len(data) - position) // (4 * columns)
    if available < vertex_count:
        raise file_checks.truncated("vertices", available, of=vertex_count)
    end = position + 4 * columns * vertex_count
    numbers = np.frombuffer(data[position:end], ">f4") if vertex_count else np.zeros(0)
    vertices = numbers.astype(np.float64).reshape(-1, columns)
    position = end
    rest = data[position : position + (len(data) - position) // 4 * 4]
    starts, counts, channels = _walk(rest, face_count)
    words = np.frombuffer(rest, ">i4") if rest else np.zeros(0, ">i4")
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    indices = words[np.repeat(starts, counts) + within].astype(np.int64)
    colours = None
    if channels.any():
        colours = np.full((face_count, 4), np.nan)
        floats = words.view(">f4")
        for channel in range(4):
            # One number is that of a colour map.
            has = (channels > channel) & (channels != 1)
            colours[has, channel] = floats[(starts + counts + 1)[has] + channel]
        colours[channels == 1, 0] = 0
    return vertices, indices, counts, colours


def _walk(data: bytes, face_count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Finds the faces among the words of four bytes behind the vertices.

    Returns:
      int64 [faces]: position of the first index, number of corners, number of colour channels.
    """
    rows = np.zeros((face_count, 3), np.int64)
    position, end = 0, len(data) // 4
    unpack = struct.Struct(">i").unpack_from
    for row in range(face_count):
        count = unpack(data, 4 * position)[0] if position < end else 0
        after = position + 1 + count
        channels = unpack(data, 4 * after)[0] if count >= 0 and after < end else -1
        if count < 0 or (after < end and not 0 <= channels <= 4):
            raise MeshError("malformed OFF: a face with a negative or too large count")
        if after >= end or after + 1 + channels > end:
            raise file_checks.truncated("faces", row, of=face_count)
        rows[row] = position + 1, count, channels
        position = after + 1 + channels
    return rows[:, 0], rows[:, 1], rows[:, 2]
