# SPDX-License-Identifier: Apache-2.0
"""Splits of sources whose items carry the name of their split."""

from collections.abc import Sequence

from data_prep import shapes


def by_catalogue(prepared: Sequence[shapes.Shape], *, family: str) -> dict[str, list[str]]:
    """Groups shapes by `catalogue`, which holds the name of the split; omits empty splits.

    Args:
      prepared: shapes of all splits.
      family: name of the source family, for the error message.

    Returns:
      split -> ids, in the order of `prepared`.

    Raises:
      ValueError: `prepared` is empty.
    """
    if not prepared:
        raise ValueError(
            f"{family}: every listed shape was skipped for the reasons above; check --input and "
            "--points"
        )
    splits: dict[str, list[str]] = {}
    for shape in prepared:
        splits.setdefault(shape.catalogue, []).append(shape.id)
    return splits
