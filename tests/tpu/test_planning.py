# SPDX-License-Identifier: Apache-2.0
"""Time, data and cost of a run, against figures computed by hand."""

import json
import subprocess
import sys

import pytest
from tiny import tiny_config

from configs import mrd_pointbert
from mrd_jax.analysis import ahead, chips, planning


def run_config():
    config = tiny_config()
    config.batch_size, config.total_steps, config.checkpoint_every = 1_000, 36_000, 5_000
    config.data.points, config.teacher.dim = 10_000, 1_280
    return config


def test_figures_are_those_computed_by_hand():
    figures = planning.plan(
        run_config(),
        topology="v5e:8x8",
        parameters=50_000_000,
        step_seconds=0.1,
        records=900_000,
        price=2.0,
    )
    # 36,000 steps of 0.1 s are an hour; 64 chips are 16 hosts; 10,000 records/s over 16 hosts.
    assert (figures["hours"], figures["chip_hours"], figures["cost"]) == (1.0, 64.0, 128)
    assert (figures["hosts"], figures["records_per_s_and_host"]) == (16, 625)
    assert figures["epochs"] == 40.0
    # 10,000 points of 9 bytes, and 18 features of 1,280 numbers of 2 bytes.
    assert planning.estimate_record_bytes(run_config()) == 90_000 + 46_080
    assert figures["data_gb"] == pytest.approx(900_000 * 136_080 / 1e9, abs=0.05)
    assert figures["data_gb_per_s_and_host"] == pytest.approx(625 * 136_080 / 1e9, abs=5e-4)
    assert (figures["checkpoints"], figures["checkpoint_gb"]) == (7, 0.6)


@pytest.mark.parametrize(
    ("topology", "count", "hosts"),
    [("v5p:4x4x4", 64, 16), ("v5e:1x1", 1, 1), ("h100:8", 8, 1), ("a100-80:2x8", 16, 2)],
)
def test_hosts_of_slices_and_nodes(topology, count, hosts):
    options = {"parameters": 1, "step_seconds": 1, "records": 10, "record_bytes": 1}
    figures = planning.plan(run_config(), topology=topology, **options)
    assert (figures["chips"], figures["hosts"], figures["cost"]) == (count, hosts, None)


@pytest.mark.parametrize("topology", ["v5e", "v5e:8*8", ":8", "h100:0"])
def test_malformed_topology_is_an_error(topology):
    with pytest.raises(ValueError, match=r"--topology is .*expected a kind of chip"):
        chips.count_chips(topology)


@pytest.mark.parametrize(
    ("implementation", "topology", "platform"),
    [("pallas", "h100:8", "cuda"), ("cudnn", "v5e:8x8", "tpu")],
)
def test_attention_that_the_chips_lack_is_an_error_without_a_compiler(
    implementation, topology, platform
):
    config = mrd_pointbert.get_config()
    config.model.attention = implementation
    with pytest.raises(ValueError, match=f"the platform is {platform}, which has auto, xla"):
        ahead.measure(config, topology=topology)
    ahead.validate(config, topology="other:8")


def run_tool(*options):
    command = [sys.executable, "-m", "mrd_jax.tools.plan", "--config=configs/mrd_pointbert.py"]
    return subprocess.run([*command, *options], capture_output=True, text=True)


def test_command_prints_a_table_and_a_json_line():
    done = run_tool("--topology=h100:8", "--step_ms=100", "--records=875000", "--price=3")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert figures["checkpoint_gb"] == pytest.approx(32.3e6 * 12 / 1e9, abs=0.01)
    assert figures["estimated"] is False
    # Without a data set, records of 10,000 points are assumed.
    assert figures["data_gb"] == pytest.approx(875_000 * 136_080 / 1e9, abs=0.05)
    assert "left out    compilation and start-up" in done.stderr


def test_command_without_a_number_of_records_says_how_to_give_it():
    done = run_tool("--topology=h100:8", "--step_ms=100")
    assert done.returncode == 2
    assert "or pass --records, the number of training records" in done.stderr
