# SPDX-License-Identifier: Apache-2.0
"""Colours of columns that lack a channel, such as a misspelt one, are noted and not guessed."""

import numpy as np
import pytest

from data_prep.geometry.readers import ply_columns


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (("red", "greeb", "blue"), ["colours that lack a channel, ignored"]),
        (("diffuse_red",), ["colours that lack a channel, ignored"]),
        (("intensity",), ["intensity is no colour, ignored"]),
        (("r",), []),  # may be a radius
    ],
)
def test_columns_without_a_whole_colour(names, notes):
    columns = {name: np.array([7, 8], np.uint8) for name in names}
    found = []
    assert ply_columns.colours(columns, dict.fromkeys(names, "u1"), notes=found) is None
    assert found == notes
