# SPDX-License-Identifier: Apache-2.0
"""Arranges rows in a plane by t-SNE.

python -m mrd_jax.demo.tsne ROWS.npy XY.npy

A process of its own: scikit-learn brings another copy of OpenMP than faiss, and two of them in one
process can block each other; and the server goes on answering meanwhile.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

_PERPLEXITY = 30


def arrange(rows: np.ndarray) -> np.ndarray:
    """Runs this module in a process of its own.

    Args:
      rows: float32 [n, dim].

    Returns:
      float32 [n, 2].

    Raises:
      ImportError: scikit-learn is not installed.
      subprocess.CalledProcessError: the process failed; its errors are on stderr.
    """
    if importlib.util.find_spec("sklearn") is None:
        raise ImportError('the map needs scikit-learn. Run pip install "mrd_jax[demo]"')
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "rows.npy"), Path(folder, "xy.npy")
        np.save(source, rows)
        # Threads of OpenMP wait actively: beside the models of the server, several take minutes.
        subprocess.run(
            [sys.executable, "-m", "mrd_jax.demo.tsne", str(source), str(target)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
        )
        return np.load(target, allow_pickle=False)


def main() -> None:
    """Reads the rows and writes their places."""
    from sklearn import manifold  # an optional extra

    rows = np.load(sys.argv[1], allow_pickle=False)
    # Principal components as the first state keep the arrangement from version to version.
    model = manifold.TSNE(
        perplexity=min(_PERPLEXITY, len(rows) // 4), init="pca", max_iter=500, random_state=0
    )
    np.save(sys.argv[2], model.fit_transform(rows))


if __name__ == "__main__":
    main()
