# SPDX-License-Identifier: Apache-2.0
"""Search over an open index: approximate in large segments if asked for, exact in the others."""

import numpy as np

from mrd_jax.search import live_shapes, nearest, shape_index


def open_search(index: shape_index.ShapeIndex, *, ann: bool = False) -> nearest.Search:
    """Returns the search over the rows of an index.

    Args:
      index: an open index.
      ann: use approximate search in the segments that have a file for it.

    Raises:
      nearest.AnnUnsupportedError, ValueError: see `nearest.AnnSearch`.
      FileNotFoundError: `ann` is set, and no segment has such a file.
    """
    if not ann:
        return nearest.ExactSearch(index.rows)
    nearest.import_faiss()
    parts, starts = index.layout.parts, index.layout.starts
    numbers = [starts[place] + np.arange(len(part)) for place, part in enumerate(parts)]
    files = [part.segment.folder / nearest.ANN_FILE for part in parts]
    approximate = [place for place, file in enumerate(files) if file.is_file()]
    exact = [place for place in range(len(parts)) if place not in approximate]
    if not approximate:
        raise FileNotFoundError(
            f"{index.folder} has no file for approximate search; approximate search needs an index "
            "that was built with --ann"
        )
    searches: list[nearest.Search] = [
        nearest.AnnSearch(parts[place].segment.rows, files[place], live=parts[place].live)
        for place in approximate
    ]
    order = [numbers[place] for place in approximate]
    if exact:
        rest = live_shapes.Layout([parts[place] for place in exact])
        column = live_shapes.Column(rest, "rows", shape=index.rows.shape[1:])
        searches.append(nearest.ExactSearch(column))
        order.append(np.concatenate([numbers[place] for place in exact]))
    return nearest.UnionSearch(searches, order)
