# SPDX-License-Identifier: Apache-2.0
"""Plain loops in NumPy that the kernels are compared with."""

import numpy as np


def attention(
    packed: np.ndarray, heads: int, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Computes attention and its gradient, one sample and head at a time, in float64.

    Args:
      packed: [batch, tokens, 3 * dim], queries, keys and values.
      heads: number of heads.
      cotangent: [batch, tokens, dim], gradient of the result.

    Returns:
      The result, [batch, tokens, dim], and the gradient of `packed`.
    """
    batch, tokens, width = packed.shape
    dim, size = width // 3, width // 3 // heads
    mixed, gradient = np.zeros((batch, tokens, dim)), np.zeros(packed.shape)
    for sample in range(batch):
        for head in range(heads):
            query, key, value = (
                slice(part * dim + head * size, part * dim + (head + 1) * size) for part in range(3)
            )
            own = slice(head * size, (head + 1) * size)
            q, k, v = (packed[sample][:, part].astype(np.float64) for part in (query, key, value))
            scores = q @ k.T / np.sqrt(size)
            weights = np.exp(scores - scores.max(axis=1, keepdims=True))
            weights /= weights.sum(axis=1, keepdims=True)
            mixed[sample][:, own] = weights @ v
            upper = cotangent[sample][:, own].astype(np.float64)
            to_weights = upper @ v.T
            to_scores = weights * (to_weights - (weights * to_weights).sum(axis=1, keepdims=True))
            gradient[sample][:, query] = to_scores @ k / np.sqrt(size)
            gradient[sample][:, key] = to_scores.T @ q / np.sqrt(size)
            gradient[sample][:, value] = weights.T @ upper
    return mixed, gradient


def squared_distances(xyz: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Returns the squared distances of [points, 3] to one centre, [points], in float32."""
    offset = xyz.astype(np.float32) - centre.astype(np.float32)
    return offset[:, 0] ** 2 + offset[:, 1] ** 2 + offset[:, 2] ** 2


def farthest_points(xyz: np.ndarray, count: int) -> np.ndarray:
    """Returns the indices of farthest point sampling of [points, 3], from index 0 on."""
    chosen, distance = [0], squared_distances(xyz, xyz[0])
    while len(chosen) < count:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, squared_distances(xyz, xyz[chosen[-1]]))
    return np.array(chosen)


def ball(xyz: np.ndarray, centre: np.ndarray, *, radius: float, count: int) -> np.ndarray:
    """Returns the first points within a radius of a centre, padded with the first of them."""
    inside = np.flatnonzero(squared_distances(xyz, centre) <= np.float32(radius * radius))[:count]
    first = inside[0] if len(inside) else 0
    return np.concatenate([inside, np.full(count - len(inside), first)])


def nearest(xyz: np.ndarray, centre: np.ndarray, *, count: int) -> np.ndarray:
    """Returns the nearest points of a centre by ascending index; ties go to the lowest."""
    return np.sort(np.argsort(squared_distances(xyz, centre), kind="stable")[:count])


def group_maximum(
    groups: np.ndarray, kernel: np.ndarray, cotangent: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Computes the maximum of `groups @ kernel` over each group, and its gradients, in float64.

    Args:
      groups: [groups, group_size, channels].
      kernel: [channels, features].
      cotangent: [groups, features], gradient of the result.

    Returns:
      The result, [groups, features], and the gradients of `groups` and `kernel`.
    """
    kernel = kernel.astype(np.float64)
    maximum = np.zeros(cotangent.shape)
    to_groups, to_kernel = np.zeros(groups.shape), np.zeros(kernel.shape)
    for row, group in enumerate(groups.astype(np.float64)):
        values = group @ kernel
        for feature, point in enumerate(values.argmax(axis=0)):
            maximum[row, feature] = values[point, feature]
            to_groups[row, point] += cotangent[row, feature] * kernel[:, feature]
            to_kernel[:, feature] += cotangent[row, feature] * group[point]
    return maximum, to_groups, to_kernel


def info_nce(points: np.ndarray, teacher: np.ndarray, *, scale: float) -> float:
    """Returns the mean symmetric InfoNCE loss of unit rows, in float64."""
    logits = scale * points.astype(np.float64) @ teacher.astype(np.float64).T
    total = 0.0
    for matrix in (logits, logits.T):
        for row, values in enumerate(matrix):
            total += np.log(np.exp(values - values.max()).sum()) + values.max() - values[row]
    return total / (2 * len(logits))
