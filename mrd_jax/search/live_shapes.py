# SPDX-License-Identifier: Apache-2.0
"""The shapes of several segments without the removed ones, as one sequence."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from mrd_jax.search import entries, segments

# Rows that are converted or copied at a time.
_BLOCK = 8_192


@dataclasses.dataclass(frozen=True)
class Part:
    """A segment and the numbers of those of its shapes that are not removed.

    Attributes:
      segment: open segment.
      name: name of its folder; "" in format 1.
      removed: int64, numbers of its removed shapes, ascending.
    """

    segment: segments.Segment
    name: str
    removed: np.ndarray

    @functools.cached_property
    def live(self) -> np.ndarray:
        """Numbers of the shapes that are not removed, int64, ascending."""
        return np.delete(np.arange(len(self.segment)), self.removed)

    def __len__(self) -> int:
        return len(self.segment) - len(self.removed)


class Layout:
    """Numbers of the shapes of an index: those of the first part, of the second, and so on.

    Args:
      parts: the parts in order.
    """

    def __init__(self, parts: Sequence[Part]):
        self.parts = tuple(parts)
        # First number of each part, and the number of all shapes.
        self.starts = np.cumsum([0, *map(len, parts)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def locate(self, number: int) -> tuple[segments.Segment, int]:
        """Returns the segment of a shape and its number in it.

        Raises:
          IndexError: there is no such shape.
        """
        if not 0 <= number < len(self):
            raise IndexError(f"shape {number} of {len(self)}")
        place = int(np.searchsorted(self.starts, number, side="right")) - 1
        part = self.parts[place]
        return part.segment, int(part.live[number - self.starts[place]])

    def keys(self) -> np.ndarray:
        """Returns `entries.key_of` all shapes, uint64 [shapes]."""
        keys = [part.segment.keys[part.live] for part in self.parts]
        return np.concatenate([np.zeros(0, np.uint64), *keys])


class Items(Sequence[entries.Item]):
    """Metadata of all shapes; each is read from its file when it is asked for."""

    def __init__(self, layout: Layout):
        self._layout = layout

    def __len__(self) -> int:
        return len(self._layout)

    @overload
    def __getitem__(self, number: int) -> entries.Item: ...

    @overload
    def __getitem__(self, number: slice) -> tuple[entries.Item, ...]: ...

    def __getitem__(self, number: Any) -> Any:
        if isinstance(number, slice):
            return tuple(self[each] for each in range(*number.indices(len(self))))
        number = int(number)
        segment, local = self._layout.locate(number + len(self) if number < 0 else number)
        return segment.item(local)

    def __iter__(self) -> Iterator[entries.Item]:
        for part in self._layout.parts:
            yield from (part.segment.item(number) for number in part.live.tolist())


class Column:
    """An array of all shapes, [shapes, ...], whose rows are read when they are asked for.

    A row, a slice or an integer array of rows is an array in memory; so is `np.asarray(column)`.

    Attributes:
      shape: shape of the array.
      dtype: type of its elements.
    """

    def __init__(self, layout: Layout, name: str, *, shape: tuple[int, ...]):
        """Creates a column.

        Args:
          layout: numbers of the shapes.
          name: "rows", "xyz" or "rgb".
          shape: shape of a row.
        """
        self._layout, self._name = layout, name
        self.shape = (len(layout), *shape)
        self.dtype = np.dtype(segments.ARRAYS[name])

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self))
            if step == 1:
                return self._range(start, max(start, stop))
            index = np.arange(start, stop, step)
        numbers = np.asarray(index)
        if numbers.dtype == bool:
            numbers = np.flatnonzero(numbers)
        flat = numbers.reshape(-1).astype(np.int64)
        flat = np.where(flat < 0, flat + len(self), flat)
        if flat.size and not 0 <= flat.min() <= flat.max() < len(self):
            raise IndexError(f"rows {flat.min()} to {flat.max()} of {len(self)}")
        rows = np.empty((len(flat), *self.shape[1:]), self.dtype)
        places = np.searchsorted(self._layout.starts, flat, side="right") - 1
        for place in np.unique(places).tolist():
            part = self._layout.parts[place]
            mine = places == place
            local = part.live[flat[mine] - self._layout.starts[place]]
            rows[mine] = getattr(part.segment, self._name)[local]
        return rows.reshape(*numbers.shape, *self.shape[1:])

    def _range(self, start: int, stop: int) -> np.ndarray:
        """Returns consecutive rows."""
        pieces = []
        for first, part in zip(self._layout.starts.tolist(), self._layout.parts, strict=False):
            low, high = max(start - first, 0), min(stop - first, len(part))
            if low < high:
                array = getattr(part.segment, self._name)
                whole = not len(part.removed)
                pieces.append(array[low:high] if whole else array[part.live[low:high]])
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([np.zeros((0, *self.shape[1:]), self.dtype), *pieces])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("the rows of an index are not one array; they have to be copied")
        array = np.empty(self.shape, self.dtype if dtype is None else dtype)
        for start in range(0, len(self), _BLOCK):
            array[start : start + _BLOCK] = self[start : start + _BLOCK]
        return array
