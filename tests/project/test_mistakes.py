# SPDX-License-Identifier: Apache-2.0
"""A user's first mistakes: each ends in at most three lines, with status 2 and without traceback.

Every line names the field or flag, what was found, and what is allowed or what to do.
"""

import pathlib
import sys

import forked_main
import pytest

from data_prep import build, fetch
from data_prep import verify as verify_data
from mrd_jax.cli import console
from mrd_jax.demo import __main__ as demo
from mrd_jax.evaluation.baselines import __main__ as baselines
from mrd_jax.tools import compare, convert, embed, inspect, neighbours, search, verify

ROOT = pathlib.Path(__file__).parents[2]
RUN = ["--config", "configs/quickstart.py", "--workdir", "run"]

# Arguments of `python -m mrd_jax.main`, and what its message must contain.
MAIN = {
    "no workdir": (RUN[:2], ["--workdir", "None"]),
    "no config file": (["--config", "configs/none.py", *RUN[2:]], ["'configs/none.py'", "a file"]),
    "stray argument": ([*RUN, "stray"], ["stray", "--"]),
    "unknown flag": ([*RUN, "--epochs=3"], ["epochs"]),
    "unknown mode": ([*RUN, "--mode=test"], ["--mode=test", "train|eval"]),
    "misspelt field": ([*RUN, "--config.loss.lamda_intra=1"], ["lamda_intra", "lambda_intra"]),
    "renamed field": (
        [*RUN, "--config.max_bad_steps=3"],
        ["max_bad_steps", "config.max_nonfinite_steps"],
    ),
    "wrong type": ([*RUN, "--config.batch_size=many"], ["batch_size=many", "an integer"]),
    "negative learning rate": (
        [*RUN, "--config.optimizer.learning_rate=-1"],
        ["config.optimizer.learning_rate is -1.0", "greater than 0"],
    ),
    "probability above 1": (
        [*RUN, "--config.augment.color_drop=50"],
        ["config.augment.color_drop is 50.0", "at most 1"],
    ),
    "no steps": ([*RUN, "--config.total_steps=0"], ["config.total_steps is 0", "at least 1"]),
    "unknown backend": ([*RUN, "--config.spmd=jit"], ["config.spmd is 'jit'", "'shard_map'"]),
    "unknown metric": (
        [*RUN, "--config.best_metric=top1"],
        ["config.best_metric is 'top1'", "'test/top1'"],
    ),
    "heads": ([*RUN, "--config.model.heads=3"], ["heads", "3", "256"]),
    "two faults": (
        [*RUN, "--config.seed=-1", "--config.loss.teacher_temperature=0"],
        ["config.seed is -1", "config.loss.teacher_temperature is 0.0"],
    ),
    "no data": (
        [*RUN, "--config.data.directory=nowhere"],
        ["'nowhere'", "dataset_info.json", "data_prep.build"],
    ),
    "two ways to join": (
        [*RUN, "--multihost", "--coordinator=host:1"],
        ["--multihost", "--coordinator"],
    ),
    "half a cluster": ([*RUN, "--coordinator=host:1"], ["--processes", "--process", "missing"]),
}

# Commands in this process: main function, arguments, what the message must contain.
COMMANDS = {
    "unknown source": (
        build.main,
        "--source car --input in --output out --teacher lit",
        ["--source", "'car'", "furniture"],
    ),
    "no input": (
        build.main,
        "--source folder --input nowhere --output out --teacher lit",
        ["nowhere", "--input"],
    ),
    "no points": (
        build.main,
        "--source folder --input . --output out --teacher lit --points 0",
        ["--points", "0", "1"],
    ),
    "points in words": (
        build.main,
        "--source folder --input . --output out --teacher lit --points ten",
        ["--points", "'ten'"],
    ),
    "unknown teacher": (
        build.main,
        "--source folder --input . --output out --teacher nobody",
        ["--teacher", "nobody", "lit"],
    ),
    "no data set": (verify_data.main, "nowhere", ["nowhere", "dataset_info.json"]),
    "fetch nowhere": (fetch.main, "", ["--output"]),
    "no encoder": (
        embed.main,
        "--checkpoint nowhere --output e.npz shape.npy",
        ["nowhere"],
    ),
    "sheet of another type": (
        inspect.main,
        "shape.npy --sheet sheet.jpg",
        ["--sheet", "'sheet.jpg'", ".png"],
    ),
    "no index": (search.main, "find --index nowhere --text chair", ["nowhere"]),
    "no page": (demo.main, "--checkpoint nowhere --index nowhere", ["nowhere"]),
    "no file to convert": (
        convert.main,
        "--from uni3d --checkpoint nowhere.pt --output out",
        ["nowhere.pt"],
    ),
    "no run to verify": (verify.main, "nowhere", ["nowhere", "run.json"]),
    "one run to compare": (compare.main, "nowhere --output page.html", ["nowhere"]),
    "no neighbours": (neighbours.main, "--data nowhere --feature image", ["nowhere"]),
    "no baselines": (baselines.main, "--data nowhere", ["nowhere"]),
    "unknown command": (lambda arguments: console.main(), "trian", ["'trian'", "train"]),
}


@pytest.fixture(scope="module")
def results():
    """Exit status and output of every case of `MAIN`."""
    return forked_main.run({name: arguments for name, (arguments, _) in MAIN.items()})


def assert_short(status, text, words):
    assert status == 2
    assert len(text.strip().splitlines()) <= 3 and "Traceback" not in text, text
    assert not [word for word in words if word not in text], text


@pytest.mark.parametrize("name", MAIN)
def test_mistake_in_a_run_is_named(results, name):
    assert_short(*results[name], MAIN[name][1])
    assert not (ROOT / "run").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_mistake_in_a_command_is_named(name, tmp_path, monkeypatch, capfd):
    main, arguments, words = COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["command", *arguments.split()])
    try:
        status = main(arguments.split())
    except SystemExit as error:  # argparse exits by itself
        status = error.code
    out, err = capfd.readouterr()
    assert_short(status, out + err, words)


def test_importing_main_does_not_configure_jax(results):
    assert results[""][1] == "None"


def test_debug_shows_the_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["verify", "nowhere", "--debug"])
    with pytest.raises(FileNotFoundError):
        verify.main(["nowhere", "--debug"])
