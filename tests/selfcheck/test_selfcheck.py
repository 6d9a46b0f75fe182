# SPDX-License-Identifier: Apache-2.0
"""The self-check passes on this machine, and fails where a kernel or a resumed run is wrong."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

from configs import mrd_pointbert
from mrd_jax.kernels import attention, chunked_pooling
from mrd_jax.losses import blockwise
from mrd_jax.models import grouping
from mrd_jax.selfcheck import kernels, parallel, reference, results, resume, speed, suite

ROOT = pathlib.Path(__file__).parents[2]
QUICK = [sys.executable, "-m", "mrd_jax.tools.selfcheck", "--quick"]


def make_context(folder, **options):
    config = mrd_pointbert.get_config()
    file = str(ROOT / "configs" / "mrd_pointbert.py")
    # A busy machine must not skip a check.
    defaults = {"quick": True, "device_limit": 1, "seconds": float("inf")}
    return results.Context(config, file, folder, **(defaults | options))


@pytest.fixture(scope="module")
def quick(tmp_path_factory, fast_compile):
    """Results of the quick form on one device, and their report."""
    context = make_context(tmp_path_factory.mktemp("quick"))
    return suite.run(context), context


def test_the_quick_form_passes_and_every_check_reports(quick):
    found, _ = quick
    statuses = {result.name: result.status for result in found}
    assert results.FAIL not in statuses.values(), found
    passed = {name.partition("/")[0] for name, status in statuses.items() if status == "pass"}
    kinds = "resume attention grouping pooling losses backends time step pipeline"
    assert passed == set(kinds.split())
    skipped = {result.name: result.detail for result in found if result.status == results.SKIPPED}
    assert all(skipped.values()) and skipped["collectives"] == "one device"


def test_the_report_is_json_with_device_versions_and_results(quick):
    found, context = quick
    report = json.loads(json.dumps(suite.describe(context, found)))
    assert (report["platform"], report["devices"], report["quick"]) == ("cpu", 1, True)
    assert report["versions"]["jax"] and report["counts"]["fail"] == 0
    assert sum(report["counts"].values()) == len(report["results"]) == len(found)
    (step,) = (row for row in report["results"] if row["name"].startswith("step/"))
    assert step["values"]["samples_per_second"] > 0
    assert context.samples_per_second == step["values"]["samples_per_second"]


def test_checks_fail_where_a_kernel_is_wrong(monkeypatch, tmp_path, fast_compile):
    """Each fault is small: one index, one sample, one gradient."""
    forward, sample = attention.self_attention, grouping.farthest_point_sample
    pool, rows = chunked_pooling.group_maximum, blockwise.row_values
    monkeypatch.setattr(
        attention, "self_attention", lambda x, *rest: forward(x, *rest).at[0, 0].mul(1.1)
    )
    monkeypatch.setattr(
        grouping, "farthest_point_sample", lambda *rest: sample(*rest).at[1, -1].add(1)
    )
    monkeypatch.setattr(
        chunked_pooling, "group_maximum", lambda layers, x, w: pool(layers, x, 1.001 * w)
    )
    monkeypatch.setattr(
        blockwise,
        "row_values",
        lambda *rest, **options: {k: 1.001 * v for k, v in rows(*rest, **options).items()},
    )
    checks = (
        kernels.check_attention,
        kernels.check_grouping,
        kernels.check_pooling,
        kernels.check_losses,
    )
    found = suite.run(make_context(tmp_path), checks=checks)
    failed = {result.name for result in found if result.status == results.FAIL}
    names = ["attention/float32/auto", "attention/bfloat16/auto", "grouping/fps", "pooling"]
    assert {*names, "losses/blockwise"} <= failed
    assert all("expected at most" in r.detail for r in found if r.status == results.FAIL)


def test_an_exception_is_a_failure_and_the_next_check_follows(tmp_path, capsys):
    def broken(context):
        yield results.Result("first", results.PASS)
        raise RuntimeError("no such kernel\nmore")

    found = suite.run(make_context(tmp_path), checks=(broken, broken))
    assert [(r.name, r.status) for r in found] == 2 * [("first", "pass"), ("broken", "fail")]
    assert found[1].detail == "RuntimeError: no such kernel"
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "found, expected, error",
    [
        ([np.ones(2)], [np.ones(2)], 0.0),
        ([np.array([1.0, 3.0])], [np.array([1.0, 4.0])], 0.25),
        ([np.array([1.0, np.nan])], [np.ones(2)], np.inf),
        ([np.ones(3)], [np.ones(2)], np.inf),
        ([np.ones(2)], [np.ones(2), np.ones(1)], np.inf),
    ],
)
def test_the_largest_error_is_relative_to_the_largest_value(found, expected, error):
    assert results.largest_error(found, expected) == error


def test_memory_above_the_compilers_figure_fails():
    """Arrays of others count; a peak of an earlier check says nothing."""

    def status(peak, *, earlier=0):
        figures = {"compiler_bytes": 60, "other_bytes": 40, "earlier_peak_bytes": earlier}
        return speed.compare_memory("memory/8", figures | {"peak_bytes": peak}).status

    assert [status(None), status(110), status(130)] == ["skipped", "pass", "fail"]
    assert [status(130, earlier=130), status(130, earlier=129)] == ["skipped", "fail"]


def test_memory_statistics_are_the_largest_of_the_devices():
    devices = [
        types.SimpleNamespace(memory_stats=lambda figures=figures: figures)
        for figures in ({"peak_bytes_in_use": 3, "bytes_in_use": 2}, {"peak_bytes_in_use": 5}, None)
    ]
    assert speed.memory_in_use(devices) == {"peak_bytes_in_use": 5, "bytes_in_use": 2}


def test_the_fastest_attention_is_named_with_the_line_that_selects_it():
    result = speed.advise_attention({"auto": 3.0, "xla": 2.0, "cudnn": 3.0}, chosen="cudnn")
    assert "'cudnn'" in result.detail and "1.50 times" in result.detail
    assert "config.model.attention = 'xla'" in result.detail
    result = speed.advise_attention({"auto": 2.04, "xla": 3.0, "cudnn": 2.0}, chosen="cudnn")
    assert "nothing has to be set" in result.detail


def test_a_backend_that_updates_one_parameter_wrongly_fails(monkeypatch, tmp_path):
    """The metrics of two steps are equal: the fault is in the last update."""
    right = ({"loss": np.ones(2)}, {"kernel": np.ones((2, 2)), "bias": np.ones(2)})
    wrong = (right[0], {**right[1], "bias": np.array([1.0, 1.1])})
    monkeypatch.setattr(
        parallel, "_train", lambda config, spmd, *_: {"pmap": wrong}.get(spmd, right)
    )
    found = {result.name: result for result in parallel.check_backends(make_context(tmp_path))}
    assert found["backends/pmap/1"].status == results.PASS
    assert found["backends/pmap/1/parameters"].status == results.FAIL
    assert found["backends/pmap/1/parameters"].values["error"] == pytest.approx(0.1)


def test_the_loop_over_attention_has_the_gradient_of_finite_differences():
    rng = np.random.default_rng(0)
    packed, cotangent = rng.normal(size=(1, 3, 12)), rng.normal(size=(1, 3, 4))
    _, gradient = reference.attention(packed, 2, cotangent)
    step = np.zeros_like(packed)
    for index in [(0, 0, 1), (0, 1, 6), (0, 2, 9)]:
        step[index] = 1e-6
        values = [(reference.attention(packed + s, 2, cotangent)[0]) for s in (step, -step)]
        slope = np.sum((values[0] - values[1]) * cotangent) / 2e-6
        assert gradient[index] == pytest.approx(slope, rel=1e-6)
        step[index] = 0


@pytest.mark.slow
def test_a_killed_process_is_resumed_bit_for_bit(tmp_path):
    (result,) = suite.run(make_context(tmp_path, quick=False), checks=(resume.check_resume,))
    assert result.status == results.PASS, result
    assert 0 < result.values["resumed_from_step"] < resume.STEPS


@pytest.mark.slow
def test_the_command_writes_its_report_and_its_status_is_1_if_something_differs(tmp_path):
    output = tmp_path / "report.json"
    done = subprocess.run([*QUICK, f"--output={output}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"wrote {output}" in done.stdout
    assert json.loads(output.read_text())["counts"]["fail"] == 0

    code = (
        "import runpy, sys; from mrd_jax.models import grouping; from mrd_jax.selfcheck import "
        "kernels, suite; right = grouping.knn; "
        "grouping.knn = lambda *x, **y: right(*x, **y) + 1; "
        "suite.CHECKS = (kernels.check_grouping,); suite.run.__kwdefaults__['checks'] = "
        "suite.CHECKS; sys.argv = ['selfcheck', '--quick', '--output=' + sys.argv[1]]; "
        "runpy.run_module('mrd_jax.tools.selfcheck', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, output], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "fail    grouping/knn" in done.stdout
    assert json.loads(output.read_text())["counts"] == {"pass": 2, "fail": 1, "skipped": 0}
