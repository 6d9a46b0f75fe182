# SPDX-License-Identifier: Apache-2.0
"""The notebooks have no outputs, and run from top to bottom on fake data and fake runs.

`make notebooks` runs them on the furniture data.
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from doc_pages import ROOT

from mrd_jax import evaluation

NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
pages = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pages
def test_notebook_has_no_outputs(path):
    cells = json.loads(path.read_text("utf-8"))["cells"]
    assert len(cells) > 10 and cells[0]["cell_type"] == "markdown"
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert not [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"]]


def write_runs(folder, made):
    """Writes two workdirs with the embeddings that an evaluation saves."""
    held_out = evaluation.load_held_out(made)
    for seed, name in enumerate(("contrastive", "mrd")):
        rows = np.random.default_rng(seed).normal(size=held_out.image_features.shape)
        rows = np.float32(rows / np.linalg.norm(rows, axis=1, keepdims=True))
        (folder / "notebook" / name).mkdir(parents=True)
        np.savez(folder / "notebook" / name / "embeddings.npz", test=rows, test_ids=held_out.ids)


@pytest.mark.slow
@pages
def test_notebook_runs_from_top_to_bottom(path, made, tmp_path):
    (tmp_path / "furniture").mkdir()
    (tmp_path / "furniture" / "1.0.0").symlink_to(made)
    write_runs(tmp_path, made)
    # As `jupyter execute`, with another output file.
    command = [sys.executable, "-c", "from nbclient import cli; cli.main()", str(path)]
    command += ["--output", str(tmp_path / "executed")]
    environment = os.environ | {
        "DATA": str(tmp_path), "RUNS": str(tmp_path), "PYTHONPATH": str(ROOT), "XLA_FLAGS": "",
    }  # fmt: skip
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    cells = json.loads((tmp_path / "executed.ipynb").read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["execution_count"] for cell in code)
    assert any("image/png" in output.get("data", {}) for output in code[-2]["outputs"])
