# SPDX-License-Identifier: Apache-2.0
"""Compares point clouds up to rotation, translation and uniform scale.

Two random samples of one surface differ, so distances are divided by the distance that is expected
between them, the spacing of a cloud: 1 for two samples of the same surface, 0 for the same points.
"""

import dataclasses
import functools

import numpy as np
from scipy import spatial

# Points of both clouds that starting rotations are compared with.
_COARSE = 128
# Starting rotations to refine; points of the moved and of the other cloud and iterations of their
# refinement; and the same for those of the best that are refined to the end.
_STARTS, _POINTS, _TARGETS, _ITERATIONS = 6, 160, 512, 8
_FINALS, _FINAL_POINTS, _FINAL_ITERATIONS = 2, 1024, 8
# Clouds farther apart than this in units of the spacing after the first refinement are different;
# clouds that are nearer than this are the same, and other rotations are not tried.
_DIFFERENT, _SAME = 1.6, 1.1
# Smallest relative decrease of the distance in an iteration.
_CONVERGED = 1e-3
# Principal axes of more similar extents than this are not told apart.
_SIMILAR = 1.3
# Random rotations where the principal axes are not told apart.
_RANDOM = 96
# Pairs of points, and quantiles of their distances and of the radii, of a descriptor.
_PAIRS, _QUANTILES = 32_768, np.linspace(0.02, 0.98, 25)
# Smallest spacing, in root mean squares of the radius: half a step of the coordinates of an index.
_MIN_SPACING = 1e-4


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A point cloud with mean 0 and a root mean square of the radius of 1.

    Attributes:
      xyz: float64 [points, 3]; every position occurs once.
      rgb: float64 [points, 3], 0 to 1.
      spacing: expected distance from a point of another sample of the surface to the nearest point.
      tree: search tree of `xyz`.
      coarse: search tree of the first points of `xyz`.
      few: search tree of fewer of them.
    """

    xyz: np.ndarray
    rgb: np.ndarray
    spacing: float
    tree: spatial.KDTree
    coarse: spatial.KDTree
    few: spatial.KDTree


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How well a cloud fits another one.

    Attributes:
      distance: mean distance between the aligned clouds in units of their spacing, of the direction
        in which it is larger. About 1 for two samples of one surface; infinite for clouds that
        are clearly different, which are not aligned further.
      turn: angle of the rotation in degrees, 0 to 180.
      colour: mean absolute difference of the colours of nearest points, 0 to 1.
    """

    distance: float
    turn: float
    colour: float


def prepare(xyz: np.ndarray, rgb: np.ndarray) -> Prepared:
    """Centres and scales a cloud, and measures its spacing.

    Args:
      xyz: [points, 3] in random order; points that occur more than once count once.
      rgb: uint8 [points, 3].
    """
    _, first = np.unique(xyz, axis=0, return_index=True)
    first = np.sort(first)
    scaled = _scaled(np.asarray(xyz[first], np.float64))
    half = len(scaled) // 2
    spacing = 0.0
    if half:
        # The spacing of random points of a surface falls with the square root of their number.
        distances, _ = spatial.KDTree(scaled[:half]).query(scaled[half:])
        spacing = float(distances.mean()) * np.sqrt(half / len(scaled))
    return Prepared(
        scaled,
        rgb[first] / 255.0,
        max(spacing, _MIN_SPACING),
        *(spatial.KDTree(scaled[:count]) for count in (len(scaled), _TARGETS, _COARSE)),
    )


def describe(xyz: np.ndarray) -> np.ndarray:
    """Describes a cloud independently of rotation, position and scale.

    Args:
      xyz: [points, 3] in random order.

    Returns:
      float32 [50], quantiles of the distances between pairs of points and of the distances from the
      mean, in root mean squares of the latter. The mean absolute difference of two descriptors is
      about the Wasserstein distance of these distributions.
    """
    scaled = _scaled(np.asarray(xyz, np.float64))
    first, second = _pairs(len(scaled))
    pairs = np.linalg.norm(scaled[first] - scaled[second], axis=1)
    radii = np.linalg.norm(scaled, axis=1)
    return np.concatenate([np.quantile(values, _QUANTILES) for values in (pairs, radii)]).astype(
        np.float32
    )


def align(first: Prepared, second: Prepared) -> Alignment:
    """Finds the similarity transformation that brings a cloud onto another one.

    Mirror images are different shapes. The starting rotations are all turns by right angles, of the
    axes and of the principal axes, and random ones for shapes without distinct principal axes;
    iterative closest points refine the best of them.

    Args:
      first: cloud to move.
      second: cloud that it is compared with.
    """
    coarse = {"points": _POINTS, "tree": second.coarse, "iterations": _ITERATIONS}
    # Spacing of the fewer points of the coarse tree.
    spacing = second.spacing * np.sqrt(len(second.xyz) / second.coarse.n)
    # The identity comes first, so that symmetric shapes in one pose are not turned.
    poses = [_refine(first, _Pose(np.eye(3)), **coarse)]
    if poses[0].error > _SAME * spacing:
        starts = np.concatenate([_right_angles(), _principal_turns(first.xyz, second.xyz)])
        moved = np.einsum("sij,pj->spi", starts, first.xyz[:_COARSE]).reshape(-1, 3)
        distances, _ = second.few.query(moved)
        errors = distances.reshape(len(starts), -1).mean(axis=1)
        for number in np.argsort(errors, kind="stable")[:_STARTS]:
            poses.append(_refine(first, _Pose(starts[number]), **coarse))
            if poses[-1].error <= _SAME * spacing:
                break
    poses.sort(key=lambda pose: pose.error)
    best = Alignment(np.inf, _angle(poses[0].rotation), 1.0)
    for pose in poses[:_FINALS]:
        if best.distance <= _SAME or pose.error > _DIFFERENT * spacing:
            break
        pose = _refine(
            first, pose, points=_FINAL_POINTS, tree=second.tree, iterations=_FINAL_ITERATIONS
        )
        found = _measure(first, second, pose)
        best = found if found.distance < best.distance else best
    return best


@dataclasses.dataclass(frozen=True)
class _Pose:
    """A similarity transformation, and the mean distance that it leaves."""

    rotation: np.ndarray
    scale: float = 1.0
    offset: np.ndarray | float = 0.0
    error: float = np.inf

    def move(self, xyz: np.ndarray) -> np.ndarray:
        return self.scale * xyz @ self.rotation.T + self.offset


def _refine(
    first: Prepared, pose: _Pose, *, points: int, tree: spatial.KDTree, iterations: int
) -> _Pose:
    """Refines a pose by iterative closest points: the first points of a cloud, and a tree."""
    chosen = first.xyz[:points]
    pose = dataclasses.replace(pose, error=np.inf)
    for _ in range(iterations):
        distances, nearest = tree.query(pose.move(chosen))
        error = float(distances.mean())
        if error > pose.error * (1 - _CONVERGED):
            break
        pose = _similarity(chosen, tree.data[nearest], error=error)
    return pose


def _measure(first: Prepared, second: Prepared, pose: _Pose) -> Alignment:
    moved = pose.move(first.xyz)
    forth, nearest = second.tree.query(moved)
    back, _ = spatial.KDTree(moved).query(second.xyz)
    return Alignment(
        distance=float(max(forth.mean() / second.spacing, back.mean() / first.spacing)),
        turn=_angle(pose.rotation),
        colour=float(np.abs(first.rgb - second.rgb[nearest]).mean()),
    )


def _angle(rotation: np.ndarray) -> float:
    return float(np.degrees(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def _similarity(points: np.ndarray, targets: np.ndarray, *, error: float) -> _Pose:
    """Returns the pose that brings points [n, 3] closest to targets [n, 3]."""
    centre, target_centre = points.mean(axis=0), targets.mean(axis=0)
    points, targets = points - centre, targets - target_centre
    left, values, right = np.linalg.svd(targets.T @ points)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    rotation = (left * signs) @ right
    # Both clouds are scaled alike: a smaller scale would fit any cloud into a dense part.
    scale = np.clip((values * signs).sum() / max((points**2).sum(), 1e-12), 0.9, 1.1)
    return _Pose(rotation, float(scale), target_centre - scale * rotation @ centre, error)


def _principal_turns(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Returns rotations [n, 3, 3] that bring principal axes of a cloud onto those of another."""
    (extents, axes), (_, other) = (
        np.linalg.eigh(xyz.T @ xyz / len(xyz)) for xyz in (first, second)
    )
    axes, other = (frame * np.sign(np.linalg.det(frame)) for frame in (axes, other))
    extents = np.sqrt(np.maximum(extents, 1e-9))
    similar = extents[1:] / extents[:-1] < _SIMILAR
    turns = [_right_angles()]
    # Axes of similar extents may be any in their plane: all angles around the third one.
    turns += [_turns_around(2)] if similar[0] else []
    turns += [_turns_around(0)] if similar[1] else []
    turns += [_random_turns()] if similar.all() else []
    return other @ np.concatenate(turns) @ axes.T


def _scaled(xyz: np.ndarray) -> np.ndarray:
    xyz = xyz - xyz.mean(axis=0)
    return xyz / max(np.sqrt((xyz**2).sum(axis=1).mean()), 1e-12)


@functools.cache
def _right_angles() -> np.ndarray:
    """Returns the 24 rotations [24, 3, 3] of a cube, the identity first."""
    turns = spatial.transform.Rotation.create_group("O").as_matrix().round()
    return turns[np.argsort(-np.trace(turns, axis1=1, axis2=2), kind="stable")]


@functools.cache
def _turns_around(axis: int) -> np.ndarray:
    """Returns turns around an axis in steps of 15 degrees, and of its opposite, [48, 3, 3]."""
    axes = np.eye(3)
    angles = np.radians(np.arange(0, 360, 15))
    around = spatial.transform.Rotation.from_rotvec(angles[:, None] * axes[axis])
    flip = spatial.transform.Rotation.from_rotvec(np.pi * axes[axis - 1])
    return np.concatenate([around.as_matrix(), (around * flip).as_matrix()])


@functools.cache
def _random_turns() -> np.ndarray:
    return spatial.transform.Rotation.random(_RANDOM, rng=np.random.default_rng(0)).as_matrix()


@functools.cache
def _pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    first, second = np.random.default_rng(0).integers(0, count, (2, _PAIRS))
    return first, second
