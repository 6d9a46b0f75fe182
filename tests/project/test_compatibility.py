# SPDX-License-Identifier: Apache-2.0
"""Files written by version 0.1.0, before the modules moved, still load.

`tests/fixtures/version_0.1.0.tar.gz` was written by commit df3d34a: a data set of 40 made-up
shapes, a finished run, the same run stopped by SIGTERM at step 3 (before its evaluation), an
encoder, a search index, and embeddings that the old code computed.
"""

import pathlib
import tarfile

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict
from tiny_encoder import random_clouds

from configs import base
from data_prep import verify as verify_data
from mrd_jax import encoder
from mrd_jax.data import dataset_metadata, source
from mrd_jax.evaluation import history
from mrd_jax.report import comparison
from mrd_jax.search import shape_index
from mrd_jax.tools import verify as verify_checkpoints
from mrd_jax.training import train

ARCHIVE = pathlib.Path(__file__).parents[1] / "fixtures" / "version_0.1.0.tar.gz"
DATA = "data/made_up/1.0.0"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A working folder with the files of version 0.1.0."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def expected(old):
    with np.load(old / "expected.npz") as file:
        return dict(file)


def config_of_the_run() -> ConfigDict:
    config = base.get_config()
    config.batch_size = 8
    config.total_steps = 6
    config.log_every = 1
    config.eval_every = 3
    config.checkpoint_every = 3
    config.data.points = 24
    config.data.directory = DATA
    config.teacher.dim = 6
    config.model.update(
        points=16, dim=16, depth=2, heads=1, mlp_dim=16, sa_dim=8, groups=4, group_size=4,
        radius=0.4, out_dim=6,
    )  # fmt: skip
    config.optimizer.warmup_steps = 2
    config.optimizer.ema_decay = 0.9
    # The defaults of that version.
    config.loss.update(lambda_intra=1.0, lambda_image=1.0, lambda_text=1.0)
    return config


def test_data_set_is_read_and_verified(old):
    assert len(source.open_split(DATA, "train")) + len(source.open_split(DATA, "test")) == 39
    assert verify_data.main([DATA]) == 0


def test_encoder_embeds_as_before(expected):
    found = encoder.load("encoder", devices=jax.local_devices()[:1]).embed(random_clouds(2))
    np.testing.assert_allclose(found, expected["encoder"], atol=1e-5)


def test_encoder_of_a_run_embeds_as_before(expected):
    clouds = [(xyz[:16], rgb[:16]) for xyz, rgb in random_clouds(2)]
    found = encoder.load("run", devices=jax.local_devices()[:1]).embed(clouds)
    np.testing.assert_allclose(found, expected["run"], atol=1e-5)


def test_checkpoints_and_encoder_are_verified(old):
    assert verify_checkpoints.main(["run", "stopped", "encoder"]) == 0


def test_index_is_read(old):
    index = shape_index.read(old / "index")
    assert len(index) == 12
    assert index.reader_version == 1 and "version 1 of the readers of files" in index.reader_note()


def test_data_set_is_of_the_first_version_of_the_readers(old):
    metadata = dataset_metadata.read(DATA)
    assert "reader_version" not in metadata and dataset_metadata.reader_version(metadata) == 1


@pytest.mark.usefixtures("fast_compile")
def test_stopped_run_continues_with_its_evaluation_and_ends_like_the_finished_one(old):
    assert history.evaluations("stopped") == {}
    train.train_and_evaluate(config_of_the_run(), "stopped", devices=jax.devices()[:1])
    found, wanted = (history.read_metrics(f"{run}/metrics.jsonl") for run in ("stopped", "run"))
    # Later versions log how soft the relations are, too.
    before = {name for name in found if not name.startswith("relation/")}
    assert before == wanted.keys() and "train/loss" in found
    for name in ("train/loss", "train/grad_norm", "test/top1"):
        np.testing.assert_array_equal(found[name][0], wanted[name][0])
        np.testing.assert_allclose(found[name][1], wanted[name][1], rtol=1e-4)
    with np.load("stopped/embeddings.npz") as now, np.load("run/embeddings.npz") as before:
        np.testing.assert_allclose(now["test"], before["test"], atol=1e-4)


def test_results_of_a_run_are_compared(old):
    run = comparison.read_run(old / "run", name="old")
    assert run.student.name == "student" and "train/data_wait_fraction" in run.curves
