# SPDX-License-Identifier: Apache-2.0
"""Captions are drawn with the probabilities of the config."""

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


def frequencies(kinds, **options):
    rng = np.random.default_rng(7)
    drawn = (captions.draw_from_groups(kinds, rng=rng, **options) for _ in range(DRAWS))
    counts = collections.Counter(drawn)
    return [counts[position] / DRAWS for position in range(len(kinds))]


def assert_near(found, wanted):
    # Five standard deviations of a binomial frequency at its widest.
    np.testing.assert_allclose(found, wanted, rtol=0, atol=5 * 0.5 / DRAWS**0.5)


def test_groups_are_drawn_uniformly():
    assert_near(frequencies(KINDS, groups=GROUPS), [1 / 3, 1 / 6, 1 / 6, 1 / 6, 1 / 6])


def test_probabilities_are_renormalised_over_the_groups_of_a_record():
    chances = (3.0, 2.0, 1.0)
    assert_near(
        frequencies(KINDS, groups=GROUPS, chances=chances), [1 / 2, 1 / 6, 1 / 6, 1 / 12, 1 / 12]
    )
    assert_near(frequencies(["msft", "retrieved"], groups=GROUPS, chances=chances), [2 / 3, 1 / 3])
    assert_near(frequencies(["name", "retrieved"], groups=GROUPS, chances=chances), [3 / 4, 1 / 4])


def test_a_rejected_name_is_never_drawn_by_groups():
    assert_near(
        frequencies(["name_rejected", "blip", "retrieved"], groups=GROUPS), [0, 1 / 2, 1 / 2]
    )
    rng = np.random.default_rng(0)
    assert captions.draw_from_groups(["name_rejected"], rng=rng, groups=GROUPS) is None


@pytest.mark.parametrize("grouped", [False, True])
def test_the_number_of_draws_does_not_depend_on_the_record(grouped):
    config = base.data()
    if grouped:
        config.caption_groups = GROUPS
    next_draws = set()
    for kinds in ([], ["name"], ["name_rejected"], KINDS):
        rng = np.random.default_rng(3)
        captions.draw(kinds, rng=rng, config=config)
        next_draws.add(rng.random())
    assert len(next_draws) == 1


def test_the_default_draws_a_kind_and_then_a_caption():
    """The expected position is computed from the same random numbers."""
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
        ({"caption_groups": GROUPS, "caption_kinds": ("name",)}, "set only one of them"),
    ],
)
def test_invalid_caption_fields_are_rejected(fields, message):
    config = base.get_config()
    config.data.update(fields)
    with pytest.raises(ValueError, match=message):
        run_lib.build_run(config)


def test_a_draw_of_zero_never_chooses_an_excluded_group():
    class Zero:
        def random(self, count):
            return np.zeros(count)

    assert captions.draw_from_groups(["msft", "retrieved"], rng=Zero(), groups=GROUPS) == 0
    assert captions.draw_from_groups(["retrieved"], rng=Zero(), groups=GROUPS) == 0
