# SPDX-License-Identifier: Apache-2.0
"""Copies are found by their surfaces: other samples, poses, scales and colours of one shape."""

import numpy as np
import pytest
import tiny_index
from scipy.spatial import transform
from tiny_encoder import DIM, tiny_card

from benchmarks import duplicates as benchmark
from mrd_jax.library import alignment, duplicates
from mrd_jax.search import shape_index

POINTS = 400
# Boxes as (centre, sides): chairs with a different detail, and a shape with no two sides alike.
SEAT = [((0, 0, 0.5), (1, 0.8, 0.1)), ((0, 0.35, 1), (1, 0.1, 1))]
LEGS = [((x, y, 0.25), (0.1, 0.1, 0.5)) for x in (-0.45, 0.45) for y in (-0.35, 0.35)]
CHAIR = SEAT + LEGS
ARMCHAIR = [*CHAIR, ((0.5, 0, 0.8), (0.15, 0.8, 0.3)), ((-0.5, 0, 0.8), (0.15, 0.8, 0.3))]
HOOK = [
    ((0, 0, 0), (0.2, 0.4, 2)),
    ((0.5, 0, 0.9), (1, 0.4, 0.2)),
    ((0, 0.5, -0.9), (0.2, 0.6, 0.2)),
]


def sample(boxes, *, seed, points=POINTS):
    """Samples the surfaces of boxes uniformly by area."""
    rng = np.random.default_rng(seed)
    centres, sides = (np.array(values, float) for values in zip(*boxes, strict=True))
    pairs = np.stack([sides[:, [1, 2, 0]] * sides[:, [2, 0, 1]]], axis=0)[0]
    areas = pairs / pairs.sum()
    chosen = rng.choice(areas.size, points, p=areas.reshape(-1))
    box, axis = np.divmod(chosen, 3)
    local = rng.uniform(-0.5, 0.5, (points, 3))
    local[np.arange(points), axis] = rng.choice([-0.5, 0.5], points)
    return centres[box] + local * sides[box]


def turn(seed):
    return transform.Rotation.random(rng=np.random.default_rng(seed)).as_matrix()


def prepared(xyz, colour=0):
    return alignment.prepare(xyz, np.full((len(xyz), 3), colour, np.uint8))


def test_same_points_have_distance_zero_in_any_pose():
    xyz = sample(CHAIR, seed=0)
    found = alignment.align(prepared(3 * xyz @ turn(1).T + 5), prepared(xyz))
    assert found.distance < 1e-3
    expected = np.degrees(transform.Rotation.from_matrix(turn(1)).magnitude())
    # The chair is symmetric up to its sample, so only the angle of equal points is unique.
    assert found.turn == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("shape", [CHAIR, ARMCHAIR, HOOK], ids=["chair", "armchair", "hook"])
@pytest.mark.parametrize("seed", range(3))
def test_two_samples_of_a_turned_surface_have_distance_about_one(shape, seed):
    other = sample(shape, seed=seed + 10) @ turn(seed).T
    found = alignment.align(prepared(other), prepared(sample(shape, seed=seed)))
    assert 0.8 < found.distance < 1.2


def test_shape_with_another_part_is_farther():
    found = alignment.align(prepared(sample(ARMCHAIR, seed=1)), prepared(sample(CHAIR, seed=0)))
    assert found.distance > duplicates.MAX_DISTANCE


def test_mirror_image_is_another_shape():
    mirrored = sample(HOOK, seed=1) * [-1, 1, 1]
    found = alignment.align(prepared(mirrored), prepared(sample(HOOK, seed=0)))
    assert found.distance > duplicates.MAX_DISTANCE


def test_colours_are_compared_at_the_nearest_points():
    xyz = sample(CHAIR, seed=0)
    found = alignment.align(prepared(xyz, colour=51), prepared(xyz, colour=102))
    assert found.colour == pytest.approx(0.2)


def test_descriptor_does_not_depend_on_pose_and_scale_and_tells_shapes_apart():
    chair = alignment.describe(sample(CHAIR, seed=0))
    moved = alignment.describe(2 * sample(CHAIR, seed=0) @ turn(3).T - 1)
    np.testing.assert_allclose(moved, chair, rtol=1e-4)
    hook = alignment.describe(sample(HOOK, seed=0))
    assert np.abs(hook - chair).mean() > 3 * duplicates._MAX_DIFFERENCE


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """Groups of an index with copies of a chair and of a hook among other shapes."""
    chair, hook = sample(CHAIR, seed=0), sample(HOOK, seed=0)
    clouds = {
        "chair": (chair, 100),
        "hook": (hook, 100),
        "armchair": (sample(ARMCHAIR, seed=0), 100),
        "same": (chair, 100),
        "recoloured": (chair, 200),
        "turned": (chair @ turn(0).T, 100),
        "hook turned": (hook @ turn(5).T, 100),
        "box": (sample([((0, 0, 0), (1, 2, 3))], seed=0), 100),
    }
    rows = tiny_index.unit_rows(len(clouds))
    entries = []
    for number, (name, (xyz, colour)) in enumerate(clouds.items()):
        xyz = xyz - xyz.mean(axis=0)
        xyz /= np.linalg.norm(xyz, axis=1).max()
        item = shape_index.Item(name, name, "", "", f"{number}.jpg")
        rgb = np.full((POINTS, 3), colour, np.uint8)
        entries.append(shape_index.Entry(item, rows[number], xyz, rgb, b""))
    folder = tmp_path_factory.mktemp("duplicates") / "index"
    shape_index.write(
        folder,
        entries,
        count=len(clouds),
        points=POINTS,
        card=tiny_card(teacher_dim=DIM),
        checkpoint="x",
        teacher=shape_index.Teacher("fake/teacher"),
    )
    index = shape_index.read(folder)
    names = [item.id for item in index.items]
    found = duplicates.find(index, progress=False)
    return [[(names[copy.number], copy) for copy in group] for group in found]


def test_groups_hold_the_copies_and_nothing_else(groups):
    assert [[name for name, _ in group][:1] for group in groups] == [["chair"], ["hook"]]
    assert {name for name, _ in groups[0]} == {"chair", "same", "recoloured", "turned"}
    assert {name for name, _ in groups[1]} == {"hook", "hook turned"}


def test_copies_have_their_kinds(groups):
    copies = dict(pair for group in groups for pair in group)
    assert copies["chair"].of is None
    assert copies["same"].kind == duplicates.EXACT
    assert copies["recoloured"].kind == duplicates.NEAR and copies["recoloured"].is_recoloured
    assert copies["turned"].kind == duplicates.ROTATED and not copies["turned"].is_recoloured
    assert copies["hook turned"].kind == duplicates.ROTATED


def test_benchmark_scores_pairs_and_copies():
    truth = {"copies/rotated/0/a": "models/a", "copies/scaled/0/a": "models/a"}
    truth |= {f"copies/{kind}/0/a": "models/a" for kind in ("recoloured", "remeshed", "all")}
    shapes = ["models/a", "models/b", *truth]
    found = [
        ["models/a", "models/b", "copies/rotated/0/a"],
        ["copies/all/0/a", "copies/scaled/0/a"],
    ]
    score = benchmark.score(found, shapes, truth)
    assert (score["pairs"], score["precision"], score["recall"]) == (4, 0.5, 0.2)
    assert score["recall_by_kind"]["rotated"] == 1 and score["recall_by_kind"]["all"] == 0
    assert score["other_pairs"] == [("models/a", "models/b")]
