# SPDX-License-Identifier: Apache-2.0
"""Which caption of a record a step uses, and the check of what the config asks for."""

import bisect
import itertools
import math
from collections.abc import Collection, Sequence

import numpy as np
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec


def check(config: ConfigDict) -> None:
    """Refuses what can draw nothing, or not what was meant.

    Args:
      config: `config.data`; reads caption_kinds, caption_groups and caption_chances.

    Raises:
      ValueError: names the field, what it holds and what it may hold.
    """
    _check_kinds("caption_kinds", config.caption_kinds)
    groups, chances = config.caption_groups, config.caption_chances
    if chances and not groups:
        raise ValueError(
            f"config.data.caption_chances is {tuple(chances)}, but config.data.caption_groups is "
            f"empty; say which groups the chances belong to"
        )
    if not groups:
        return
    if config.caption_kinds:
        raise ValueError(
            f"config.data.caption_kinds is {tuple(config.caption_kinds)} and caption_groups is "
            f"{tuple(groups)}; set one of them only"
        )
    if any(isinstance(group, str) or not group for group in groups):
        raise ValueError(
            f"config.data.caption_groups is {tuple(groups)}; each group must be a tuple of at "
            f'least one kind, such as (("name",), ("blip", "msft"))'
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
            f"caption_groups; give one for each, or () for equal chances"
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
    """Draws a caption by kinds, or by groups of kinds where the config has any.

    Args:
      kinds: of the record's captions.
      rng: of this sample and epoch; how many numbers are drawn depends on the config alone.
      config: `config.data`, which `check` accepts.

    Returns:
      position of the caption, or None where there is none.
    """
    if config.caption_groups:
        return draw_from_groups(
            kinds, rng=rng, groups=config.caption_groups, chances=config.caption_chances
        )
    return draw_from_kinds(kinds, rng=rng, allowed=config.caption_kinds)


def draw_from_kinds(
    kinds: Sequence[str], *, rng: np.random.Generator, allowed: Collection[str]
) -> int | None:
    """First a kind, then one of its captions, each with equal chances.

    A record with twenty translations still shows its name as often as one with two.

    Args:
      kinds: of the record's captions.
      rng: of this sample and epoch.
      allowed: kinds that may be drawn; empty allows all.

    Returns:
      position of the caption, or None where there is none.
    """
    chance, place = rng.random(2)
    present = sorted({kind for kind in kinds if not allowed or kind in allowed})
    if not present:
        return None
    return _caption_of(kinds, present[int(chance * len(present))], place)


def draw_from_groups(
    kinds: Sequence[str],
    *,
    rng: np.random.Generator,
    groups: Sequence[Collection[str]],
    chances: Sequence[float] = (),
) -> int | None:
    """First a group, then one of its kinds, then one of its captions.

    Groups and kinds that the record lacks are left out, and the chances of the others keep their
    proportions. OpenShape draws so (name; BLIP's or Microsoft's caption; a retrieved text).

    Args:
      kinds: of the record's captions.
      rng: of this sample and epoch.
      groups: kinds of each group.
      chances: relative, one per group; empty makes them equal.

    Returns:
      position of the caption, or None where there is none.
    """
    of_group, of_kind, place = rng.random(3)
    present = [sorted(set(group) & set(kinds)) for group in groups]
    weights = chances or [1.0] * len(groups)
    bounds = list(
        itertools.accumulate(w if p else 0.0 for w, p in zip(weights, present, strict=True))
    )
    if not bounds[-1]:
        return None
    # To the right of equal bounds: a group that is left out has no width and is never met.
    chosen = present[bisect.bisect_right(bounds, of_group * bounds[-1])]
    return _caption_of(kinds, chosen[int(of_kind * len(chosen))], place)


def _caption_of(kinds: Sequence[str], wanted: str, place: float) -> int:
    """One of the captions of a kind; place is in [0, 1)."""
    positions = [i for i, kind in enumerate(kinds) if kind == wanted]
    return positions[int(place * len(positions))]
