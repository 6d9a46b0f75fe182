# SPDX-License-Identifier: Apache-2.0
"""Ahead-of-time compilation: the step of the training, errors, sweep and the TPU compiler."""

import importlib.util
import json
import math
import os
import re
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from tiny import tiny_config

from benchmarks import tpu_losses, tpu_table
from configs import base
from mrd_jax import losses, models
from mrd_jax.analysis import ahead, chips, schedule, sweep, table
from mrd_jax.data import batch_spec
from mrd_jax.distributed import backends
from mrd_jax.training import run as run_lib

COMMAND = [sys.executable, "-m", "mrd_jax.tools.compile"]
# The smallest student that has every part, as flags.
SMALL = dict(tiny_config().model)


DEVICES = jax.devices()[:4]


@pytest.fixture(scope="module")
def lowered():
    """The step lowered from shapes; the config has pmap, the tool uses shard_map regardless."""
    config = tiny_config()
    assert config.spmd == "pmap"
    return ahead.trace(ahead.build(config, DEVICES)).lower()


def test_lowered_step_equals_that_of_the_training(lowered, fast_compile):
    """The training lowers it for concrete arrays."""
    config = tiny_config(spmd="shard_map")
    run = run_lib.build_run(config, devices=DEVICES)
    batch = run.backend.place_batch(batch_spec.fake_batch(config))
    assert lowered.as_text() == run.train_step().lower(run.initial_state(), batch).as_text()


def names(lowered):
    """All words in the paths of operations."""
    paths = re.findall(r'loc\("([^"]*)"', lowered.as_text(debug_info=True))
    return set(re.findall(r"\w+", " ".join(paths)))


def test_lowered_step_names_every_part(lowered):
    assert {*schedule.PARTS, "PointBert"} <= names(lowered)


def test_uni3d_names_its_parts_like_point_bert():
    fields = dict(dim=32, depth=2, heads=2, mlp_dim=48, mlp="gelu", encoder_dim=16)
    fields |= dict(name="uni3d", groups=8, group_size=4, out_dim=24)
    model = models.build_model(fields)
    cloud = jax.ShapeDtypeStruct((1, 64, 3), "float32")
    variables = jax.eval_shape(model.init, jax.random.key(0), cloud, cloud)
    words = names(jax.jit(model.apply).trace(variables, cloud, cloud).lower())
    assert {
        "choose_centres",
        "neighbours",
        "describe",
        "tokenizer",
        "transformer",
        "Uni3D",
    } <= words


@pytest.mark.parametrize("name", ["v9z:2x2", "v5e", "v5e:2x2x2", "v5p:4x4", "v5e:0x2"])
def test_unknown_topology_is_rejected_with_examples(name):
    with pytest.raises(ValueError, match=f"{name}.*expected.*v5"):
        chips.parse_topology(name)


def test_missing_libtpu_is_reported_with_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(chips.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(chips.MissingCompilerError, match=r'pip install "mrd_jax\[tpu\]"'):
        chips.make_devices("v5e:2x2")


def test_former_command_names_the_new_one_and_reports_a_wrong_topology_without_a_traceback():
    done = subprocess.run(
        [
            *COMMAND[:2],
            "mrd_jax.tools.compile_tpu",
            "--config",
            "configs/quickstart.py",
            "--topology",
            "v9z:2x2",
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "compile_tpu is now mrd_jax.tools.compile" in done.stderr
    assert "v9z:2x2" in done.stderr and "v5e:16x16" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("message", "needed", "available"),
    [
        (
            "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory "
            "space hbm. Used 17.00G of 15.75G hbm. Exceeded hbm capacity by 1.25G.",
            17 * 2**30,
            15.75 * 2**30,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
            "temporaries (48.00G) exceeds available HBM (512.5M).",
            48 * 2**30,
            512.5 * 2**20,
        ),
    ],
)
def test_out_of_memory_error_becomes_a_report(message, needed, available):
    wanted = {"fits": False, "allocated_bytes": needed, "memory_bytes": available}
    assert ahead.parse_out_of_memory(message) == wanted


def test_other_compiler_errors_are_raised():
    with pytest.raises(RuntimeError, match="UNIMPLEMENTED: no such instruction"):
        ahead.parse_out_of_memory("UNIMPLEMENTED: no such instruction")


def linear(available, tried):
    def probe(batch):
        tried.append(batch)
        needed = 1000 + 37 * batch
        return sweep.Probe(needed <= available, needed, available)

    return probe


@pytest.mark.parametrize(
    ("available", "start", "wanted"),
    [
        (10_000, 4, 240),  # (10,000 - 1,000) / 37 = 243, in steps of 8
        (10_000, 240, 240),
        (10_000, 5_000, 240),
        (1_000 + 37 * 8, 64, 8),
        (1_200, 64, 5),
        (1_000, 3, 0),
    ],
)
def test_sweep_finds_the_largest_batch_in_few_compilations(available, start, wanted):
    tried = []
    assert sweep.find_largest(linear(available, tried), start=start) == wanted
    assert len(tried) == len(set(tried)) <= 10


def test_batch_per_chip_is_multiplied_by_the_number_of_chips():
    config = tiny_config()
    assert sweep.with_batch(config, 3, topology="v5p:2x2x4").batch_size == 48
    assert config.batch_size == 16


REPORT = {
    "topology": "v5e:2x2", "chips": 4, "batch_size": 16, "batch_per_chip": 4, "parameters": 1e6,
    "spmd_of_config": "pmap", "model_flops": {"total": 2e12}, "flops": 3e12, "floor_s": 0.01,
    "fits": False, "allocated_bytes": 17 * 2**30, "memory_bytes": 16 * 2**30, "compile_s": 5.0,
}  # fmt: skip


def test_table_reports_out_of_memory_and_that_shard_map_was_compiled():
    text = table.format_text(REPORT)
    assert re.search(r"DOES NOT FIT +needs 17.00 GiB of 16.00 GiB per chip", text)
    assert "config.spmd is 'pmap'" in text
    assert "nothing was run" in text
    assert "config.spmd" not in table.format_text(REPORT | {"spmd_of_config": "shard_map"})


def test_markdown_table_has_one_column_per_report():
    lines = table.format_markdown(
        [REPORT, REPORT | {"topology": "v4:2x2x1", "floor_s": 2.0}]
    ).split("\n")
    assert lines[0] == "|  | v5e:2x2 | v4:2x2x1 |"
    assert "| lower bound | 10.0 ms | 2,000.0 ms |" in lines


def measured_by(available):
    """Fake compiler: a chip needs 1,000 bytes, and 37 more per point cloud."""

    def measure(config, *, topology, calibrated):
        batch = config.batch_size // 4
        sizes = {"allocated_bytes": 1000 + 37 * batch, "memory_bytes": available}
        fits = sizes["allocated_bytes"] <= available
        return REPORT | sizes | {"batch_per_chip": batch, "fits": fits}

    return measure


def test_sweep_reports_the_largest_batch_and_all_trials(monkeypatch, capsys):
    monkeypatch.setattr(ahead, "measure", measured_by(2_000))
    report = sweep.measure_largest(tiny_config(), topology="v5e:2x2")
    assert (report["batch_per_chip"], report["fits"]) == (24, True)  # 1,000 / 37 = 27
    tried = {trial["batch_per_chip"]: trial["fits"] for trial in report["sweep"]}
    assert tried == {8: True, 16: True, 32: False, 24: True}
    printed = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert printed == report["sweep"]


def test_sweep_without_a_fit_reports_the_memory_of_one_cloud(monkeypatch):
    monkeypatch.setattr(ahead, "measure", measured_by(1_000))
    with pytest.raises(ValueError, match="1,037 of 1,000 bytes.*remat"):
        sweep.measure_largest(tiny_config(), topology="v5e:2x2")


def test_objective_compiled_alone_equals_one_device(fast_compile):
    config = base.loss()
    rng = np.random.default_rng(0)
    points, image, text = rng.normal(size=(3, 8, 6)).astype(np.float32)
    teacher = {"image": image.astype(np.float16), "text": text.astype(np.float16)}
    teacher |= {"has_image": np.arange(8) != 2, "has_text": np.arange(8) != 5}
    weights = losses.init_loss_params(config)

    def one_device(points):
        embeddings = teacher | {"points": points, "log_scale": weights["log_scale"]}
        return losses.mrd_loss(embeddings, weights, config)[0]

    lowered = tpu_losses.lower(config, DEVICES, batch=8, dim=6)
    mesh = jax.sharding.Mesh(np.asarray(DEVICES), (backends.AXIS,))
    places = jax.sharding.NamedSharding(mesh, jax.P(backends.AXIS))
    split = jax.device_put((points, teacher), places)
    everywhere = jax.device_put(weights, jax.sharding.NamedSharding(mesh, jax.P()))
    (value, _), to_points = lowered.compile()(*split, everywhere)
    want, gradient = jax.jit(jax.value_and_grad(one_device))(points)
    np.testing.assert_allclose(value, want, rtol=1e-5)
    np.testing.assert_allclose(to_points, gradient, rtol=1e-4, atol=1e-6)


def loss_report(row):
    """A report like those of benchmarks.tpu_losses."""
    ms = 1.0 if "--contrastive" in row.arguments else 3.0
    form = "plain" if "--form=plain" in row.arguments else "blockwise"
    batch = int(row.arguments[0].split("=")[1])
    sizes = {"batch": batch, "dim": 1280, "block": 512, "peak_bytes": 5 * 2**20}
    return {"topology": "v5e:8x8", "form": form, "estimate_s": ms / 1e3, "floor_s": 5e-4} | sizes


@pytest.fixture
def page_of(monkeypatch, tmp_path):
    """Writes the page from made-up reports; returns it and the commands that were run."""
    ran = []

    def measure(row):
        ran.append(row.command)
        step = REPORT | {"jax": "0.10", "libtpu": "0.0.42", "estimate_s": 0.4}
        return loss_report(row) if row.module == tpu_table.LOSSES else step

    def write():
        ran.clear()
        reports, page = tmp_path / "reports.jsonl", tmp_path / "page.md"
        monkeypatch.setattr(tpu_table, "measure", measure)
        assert tpu_table.main([f"--reports={reports}", f"--output={page}"]) == 0
        return page.read_text("utf-8"), list(ran)

    return write


def test_page_lists_the_command_of_every_row(page_of):
    page, ran = page_of()
    assert ran == [row.command for row in tpu_table.all_rows()]
    assert all(command in page for command in ran)
    assert "jax 0.10 and libtpu 0.0.42" in page
    assert "| v5e:8x8 | 16,384 | blockwise, blocks of 512 | 5.0 MiB | 3.00 ms | 0.50 ms |" in page
    # 3 ms with relations, 1 ms without, of a step of 400 ms.
    assert (
        "The relation terms take 2.00 ms of a step of 400 ms\nwith 4 point clouds per chip: 0.50%."
        in page
    )


def test_compiled_rows_are_not_compiled_again(page_of):
    page, _ = page_of()
    assert page_of() == (page, [])


@pytest.mark.tpu
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason='the TPU compiler is not installed: pip install -e ".[tpu]"',
)
@pytest.mark.parametrize("topology", ["v5e:1x1", "v4:2x2x1", "v5p:2x2x1", "v6e:2x2"])
def test_step_compiles_for_every_tpu_generation(topology):
    fields = {f"--config.model.{name}={value}" for name, value in SMALL.items()}
    fields |= {"--config.data.points=96", "--config.teacher.dim=24", "--batch_per_chip=4"}
    done = subprocess.run(
        [*COMMAND, "--config", "configs/base.py", "--topology", topology, *sorted(fields)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    report = types.SimpleNamespace(**json.loads(done.stdout))
    _, dims = chips.parse_topology(topology)
    assert (report.chips, report.batch_per_chip) == (math.prod(dims), 4)
    assert report.fits and report.argument_bytes < report.peak_bytes
    assert report.argument_bytes + report.temporary_bytes < report.allocated_bytes
    assert report.floor_s < report.estimate_s
    assert sum(report.share.values()) == pytest.approx(1, abs=1e-3)
    assert all(report.share[part] > 0 for part in set(schedule.PARTS.values()))
    assert report.loops_of_unknown_length == 0
    assert bool(report.collectives) == (report.chips > 1)
    assert 1 <= report.calibration["product"] < 2
