# SPDX-License-Identifier: Apache-2.0
"""Sampling and neighbour search as brute-force loops in numpy, and points with ties."""

import numpy as np


def squared_distance(cloud, point):
    offset = cloud - point
    return offset[:, 0] ** 2 + offset[:, 1] ** 2 + offset[:, 2] ** 2


def slow_farthest_points(cloud, count):
    chosen, distance = [0], np.full(len(cloud), np.inf)
    while len(chosen) < count:
        distance = np.minimum(distance, squared_distance(cloud, cloud[chosen[-1]]))
        chosen.append(int(np.argmax(distance)))  # numpy's argmax is the lowest index
    return chosen


def slow_ball_query(cloud, centres, radius, count):
    groups = []
    for centre in centres:
        hits = np.flatnonzero(squared_distance(cloud, centre) <= np.float32(radius * radius))
        hits = hits if len(hits) else np.array([0])
        groups.append([hits[k] if k < len(hits) else hits[0] for k in range(count)])
    return groups


def slow_knn(cloud, centres, count):
    nearest = [np.argsort(squared_distance(cloud, c), kind="stable")[:count] for c in centres]
    return np.sort(nearest, axis=-1)


def lattice(seed, shape, steps=16):
    """Draws points on a binary lattice, whose float32 distances are exact and often tied."""
    return np.random.default_rng(seed).integers(-steps, steps + 1, shape).astype(np.float32) / steps
