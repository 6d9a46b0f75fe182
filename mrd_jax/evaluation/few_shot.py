# SPDX-License-Identifier: Apache-2.0
"""Few-shot: a linear probe that sees only a few training shapes of every class.

Shots and seeds are those of OpenShape's few-shot figure (arXiv 2305.10764): 1, 2, 4, 8 and 16
shapes per class, mean and standard deviation over 10 draws.
"""

from collections.abc import Sequence

import numpy as np

from mrd_jax.evaluation import linear_probe

SHOTS = (1, 2, 4, 8, 16)
SEEDS = 10


def few_shot(
    features: np.ndarray,
    *,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    shots: Sequence[int] = SHOTS,
    seeds: int = SEEDS,
) -> dict[str, float]:
    """Accuracy of `linear_probe.linear_probe` on a few training shapes per class.

    A class with fewer shapes than shots gives all that it has, so that every probe knows the same
    classes; how many classes fall short is reported, since they make draws alike and spreads
    small. The strength of the penalty is chosen inside the drawn shapes and never on others.

    Args:
      features: [train, dim], embeddings of the training split, any length.
      labels: int [train], -1 where unknown.
      test_features: [test, dim].
      test_labels: int [test], -1 where unknown.
      shots: shapes per class.
      seeds: draws to average over, 0 to seeds - 1; at least 2.

    Returns:
      For every number of shots, as `SHOTS/KEY`: top1 and mean_per_class, means over the seeds;
      top1_std and mean_per_class_std, their sample standard deviations; train, the shapes drawn;
      and short_classes, the classes that have fewer. Besides seeds, and of all probes alike:
      count, absent and classes as in `linear_probe.linear_probe`.

    Raises:
      ValueError: where seeds or shots are too few, or the probe refuses its input.
    """
    if seeds < 2 or not shots or min(shots) < 1:
        raise ValueError(
            f"seeds {seeds} and shots {tuple(shots)}: expected two seeds or more, for a standard "
            "deviation, and one shot or more"
        )
    labels = np.asarray(labels)
    _, sizes = np.unique(labels[labels >= 0], return_counts=True)
    found: dict[str, float] = {"seeds": seeds}
    for number in shots:
        probes = []
        for seed in range(seeds):
            drawn = draw(labels, shots=number, seed=seed)
            probes.append(
                linear_probe.linear_probe(
                    np.asarray(features)[drawn],
                    labels=labels[drawn],
                    test_features=test_features,
                    test_labels=test_labels,
                    seed=seed,
                )
            )
        for key in ("top1", "mean_per_class"):
            values = [probe[key] for probe in probes]
            found[f"{number}/{key}"] = float(np.mean(values))
            found[f"{number}/{key}_std"] = float(np.std(values, ddof=1))
        found[f"{number}/train"] = probes[0]["train"]
        found[f"{number}/short_classes"] = int(np.sum(sizes < number))
        found |= {key: probes[0][key] for key in ("count", "absent", "classes")}
    return found


def draw(labels: np.ndarray, *, shots: int, seed: int) -> np.ndarray:
    """Draws shapes class by class; with one seed, fewer shots are a part of more.

    Args:
      labels: int [count], -1 where unknown.
      shots: shapes per class; a class with fewer gives all.
      seed: of the draw.

    Returns:
      int64 [drawn], ascending positions.
    """
    known = np.flatnonzero(np.asarray(labels) >= 0)
    places = linear_probe.places_in_class(np.asarray(labels)[known], seed=seed)
    return known[places < shots]
