# SPDX-License-Identifier: Apache-2.0
"""A measure of your own on a finished run: how much of the teacher's neighbourhoods survives.

python docs/examples/evaluator.py runs/quickstart data/furniture/1.0.0
"""

import json
import sys

import numpy as np

from mrd_jax import evaluation as evaluators
from mrd_jax.evaluation import retrieval
from mrd_jax.report import final


# --8<-- [start:measure]
def shared_neighbours(
    embeddings: np.ndarray, held_out: evaluators.HeldOut, *, count: int = 5
) -> dict[str, float]:
    """The share of a shape's nearest shapes that the teacher, looking at pictures, agrees with.

    Relations are what MRD distils, so this asks what it was trained for, on shapes that it never
    saw. Compare within one data set and one teacher only.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order, any length.
      held_out: the shapes; those without a picture are left out.
      count: neighbours of each shape.

    Returns:
      share, between 0 and 1; chance, what neighbours drawn at random reach; and shapes, how many
      were asked.

    Raises:
      ValueError: the embeddings are not those of the shapes, or too few shapes have a picture.
    """
    if len(embeddings) != len(held_out.ids):
        raise ValueError(f"{len(embeddings)} embeddings for {len(held_out.ids)} held-out shapes")
    pictured = np.flatnonzero(np.any(held_out.image_features != 0, axis=1))
    if len(pictured) <= count:
        raise ValueError(f"{len(pictured)} shapes have a picture; expected more than {count}")
    found, _ = retrieval.nearest_neighbours(
        embeddings[pictured], embeddings[pictured], count=count, skip_self=True
    )
    pictures = held_out.image_features[pictured]
    wanted, _ = retrieval.nearest_neighbours(pictures, pictures, count=count, skip_self=True)
    shared = [len(set(one) & set(other)) for one, other in zip(found, wanted, strict=True)]
    return {
        "share": float(np.mean(shared)) / count,
        "chance": count / (len(pictured) - 1),
        "shapes": len(pictured),
    }


# --8<-- [end:measure]


# --8<-- [start:command]
def main(workdir: str, dataset: str) -> None:
    """Prints the measure of a run's newest evaluation."""
    embeddings = final.load_embeddings(workdir)["test"]
    print(json.dumps(shared_neighbours(embeddings, evaluators.load_held_out(dataset)), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
# --8<-- [end:command]
