# SPDX-License-Identifier: Apache-2.0
"""Viewpoints of fewer than twelve views."""

import itertools
import math

import pytest

from data_prep.geometry import viewpoints


def direction(polar, azimuth):
    polar, azimuth = math.radians(polar), math.radians(azimuth)
    return (
        math.sin(polar) * math.cos(azimuth),
        math.sin(polar) * math.sin(azimuth),
        math.cos(polar),
    )


@pytest.mark.parametrize("count", [2, 4, 6, 8])
def test_as_many_look_from_above_as_from_below(count):
    heights = [direction(*angles)[2] for angles in viewpoints.angles(count)]
    assert sum(height > 0.1 for height in heights) == sum(height < -0.1 for height in heights) > 0


@pytest.mark.parametrize(("count", "degrees"), [(2, 180), (3, 89), (4, 104), (6, 60)])
def test_no_two_look_from_nearly_the_same_side(count, degrees):
    places = [direction(*angles) for angles in viewpoints.angles(count)]
    nearest = max(
        sum(a * b for a, b in zip(one, other, strict=True))
        for one, other in itertools.combinations(places, 2)
    )
    assert math.degrees(math.acos(max(nearest, -1))) >= degrees - 0.6


def test_the_first_view_is_the_same_for_every_number():
    assert {viewpoints.angles(count)[0] for count in range(1, 13)} == {(60.0, -45.0)}
    assert viewpoints.angles(0) == []
