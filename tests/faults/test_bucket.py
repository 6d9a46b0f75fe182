# SPDX-License-Identifier: Apache-2.0
"""A bucket carries a whole run: prepared, trained, killed, continued, evaluated and searched."""

import json
import random

import bucket
import numpy as np
import pytest
import small_run
from fake_data import run_build
from harness import Runs, kill_in_a_save
from tiny import assert_trees_equal
from tiny_encoder import random_clouds

from configs import benchmarks
from data_prep import verify as verify_data
from mrd_jax import encoder, storage
from mrd_jax.checkpoints import paths
from mrd_jax.data import dataset_metadata
from mrd_jax.data.hard_negatives import neighbour_index
from mrd_jax.evaluation import benchmark
from mrd_jax.report import final
from mrd_jax.tools import embed, neighbours, search
from mrd_jax.tools import verify as verify_checkpoints
from mrd_jax.training import train

pytestmark = pytest.mark.usefixtures("fast_compile")
STEPS = 12
EVALUATES = ("--config.data.test_split=test", "--config.eval_every=6")


@pytest.fixture(scope="module")
def url():
    """An empty bucket."""
    with bucket.emulated() as url:
        yield url


@pytest.fixture(scope="module")
def data(url, tmp_path_factory):
    """The same data set on this machine and in the bucket, by their kind."""
    with pytest.MonkeyPatch.context() as patch:
        folder, _ = run_build(
            tmp_path_factory.mktemp("built"), patch, points=96, upload=storage.path(f"{url}/data")
        )
    return {"local": folder, "bucket": f"{url}/data/fake/1.0.0"}


def event_tags(workdir):
    """Returns the names in the event files of a run."""
    content = b"".join(path.read_bytes() for path in (workdir / "tensorboard").glob("events*"))
    return {name for name in ("train/loss", "test/top1") if name.encode() in content}


def test_a_whole_life_in_a_bucket_equals_one_on_this_machine(
    url, data, tmp_path, monkeypatch, capsys
):
    assert verify_data.main([data["bucket"]]) == 0
    assert dataset_metadata.read(data["bucket"]) == dataset_metadata.read(data["local"])

    local = Runs(tmp_path / "run", data["local"], tmp_path / "compiled", STEPS, EVALUATES)
    local.finish()
    remote = Runs(f"{url}/run", data["bucket"], f"{url}/compiled", STEPS, EVALUATES, tmp_path)
    assert kill_in_a_save(remote, random.Random(0), ahead=4)
    saved = [int(folder.name) for folder in paths.steps(f"{url}/run")]
    interrupted = remote.saving()
    assert interrupted and not interrupted & set(map(str, saved))
    for name in interrupted:
        assert not paths.is_step(remote.workdir / paths.FOLDER / name)
    remote.finish()

    assert remote.checksums() == local.checksums()
    assert remote.curve() == local.curve() and remote.step() == STEPS
    assert event_tags(remote.workdir) == event_tags(local.workdir) == {"train/loss", "test/top1"}
    names = {path.name for path in remote.workdir.iterdir()}
    assert names == {path.name for path in local.workdir.iterdir()}
    assert not remote.saving()
    assert list(storage.path(f"{url}/compiled").iterdir())

    wanted = final.load_embeddings(remote.workdir)
    for name in (final.EMBEDDINGS_FILE, final.RESULTS_FILE):
        (remote.workdir / name).unlink()
    config = small_run.get_config()
    config.update_from_flattened_dict(
        {"data.directory": data["bucket"], "data.test_split": "test", "total_steps": STEPS}
    )
    train.evaluate(config, f"{url}/run")
    found = final.load_embeddings(f"{url}/run")
    np.testing.assert_allclose(found["test"], wanted["test"], rtol=0, atol=1e-5)
    assert json.loads((remote.workdir / final.RESULTS_FILE).read_text())["results"]
    assert verify_checkpoints.main([f"{url}/run"]) == 0

    loaded, wanted = (encoder.load(place) for place in (f"{url}/run", local.workdir))
    assert loaded.card == wanted.card
    assert_trees_equal(loaded.variables, wanted.variables)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    check_benchmark(url)
    check_neighbours(data, tmp_path)
    check_search(url, data["bucket"], tmp_path, capsys)


def check_benchmark(url):
    """Evaluates the run on the prepared test sets, all in the bucket, and resumes."""
    config = benchmarks.get_config()
    config.update({"checkpoint": f"{url}/run", "data": f"{url}/data", "batch_size": 8})
    for _ in range(2):
        benchmark.evaluate(config, f"{url}/benchmarks")
    results = json.loads(storage.path(f"{url}/benchmarks/results.json").read_text())
    assert results["sets"]["fake"]["counts"]["test"] == 10
    assert "## fake" in storage.path(f"{url}/benchmarks/benchmarks.md").read_text()


def check_neighbours(data, folder):
    """Writes the neighbours beside the data set, equal to those of the local one."""
    given = ["--count", "3", "--examples", "1"]
    assert neighbours.main(["--data", data["bucket"], *given]) == 0
    local = ["--data", str(data["local"]), "--output", str(folder / "N.npz")]
    assert neighbours.main([*local, *given]) == 0
    found = neighbour_index.read(f"{data['bucket']}/neighbours/train.npz")
    np.testing.assert_array_equal(found.indices, neighbour_index.read(folder / "N.npz").indices)


def check_search(url, data, folder, capsys):
    """Embeds a file, indexes files and a data set in the bucket, and finds the file again."""
    xyz, rgb = random_clouds(1)[0]
    np.savez(folder / "shape.npz", xyz=xyz, rgb=rgb)
    given = ["--checkpoint", f"{url}/run"]
    assert embed.main([*given, "--output", f"{url}/E.npz", str(folder / "shape.npz")]) == 0
    built = {"files": ["--embeddings", f"{url}/E.npz"], "set": ["--data", data, *given]}
    for name, arguments in built.items():
        output = ["--output", f"{url}/index_{name}", "--points", "20"]
        assert search.main(["build", *arguments, *output]) == 0
    capsys.readouterr()
    query = ["find", "--mesh", str(folder / "shape.npz"), *given, "--format", "json"]
    assert search.main([*query, "--index", f"{url}/index_files"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["id"] == str(folder / "shape.npz") and found["score"] == pytest.approx(1, abs=1e-3)
    assert search.main([*query, "--index", f"{url}/index_set", "--count", "50"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 39
