# SPDX-License-Identifier: Apache-2.0
"""Example of an evaluator: agreement of student and teacher on the nearest neighbours of shapes.

python docs/examples/evaluator.py runs/quickstart data/furniture/1.0.0
"""

import json
import sys

import numpy as np

from mrd_jax import evaluation
from mrd_jax.evaluation import retrieval
from mrd_jax.report import final


# --8<-- [start:measure]
def shared_neighbours(
    embeddings: np.ndarray, held_out: evaluation.HeldOut, *, count: int = 5
) -> dict[str, float]:
    """Computes the fraction of nearest neighbours that the teacher's image features agree with.

    MRD distils relations, so this measures its training objective on unseen shapes. Compare results
    only within one data set and one teacher.

    Args:
      embeddings: [shapes, dim], in the order of `held_out`; normalised here.
      held_out: held-out split; shapes without an image are excluded.
      count: neighbours per shape.

    Returns:
      "share", the fraction of common neighbours; "chance", its expectation for random neighbours;
      "shapes", the number of shapes with an image.

    Raises:
      ValueError: the number of embeddings is wrong, or too few shapes have an image.
    """
    if len(embeddings) != len(held_out.ids):
        raise ValueError(
            f"got {len(embeddings)} embeddings; expected {len(held_out.ids)}, one per shape"
        )
    rows = np.flatnonzero(np.any(held_out.image_features != 0, axis=1))
    if len(rows) <= count:
        raise ValueError(f"{len(rows)} shapes have an image; expected more than {count}")
    neighbours = [
        retrieval.nearest_neighbours(features[rows], features[rows], count=count, skip_self=True)[0]
        for features in (embeddings, held_out.image_features)
    ]
    common = [
        len(set(student) & set(teacher)) for student, teacher in zip(*neighbours, strict=True)
    ]
    return {
        "share": float(np.mean(common)) / count,
        "chance": count / (len(rows) - 1),
        "shapes": len(rows),
    }


# --8<-- [end:measure]


# --8<-- [start:command]
def main(workdir: str, dataset: str) -> None:
    """Prints the result for the last evaluation of a run."""
    embeddings = final.load_embeddings(workdir)["test"]
    print(json.dumps(shared_neighbours(embeddings, evaluation.load_held_out(dataset)), indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
# --8<-- [end:command]
