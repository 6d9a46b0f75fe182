# SPDX-License-Identifier: Apache-2.0
"""Decompression of LZF, in which the Point Cloud Library compresses points."""

from data_prep.geometry import scene


def decompress(data: bytes, *, size: int) -> bytes:
    """Decompresses LZF data.

    A control byte below 32 precedes that many plain bytes, plus one. Another one holds, in its
    upper three bits, the length of a copy of earlier output, and in its lower five bits the upper
    part of the copy's distance; the next byte extends lengths of 7, and the last is the lower part.

    Args:
      data: compressed bytes.
      size: number of bytes of the result.

    Raises:
      scene.MeshError: the data is corrupt.
    """
    result = bytearray()
    position, end = 0, len(data)
    try:
        while position < end:
            control = data[position]
            position += 1
            if control < 32:
                result += data[position : position + control + 1]
                position += control + 1
                continue
            length = control >> 5
            if length == 7:
                length += data[position]
                position += 1
            length += 2
            distance = ((control & 31) << 8 | data[position]) + 1
            position += 1
            start = len(result) - distance
            if start < 0 or len(result) > size:
                raise scene.MeshError("corrupt compressed points")
            piece = result[start : start + length]
            # A copy may overlap the bytes that it writes.
            result += piece if distance >= length else (piece * (length // distance + 1))[:length]
    except IndexError as error:
        raise scene.MeshError("corrupt compressed points") from error
    if len(result) != size:
        raise scene.MeshError(f"compressed points of {len(result)} bytes; expected {size}")
    return bytes(result)
