# SPDX-License-Identifier: Apache-2.0
"""Which segments of an index are joined, so that there are few and little is copied.

Segments shrink geometrically from the first to the last: a shape is copied a number of times that
grows with the logarithm of the number of additions.
"""

from collections.abc import Sequence

from mrd_jax.search import live_shapes

# A segment is joined with those after it if it has at most this many times their shapes.
_RATIO = 4
# A segment is copied without its removed shapes if they are more than this fraction of it.
_MAX_REMOVED = 0.25


def plan(
    parts: Sequence[live_shapes.Part], *, convert: bool = False
) -> list[Sequence[live_shapes.Part]]:
    """Returns the segments in groups; those of a group are copied into one segment.

    Args:
      parts: segments in order, with their removed shapes.
      convert: whether all segments are copied into one.
    """
    parts = [part for part in parts if len(part)]
    if not parts:
        return []
    start, total = len(parts) - 1, len(parts[-1])
    while start > 0 and (convert or len(parts[start - 1]) <= _RATIO * total):
        start -= 1
        total += len(parts[start])
    return [*((part,) for part in parts[:start]), tuple(parts[start:])]


def must_copy(group: Sequence[live_shapes.Part]) -> bool:
    """Returns whether a group of `plan` has to be copied, or is a segment that can stay."""
    first = group[0]
    return (
        len(group) > 1 or not first.name or len(first.removed) > _MAX_REMOVED * len(first.segment)
    )
