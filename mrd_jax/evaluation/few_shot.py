# SPDX-License-Identifier: Apache-2.0
"""Few-shot classification: a linear probe that is fitted to a few training shapes of each class.

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
    """Computes the accuracy of `linear_probe.linear_probe` on a few training shapes per class.

    A class with fewer shapes than shots contributes all of them, so that every probe knows the
    same classes. Such classes make the draws alike and the standard deviations small, so their
    number is reported. The penalty is chosen on the drawn shapes alone.

    Args:
      features: [train, dim], embeddings of the training split; their length does not matter.
      labels: int [train], -1 for an unknown class.
      test_features: [test, dim], embeddings of the test split.
      test_labels: int [test], -1 for an unknown class.
      shots: numbers of training shapes per class.
      seeds: number of draws to average over, with the seeds 0 to seeds - 1; at least 2.

    Returns:
      For each number of shots, as `SHOTS/KEY`: `top1` and `mean_per_class`, means over the seeds
      of fractions between 0 and 1; `top1_std` and `mean_per_class_std`, their sample standard
      deviations; `train`, the number of shapes drawn; and `short_classes`, the number of classes
      with fewer shapes than shots. Common to all probes: `seeds`, and `count`, `absent` and
      `classes` as `linear_probe.linear_probe` returns them.

    Raises:
      ValueError: there are fewer than two seeds, no shots or a number of shots below 1, or
        `linear_probe.linear_probe` raises.
    """
    if seeds < 2 or not shots or min(shots) < 1:
        raise ValueError(
            f"seeds {seeds} and shots {tuple(shots)}: expected two seeds or more, for a standard "
            "deviation, and one shot or more"
        )
    labels = np.asarray(labels)
    _, class_sizes = np.unique(labels[labels >= 0], return_counts=True)
    metrics: dict[str, float] = {"seeds": seeds}
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
            metrics[f"{number}/{key}"] = float(np.mean(values))
            metrics[f"{number}/{key}_std"] = float(np.std(values, ddof=1))
        metrics[f"{number}/train"] = probes[0]["train"]
        metrics[f"{number}/short_classes"] = int(np.sum(class_sizes < number))
        metrics |= {key: probes[0][key] for key in ("count", "absent", "classes")}
    return metrics


def draw(labels: np.ndarray, *, shots: int, seed: int) -> np.ndarray:
    """Draws training shapes class by class; for one seed, more shots include those of fewer shots.

    Args:
      labels: int [count], -1 for an unknown class.
      shots: number of shapes per class; a class with fewer contributes all of them.
      seed: random seed of the draw.

    Returns:
      int64 [drawn], indices in ascending order.
    """
    known = np.flatnonzero(np.asarray(labels) >= 0)
    positions = linear_probe.positions_in_class(np.asarray(labels)[known], seed=seed)
    return known[positions < shots]
