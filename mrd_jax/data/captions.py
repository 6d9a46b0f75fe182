# SPDX-License-Identifier: Apache-2.0
"""Caption sampling, and validation of its config fields."""

import bisect
import itertools
import math
from collections.abc import Collection, Sequence

import numpy as np
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec


def check(config: ConfigDict) -> None:
    """Validates the caption-sampling fields.

    Args:
      config: `config.data`; reads caption_kinds, caption_groups and caption_chances.

    Raises:
      ValueError: a field is invalid, or contradicts another one.
    """
    _check_kinds("caption_kinds", config.caption_kinds)
    groups, chances = config.caption_groups, config.caption_chances
    if chances and not groups:
        raise ValueError(
            f"config.data.caption_chances is {tuple(chances)}, but config.data.caption_groups is "
            "empty; set the groups that the chances belong to"
        )
    if not groups:
        return
    if config.caption_kinds:
        raise ValueError(
            f"config.data.caption_kinds is {tuple(config.caption_kinds)} and caption_groups is "
            f"{tuple(groups)}; set only one of them"
        )
    if not all(isinstance(group, (tuple, list)) and group for group in groups):
        raise ValueError(
            f"config.data.caption_groups is {tuple(groups)}; each group must be a tuple of at "
            'least one kind, such as (("name",), ("blip", "msft"))'
        )
    kinds = list(itertools.chain.from_iterable(groups))
    _check_kinds("caption_groups", kinds)
    if len(set(kinds)) < len(kinds):
        raise ValueError(
            f"config.data.caption_groups is {tuple(groups)}; a kind must be in one group only"
        )
    if chances and len(chances) != len(groups):
        raise ValueError(
            f"config.data.caption_chances has {len(chances)} numbers for {len(groups)} groups of "
            "caption_groups; give one for each, or () for equal chances"
        )
    if not all(math.isfinite(chance) and chance > 0 for chance in chances):
        raise ValueError(
            f"config.data.caption_chances is {tuple(chances)}; each must be a positive number"
        )


def _check_kinds(field: str, kinds: Collection[str]) -> None:
    unknown = sorted(set(kinds) - set(batch_spec.CAPTION_KINDS))
    if unknown:
        raise ValueError(
            f"config.data.{field} has the unknown kinds {unknown}; choose from "
            f"{sorted(batch_spec.CAPTION_KINDS)}"
        )


def draw(kinds: Sequence[str], *, rng: np.random.Generator, config: ConfigDict) -> int | None:
    """Draws a caption of a record: by groups of kinds if the config has groups, else by kind.

    Args:
      kinds: kind of each caption of the record.
      rng: generator of this sample; the number of draws depends on the config only.
      config: `config.data` of a valid config.

    Returns:
      Position of the caption; None if the record has no caption that may be drawn.
    """
    if config.caption_groups:
        return draw_from_groups(
            kinds, rng=rng, groups=config.caption_groups, chances=config.caption_chances
        )
    return draw_from_kinds(kinds, rng=rng, allowed=config.caption_kinds)


def draw_from_kinds(
    kinds: Sequence[str], *, rng: np.random.Generator, allowed: Collection[str]
) -> int | None:
    """Draws a kind uniformly, then one of its captions uniformly.

    Hence a record with many captions of one kind still draws its name as often as others.

    Args:
      kinds: kind of each caption of the record.
      rng: generator of this sample.
      allowed: kinds that may be drawn; empty allows all.

    Returns:
      Position of the caption; None if the record has none of an allowed kind.
    """
    chance, place = rng.random(2)
    present = sorted({kind for kind in kinds if not allowed or kind in allowed})
    if not present:
        return None
    return _draw_of_kind(kinds, present[int(chance * len(present))], place)


def draw_from_groups(
    kinds: Sequence[str],
    *,
    rng: np.random.Generator,
    groups: Sequence[Collection[str]],
    chances: Sequence[float] = (),
) -> int | None:
    """Draws a group, then one of its kinds uniformly, then one of its captions uniformly.

    Groups and kinds that the record lacks are excluded, and the probabilities of the others keep
    their proportions. OpenShape draws like this: the name, a caption by BLIP or Microsoft, or a
    retrieved text.

    Args:
      kinds: kind of each caption of the record.
      rng: generator of this sample.
      groups: kinds of each group.
      chances: relative probability of each group; empty for equal ones.

    Returns:
      Position of the caption; None if the record has none of these kinds.
    """
    group_draw, kind_draw, caption_draw = rng.random(3)
    present = [sorted(set(group) & set(kinds)) for group in groups]
    weights = chances or [1.0] * len(groups)
    bounds = list(
        itertools.accumulate(w if p else 0.0 for w, p in zip(weights, present, strict=True))
    )
    if not bounds[-1]:
        return None
    # To the right of equal bounds, so that a group of width 0 is never chosen.
    chosen = present[bisect.bisect_right(bounds, group_draw * bounds[-1])]
    return _draw_of_kind(kinds, chosen[int(kind_draw * len(chosen))], caption_draw)


def probabilities(kinds: Sequence[str], *, config: ConfigDict) -> np.ndarray:
    """Returns the probability with which `draw` returns each caption, [captions] float64.

    Args:
      kinds: kind of each caption of the record.
      config: `config.data` of a valid config.

    Returns:
      Numbers that sum to 1, or zeros if the record has no caption that may be drawn.
    """
    groups = config.caption_groups or [config.caption_kinds or sorted(set(kinds))]
    present = [sorted(set(group) & set(kinds)) for group in groups]
    weights = [
        weight if group else 0.0
        for weight, group in zip(
            config.caption_chances or [1.0] * len(groups), present, strict=True
        )
    ]
    of_kind = {
        kind: weight / sum(weights) / len(group) / kinds.count(kind)
        for weight, group in zip(weights, present, strict=True)
        for kind in group
    }
    return np.array([of_kind.get(kind, 0.0) for kind in kinds], dtype=np.float64)


def _draw_of_kind(kinds: Sequence[str], wanted: str, draw: float) -> int:
    """Returns the position of one of the captions of a kind; draw is in [0, 1)."""
    positions = [i for i, kind in enumerate(kinds) if kind == wanted]
    return positions[int(draw * len(positions))]
