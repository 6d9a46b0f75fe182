# SPDX-License-Identifier: Apache-2.0
"""Finds copies of shapes in an index: exact, near, and up to rotation and scale.

Candidates are the shapes whose embeddings are nearest, and those whose distributions of distances
between points are nearest, which do not depend on rotation. Each candidate is then aligned and
compared point by point, see `alignment`.
"""

import collections
import dataclasses
import functools
import hashlib
import heapq
import os
from collections.abc import Iterable, Sequence
from concurrent import futures

import numpy as np
import tqdm
from scipy import spatial

from mrd_jax.library import alignment
from mrd_jax.search import shape_index

EXACT, NEAR, ROTATED = "exact", "near", "rotated"
# Largest distance of copies, see `alignment.Alignment`; measured by `benchmarks.duplicates`.
MAX_DISTANCE = 1.1
# Largest turn in degrees of a copy in the same pose, and smallest colour difference of a recoloured
# copy.
_SAME_POSE, _RECOLOURED = 5.0, 0.08
# Candidates per shape of each kind, and the largest difference of descriptors of candidates.
_BY_EMBEDDING, _BY_DESCRIPTOR, _MAX_DIFFERENCE = 8, 24, 0.02
# Principal components of the descriptors in the search tree, and shapes per block.
_COMPONENTS, _BLOCK = 6, 1024
# Point clouds that are kept in memory.
_CACHED = 2_048


@dataclasses.dataclass(frozen=True)
class Copy:
    """A shape of a group, and the shape of the group that it is a copy of.

    Attributes:
      number: row of the shape in the index.
      of: row of the shape that it was compared with; None for the first shape of a group.
      kind: EXACT, equal points and colours; NEAR, the same surface in the same pose; ROTATED, the
        same surface in another pose; "" for the first shape of a group.
      distance: distance after alignment, about 1 for two samples of one surface.
      turn: angle of the rotation in degrees.
      colour: mean absolute difference of colours, 0 to 1.
    """

    number: int
    of: int | None = None
    kind: str = ""
    distance: float = 0.0
    turn: float = 0.0
    colour: float = 0.0

    @property
    def is_recoloured(self) -> bool:
        """Whether the colours differ visibly."""
        return self.colour >= _RECOLOURED


def find(
    index: shape_index.ShapeIndex, *, max_distance: float = MAX_DISTANCE, progress: bool = True
) -> list[list[Copy]]:
    """Finds groups of copies.

    An index holds shapes without their size, so a scaled copy is NEAR or ROTATED. Mirror images and
    shapes that differ in a part are no copies.

    Args:
      index: an open index.
      max_distance: largest distance after alignment; smaller values find fewer copies.
      progress: whether to show progress on stderr.

    Returns:
      Groups of two or more shapes, ordered by their first shape, the one with the lowest row.
    """
    return group(compare(index, max_distance=max_distance, progress=progress))


def compare(
    index: shape_index.ShapeIndex, *, max_distance: float = MAX_DISTANCE, progress: bool = True
) -> list[Copy]:
    """Returns all pairs of copies; arguments as of `find`."""
    exact = _group_exact(index)
    unique = np.array(sorted(exact))
    candidates = _candidates(index, unique, progress=progress)
    copies = [Copy(other, first, EXACT) for first, others in exact.items() for other in others]
    return copies + _verify(index, candidates, max_distance=max_distance, progress=progress)


def _group_exact(index: shape_index.ShapeIndex) -> dict[int, list[int]]:
    """Returns the first shape of each set of equal clouds, with the other ones."""
    seen: dict[bytes, int] = {}
    found: dict[int, list[int]] = {}
    for number in range(len(index)):
        content = hashlib.blake2b(np.asarray(index.xyz[number]).tobytes(), digest_size=16)
        content.update(np.asarray(index.rgb[number]).tobytes())
        first = seen.setdefault(content.digest(), number)
        found.setdefault(first, [])
        if first != number:
            found[first].append(number)
    return found


def _candidates(
    index: shape_index.ShapeIndex, unique: np.ndarray, *, progress: bool
) -> list[tuple[int, int]]:
    """Returns pairs of rows whose descriptors are close, the lower row first, sorted."""
    descriptors = np.stack(
        [
            alignment.describe(index.xyz[number])
            for number in tqdm.tqdm(unique, desc="describing", unit="shape", disable=not progress)
        ]
    )
    pairs = np.concatenate([_nearest_rows(index, unique), _nearest_descriptors(descriptors)])
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    differences = np.abs(descriptors[pairs[:, 0]] - descriptors[pairs[:, 1]]).mean(axis=1)
    return [(int(a), int(b)) for a, b in unique[pairs[differences <= _MAX_DIFFERENCE]]]


def _nearest_rows(index: shape_index.ShapeIndex, unique: np.ndarray) -> np.ndarray:
    """Returns [pairs, 2] positions in `unique` of shapes and the shapes nearest by embedding."""
    count = min(_BY_EMBEDDING, len(unique) - 1)
    pairs = []
    for start in range(0, len(unique), _BLOCK):
        rows = np.asarray(index.rows[unique[start : start + _BLOCK]], np.float32)
        numbers = np.arange(start, start + len(rows))
        best: np.ndarray = np.full((len(rows), 0), -np.inf, np.float32)
        found: np.ndarray = np.zeros((len(rows), 0), np.int64)
        for other in range(0, len(unique), _BLOCK):
            block = np.asarray(index.rows[unique[other : other + _BLOCK]], np.float32)
            scores = rows @ block.T
            columns = np.arange(other, other + len(block))
            scores[numbers[:, None] == columns] = -np.inf
            best = np.concatenate([best, scores], axis=1)
            found = np.concatenate([found, np.broadcast_to(columns, scores.shape)], axis=1)
            kept = np.argsort(-best, axis=1, kind="stable")[:, :count]
            best, found = (np.take_along_axis(x, kept, axis=1) for x in (best, found))
        pairs.append(np.stack([np.repeat(numbers, found.shape[1]), found.reshape(-1)], axis=1))
    return np.concatenate(pairs)


def _nearest_descriptors(descriptors: np.ndarray) -> np.ndarray:
    """Returns [pairs, 2] positions of descriptors [shapes, 50] and of those nearest to them."""
    centred = descriptors - descriptors.mean(axis=0)
    _, axes = np.linalg.eigh(centred.T @ centred)
    # A projection brings points closer, so it loses none of the near ones.
    projected = centred @ axes[:, -_COMPONENTS:]
    count = min(_BY_DESCRIPTOR + 1, len(descriptors))
    bound = _MAX_DIFFERENCE * np.sqrt(descriptors.shape[1]) * 1.5
    _, found = spatial.KDTree(projected).query(
        projected, k=np.arange(1, count + 1), distance_upper_bound=bound
    )
    pairs = np.stack([np.repeat(np.arange(len(found)), count), found.reshape(-1)], axis=1)
    return pairs[(pairs[:, 1] < len(descriptors)) & (pairs[:, 0] != pairs[:, 1])]


def _verify(
    index: shape_index.ShapeIndex,
    candidates: Sequence[tuple[int, int]],
    *,
    max_distance: float,
    progress: bool,
) -> list[Copy]:
    """Aligns the candidates, and returns those that are copies; the second is one of the first."""

    @functools.lru_cache(_CACHED)
    def prepared(number: int) -> alignment.Prepared:
        xyz = np.asarray(index.xyz[number], np.float64) / shape_index.STEPS
        return alignment.prepare(xyz, np.asarray(index.rgb[number]))

    def compare(pair: tuple[int, int]) -> Copy | None:
        first, second = pair
        found = alignment.align(prepared(second), prepared(first))
        if found.distance > max_distance:
            return None
        kind = NEAR if found.turn <= _SAME_POSE else ROTATED
        return Copy(second, first, kind, **dataclasses.asdict(found))

    found = []
    bar = tqdm.tqdm(total=len(candidates), desc="comparing", unit="pair", disable=not progress)
    # scipy's search trees run without Python's lock. A block at a time, for flat memory.
    with bar, futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(candidates), _BLOCK):
            for copy in pool.map(compare, candidates[start : start + _BLOCK]):
                bar.update()
                found += [copy] if copy else []
    return found


def group(edges: Iterable[Copy]) -> list[list[Copy]]:
    """Joins pairs of copies into groups, each shape with the closest of its copies.

    Args:
      edges: pairs from `compare`.

    Returns:
      As `find`.
    """
    found: dict[tuple[int, int], Copy] = {}
    copies = collections.defaultdict(list)
    for edge in edges:
        assert edge.of is not None
        for of, number in ((edge.of, edge.number), (edge.number, edge.of)):
            found[of, number] = dataclasses.replace(edge, number=number, of=of)
            # Exact copies have distance 0 and come first.
            copies[of].append((edge.distance, number, of))
    groups = []
    done: set[int] = set()
    for first in sorted(copies):
        if first in done:
            continue
        members, waiting = [Copy(first)], list(copies[first])
        heapq.heapify(waiting)
        done.add(first)
        while waiting:
            _, number, of = heapq.heappop(waiting)
            if number not in done:
                done.add(number)
                members.append(found[of, number])
                for entry in copies[number]:
                    heapq.heappush(waiting, entry)
        groups.append(members)
    return groups
