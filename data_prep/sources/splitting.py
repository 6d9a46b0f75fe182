# SPDX-License-Identifier: Apache-2.0
"""Splits of sources whose items say which split they belong to."""

from collections.abc import Sequence

from data_prep import shapes


def by_catalogue(prepared: Sequence[shapes.Shape], *, family: str) -> dict[str, list[str]]:
    """Splits by catalogue, which is the name of the split; one that has no shape is left out.

    Args:
      prepared: shapes of all splits.
      family: of the source, for the message.

    Returns:
      split -> ids, in the order of `prepared`.

    Raises:
      ValueError: there is no shape at all.
    """
    if not prepared:
        raise ValueError(
            f"{family}: every listed shape was skipped, for the reasons counted above; "
            "check --input and --points"
        )
    found: dict[str, list[str]] = {}
    for shape in prepared:
        found.setdefault(shape.catalogue, []).append(shape.id)
    return found
