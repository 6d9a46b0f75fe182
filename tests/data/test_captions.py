# SPDX-License-Identifier: Apache-2.0
"""Captions are drawn with the chances that the config states."""

import collections

import numpy as np
import pytest

from configs import base
from mrd_jax.data import captions
from mrd_jax.training import run as run_lib

GROUPS = (("name",), ("blip", "msft"), ("retrieved",))
# Two retrieved texts, as OpenShape's records have several.
KINDS = ["name", "blip", "msft", "retrieved", "retrieved"]
DRAWS = 12_000


def shares(kinds, **options):
    rng = np.random.default_rng(7)
    drawn = (captions.draw_from_groups(kinds, rng=rng, **options) for _ in range(DRAWS))
    counts = collections.Counter(drawn)
    return [counts[position] / DRAWS for position in range(len(kinds))]


def assert_near(found, wanted):
    # Five standard deviations of the widest binomial share.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5 * 0.5 / DRAWS**0.5)


def test_two_captioners_are_one_choice():
    assert_near(shares(KINDS, groups=GROUPS), [1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6])


def test_given_chances_hold_among_the_groups_that_are_there():
    chances = (3.0, 2.0, 1.0)
    assert_near(
        shares(KINDS, groups=GROUPS, chances=chances), [1 / 2, 1 / 6, 1 / 6, 1 / 12, 1 / 12]
    )
    assert_near(shares(["msft", "retrieved"], groups=GROUPS, chances=chances), [2 / 3, 1 / 3])
    assert_near(shares(["name", "retrieved"], groups=GROUPS, chances=chances), [3 / 4, 1 / 4])


def test_a_rejected_name_is_in_no_group_and_never_drawn():
    assert_near(shares(["name_rejected", "blip", "retrieved"], groups=GROUPS), [0, 1 / 2, 1 / 2])
    rng = np.random.default_rng(0)
    assert captions.draw_from_groups(["name_rejected"], rng=rng, groups=GROUPS) is None


@pytest.mark.parametrize("grouped", [False, True])
def test_what_a_record_lacks_does_not_move_the_next_draw(grouped):
    config = base.data()
    if grouped:
        config.caption_groups = GROUPS
    following = set()
    for kinds in ([], ["name"], ["name_rejected"], KINDS):
        rng = np.random.default_rng(3)
        captions.draw(kinds, rng=rng, config=config)
        following.add(rng.random())
    assert len(following) == 1


def test_the_default_draws_as_before():
    """Positions worked out from the raw numbers: a kind of the sorted ones, then a caption."""
    rng, raw = np.random.default_rng(5), np.random.default_rng(5)
    by_kind = {"blip": [1], "msft": [2], "name": [0], "retrieved": [3, 4]}
    for _ in range(200):
        chance, place = raw.random(2)
        positions = list(by_kind.values())[int(chance * 4)]
        wanted = positions[int(place * len(positions))]
        assert captions.draw(KINDS, rng=rng, config=base.data()) == wanted


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"caption_groups": (("name",), ("blib",))}, r"unknown kinds \['blib'\]; choose from"),
        ({"caption_kinds": ("nam",)}, r"caption_kinds has the unknown kinds \['nam'\]"),
        ({"caption_groups": ("name", "blip")}, "each group must be a tuple"),
        ({"caption_groups": (("name",), ())}, "each group must be a tuple"),
        ({"caption_groups": (("name",), ("name", "blip"))}, "one group only"),
        ({"caption_groups": GROUPS, "caption_chances": (1.0,)}, "1 numbers for 3 groups"),
        ({"caption_groups": GROUPS, "caption_chances": (1.0, 0.0, 1.0)}, "a positive number"),
        ({"caption_chances": (1.0,)}, "caption_groups is empty"),
        ({"caption_groups": GROUPS, "caption_kinds": ("name",)}, "set one of them only"),
    ],
)
def test_a_config_that_was_not_meant_is_refused_before_any_data(fields, message):
    config = base.get_config()
    config.data.update(fields)
    with pytest.raises(ValueError, match=message):
        run_lib.build_run(config)


def test_a_draw_of_zero_does_not_meet_a_group_that_is_left_out():
    class Zero:
        def random(self, count):
            return np.zeros(count)

    assert captions.draw_from_groups(["msft", "retrieved"], rng=Zero(), groups=GROUPS) == 0
    assert captions.draw_from_groups(["retrieved"], rng=Zero(), groups=GROUPS) == 0
