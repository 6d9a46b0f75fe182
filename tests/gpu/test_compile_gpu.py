# SPDX-License-Identifier: Apache-2.0
"""The compile tool for GPUs: topologies, counts in a compiled program, and the GPU compiler."""

import json
import os
import re
import subprocess
import sys

import jax
import pytest
from tiny import tiny_config

from configs import mrd_pointbert
from mrd_jax import models
from mrd_jax.analysis import (
    ahead,
    chips,
    gpu_targets,
    hlo,
    minimal_traffic,
    planning,
    schedule,
    sweep,
    table,
)
from mrd_jax.kernels import platforms

COMMAND = [sys.executable, "-m", "mrd_jax.tools.compile"]

# A loop of 3 with a product by cuBLAS, whose second result is a workspace, attention by cuDNN and a
# fusion; the branches of the conditional have no cycles and differ in bytes.
PROGRAM = """\
HloModule jit_run, is_scheduled=true

%double (x: bf16[8,4]) -> bf16[8,4] {
  %x = bf16[8,4]{1,0} parameter(0)
  ROOT %add = bf16[8,4]{1,0} add(%x, %x)
}

%body (state: (s32[], bf16[8,4], bf16[4,4])) -> (s32[], bf16[8,4], bf16[4,4]) {
  %state = (s32[], bf16[8,4]{1,0}, bf16[4,4]{1,0}) parameter(0)
  %count = s32[] get-tuple-element(%state), index=0
  %rows = bf16[8,4]{1,0} get-tuple-element(%state), index=1
  %kernel = bf16[4,4]{1,0} get-tuple-element(%state), index=2
  %product = (bf16[8,4]{1,0}, s8[33554432]{0}) custom-call(%rows, %kernel), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(run)/transformer/dot_general"}
  %result = bf16[8,4]{1,0} get-tuple-element(%product), index=0
  %fusion = bf16[8,4]{1,0} fusion(%result), kind=kLoop, calls=%double, metadata={op_name="jit(run)/transformer/add"}
  ROOT %next = (s32[], bf16[8,4]{1,0}, bf16[4,4]{1,0}) tuple(%count, %fusion, %kernel)
}

%condition (state.1: (s32[], bf16[8,4], bf16[4,4])) -> pred[] {
  %state.1 = (s32[], bf16[8,4]{1,0}, bf16[4,4]{1,0}) parameter(0)
  ROOT %more = pred[] constant(true)
}

%small (s: bf16[8,4]) -> bf16[8,4] {
  %s = bf16[8,4]{1,0} parameter(0)
  ROOT %same = bf16[8,4]{1,0} bitcast(%s)
}

%large (l: bf16[8,4]) -> bf16[8,4] {
  %l = bf16[8,4]{1,0} parameter(0)
  ROOT %negate = bf16[8,4]{1,0} negate(%l)
}

ENTRY %main (which: s32[], a: bf16[8,4], b: bf16[4,4]) -> bf16[8,4] {
  %which = s32[] parameter(0)
  %a = bf16[8,4]{1,0} parameter(1)
  %b = bf16[4,4]{1,0} parameter(2)
  %start = (s32[], bf16[8,4]{1,0}, bf16[4,4]{1,0}) tuple(%which, %a, %b)
  %while = (s32[], bf16[8,4]{1,0}, bf16[4,4]{1,0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"3"}}
  %out = bf16[8,4]{1,0} get-tuple-element(%while), index=1
  %fmha = (bf16[8,4]{1,0}, f32[8]{0}, u8[64]{0}) custom-call(%out), custom_call_target="__cudnn$fmhaSoftmax"
  %mixed = bf16[8,4]{1,0} get-tuple-element(%fmha), index=0
  ROOT %either = bf16[8,4]{1,0} conditional(%which, %mixed, %mixed), branch_computations={%small, %large}
}
"""  # noqa: E501


@pytest.fixture(scope="module")
def summary():
    return schedule.summarize(hlo.parse(PROGRAM))


def test_workspaces_of_libraries_are_no_traffic(summary):
    # [8, 4] in bfloat16 are 64 bytes, [4, 4] are 32. Three times: product and fusion.
    assert summary.bytes["transformer"] == 3 * ((64 + 32 + 64) + (64 + 64))
    # cuDNN reads 64 and writes 64 and 32; of the branches, the one that moves bytes is taken.
    assert summary.bytes["other"] == (64 + 64 + 32) + (64 + 64)


def test_launches_and_library_calls_are_multiplied_by_trip_counts(summary):
    assert summary.launches == {"other": 2, "transformer": 6}
    assert summary.library_calls == {"__cublas$lt$matmul": 3, "__cudnn$fmhaSoftmax": 1}


@pytest.mark.parametrize(
    ("topology", "dims", "memory"),
    [
        ("h100:8", (1, 8), 80),
        ("h100:2x8", (2, 8), 80),
        ("a100-80:8", (1, 8), 80),
        ("a100-40:4", (1, 4), 40),
        ("h200:8", (1, 8), 141),
        ("l4:1", (1, 1), 24),
        ("b200:4x8", (4, 8), 192),
    ],
)
def test_gpus_of_one_node_and_of_several(topology, dims, memory):
    chip, found = chips.parse_topology(topology)
    assert (chip.platform, found) == ("gpu", dims)
    assert chips.count_hosts(topology) == dims[0]
    # CUDA reports less than 10% below the nominal gigabytes, or up to 8% above (GiB).
    assert 0.9 * memory * 1e9 < chip.memory < 1.08 * memory * 1e9


@pytest.mark.parametrize("topology", ["h100:16", "h100:0", "h100:0x8", "a100-80:2x2x2"])
def test_more_gpus_than_a_node_has_are_rejected_with_the_right_form(topology):
    with pytest.raises(ValueError, match=rf"{topology}.*such as .*:8 or .*:2x8"):
        chips.parse_topology(topology)


def test_figures_of_the_tpu_compiler_are_refused_for_gpus():
    with pytest.raises(ValueError, match="h100:8.*expected a TPU slice"):
        chips.parse_slice("h100:8")


def test_missing_plugin_is_reported_with_the_extra_to_install(monkeypatch):
    monkeypatch.setattr(gpu_targets.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(chips.MissingCompilerError, match=r'pip install "mrd_jax\[cuda12\]"'):
        chips.make_devices("h100:8")


def test_share_of_the_memory_is_that_of_jax(monkeypatch):
    for name in ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
        monkeypatch.delenv(name, raising=False)
    assert gpu_targets.memory_fraction() == 0.75
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", ".5")
    assert gpu_targets.memory_fraction() == 0.5
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", ".92")
    assert gpu_targets.memory_fraction() == 0.92
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", "92%")
    with pytest.raises(ValueError, match="XLA_CLIENT_MEM_FRACTION is '92%'; expected a share"):
        gpu_targets.memory_fraction()


def test_minimal_traffic_of_a_block_by_hand():
    count = minimal_traffic.count_blocks
    # Width 4, hidden 6. Products 16 + 8 + 10 + 10, attention 16, activation 12, sums 32.
    forward = 104
    # Products twice, attention 32, activation 18, sums 32.
    backward = 88 + 32 + 18 + 32
    last = 28 + 56
    assert count(4, 6, depth=1, gates=1, remat=False) == last
    assert count(4, 6, depth=3, gates=1, remat=False) == 2 * (forward + backward) + last
    # Again all but attention (16), the second map (10) and its sum (16).
    recomputed = 104 - 16 - 10 - 16
    assert count(4, 6, depth=2, gates=1, remat=True) == forward + backward + recomputed + last + 20


def test_minimal_traffic_of_a_tokenizer_by_hand():
    layers = [(9, 4, False), (4, 8, True)]
    # 16 points in groups of 4: the last layer writes 8 channels of 4 groups.
    first, last = 16 * (9 + 4), 16 * 4 + 4 * 8
    moments, gathered = 16 * (9 + 4), 16 * 9
    wanted = gathered + moments + first * 2 + last * 3
    found = minimal_traffic.count_point_layers(layers, points=16, group_size=4, remat=False)
    assert found == wanted
    again = minimal_traffic.count_point_layers(layers, points=16, group_size=4, remat=True)
    assert again == wanted + first + last


@pytest.mark.parametrize("name", ["point_bert", "uni3d"])
def test_minimal_traffic_grows_with_the_batch_but_for_the_optimizer(name):
    config = tiny_config()
    fields = dict(config.model) if name == "point_bert" else dict(
        name="uni3d", dim=32, depth=2, heads=2, mlp_dim=48, mlp="gelu", encoder_dim=16, groups=8,
        group_size=4, out_dim=24,
    )  # fmt: skip
    model = models.build_model(fields)
    once, twice = (
        minimal_traffic.count_step(model, config, local_batch=batch, parameters=10)
        for batch in (2, 4)
    )
    assert twice == {part: size * (1 if part == "optimizer" else 2) for part, size in once.items()}
    assert once["optimizer"] == 280 and min(once.values()) > 0


REPORT = {
    "topology": "h100:8", "platform": "gpu", "chips": 8, "batch_size": 64, "batch_per_chip": 8,
    "parameters": 1e6, "spmd_of_config": "shard_map", "model_flops": {"total": 2e12},
    "flops": 3e12, "floor_s": 0.01, "fits": False, "allocated_bytes": 70 * 2**30,
    "memory_bytes": 60 * 2**30, "memory_fraction": 0.75, "peak_bytes": 2**30,
    "argument_bytes": 2**30, "argument_bytes_of": {"params": 2**30}, "temporary_bytes": 2**31,
    "bytes": 4 * 2**30, "bytes_s": 0.02, "bytes_of": {"transformer": 2**30},
    "minimal_bytes_of": {"transformer": 2**31}, "launches": 1234,
    "library_calls": {"__cublas$lt$matmul": 5}, "sorts": 0, "collectives": {},
    "loops_of_unknown_length": 0, "compile_s": 5.0,
}  # fmt: skip


def test_table_of_a_gpu_says_that_it_does_not_fit_and_that_there_is_no_schedule():
    text = table.format_text(REPORT)
    assert re.search(r"fits +NO\n", text)
    assert "70.00 GiB of 60.00 GiB (75% of the GPU)" in text
    assert re.search(r"minimal traffic +2.00 GiB, a ratio of 2.00", text)
    assert re.search(r"schedule +none", text) and "estimate  " not in text
    assert "nothing was run" in text and "L2" in text


def test_plan_from_a_bound_says_so():
    config = mrd_pointbert.get_config()
    figures = planning.plan(
        config, topology="h100:2x8", parameters=1, step_seconds=0.1, records=10
    )  # fmt: skip
    assert (figures["chips"], figures["hosts"]) == (16, 2)
    text = planning.format_text({"estimated": True, "lower_bound": True} | figures)
    assert "LOWER BOUND" in text and "--step_ms" in text
    text = planning.format_text({"estimated": True, "lower_bound": False} | figures)
    assert "LOWER BOUND" not in text


def test_batch_per_chip_is_multiplied_by_the_gpus_of_all_nodes():
    assert sweep.with_batch(tiny_config(), 3, topology="h100:2x8").batch_size == 48


NEEDS_COMPILER = pytest.mark.skipif(
    not platforms.compiles_cuda(),
    reason='the GPU compiler is not installed: pip install -e ".[cuda12]"',
)


@pytest.mark.gpu
@NEEDS_COMPILER
@pytest.mark.parametrize(
    "topology", ["h100:2x8", "h200:8", "a100-80:2", "a100-40:2", "l4:1", "b200:2"]
)
def test_step_compiles_for_every_gpu(topology):
    fields = {f"--config.model.{name}={value}" for name, value in tiny_config().model.items()}
    fields |= {"--config.data.points=96", "--config.teacher.dim=24", "--batch_per_chip=4"}
    done = subprocess.run(
        [*COMMAND, "--config", "configs/base.py", "--topology", topology, *sorted(fields)],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["fits"] and report["chips"] == chips.count_chips(topology)
    # XLA drops arguments that the step does not use, and pads small ones.
    arguments = sum(report["argument_bytes_of"].values())
    assert arguments == pytest.approx(report["argument_bytes"], rel=0.01)
    assert report["argument_bytes"] < report["peak_bytes"] <= report["allocated_bytes"]
    assert report["library_calls"]["__cublas$lt$matmul"] > 0
    assert bool(report["collectives"]) == (report["chips"] > 1)
    assert report["loops_of_unknown_length"] == 0
    assert report["launches"] == sum(report["launches_of"].values()) > 100
    assert "estimate_s" not in report and "none: the GPU compiler" in done.stderr


@pytest.mark.gpu
@NEEDS_COMPILER
def test_no_score_matrix_of_the_batch_is_stored_in_bfloat16():
    """At the paper's sizes, with one block; 385 tokens, padded for cuDNN."""
    config = sweep.with_batch(mrd_pointbert.get_config(), 8, topology="h100:8")
    config.model.depth = 2
    chip, _ = chips.parse_topology("h100:8")
    lowered = ahead.trace(ahead.build(config, chips.make_devices("h100:8"))).lower()
    text = ahead.compile_for(chip, lowered).as_text()
    assert "__cudnn$fmha" in text
    # Queries by keys, of more than one query; the last block has one.
    assert not re.findall(r"f32\[[\d,]*38[5-9],38[5-9]\]", text)


@pytest.mark.gpu
@NEEDS_COMPILER
def test_share_of_the_memory_decides_what_fits(monkeypatch):
    config = sweep.with_batch(tiny_config(), 4, topology="l4:1")
    whole = ahead.measure(config, topology="l4:1")
    share = whole["allocated_bytes"] / chips.CHIPS["l4"].memory
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", str(share * 0.9))
    assert whole["fits"] and not ahead.measure(config, topology="l4:1")["fits"]


@pytest.fixture(autouse=True)
def as_the_tool():
    """Compiles as the tool does: with the CPU only, and without the cache of compiled programs."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", True)
