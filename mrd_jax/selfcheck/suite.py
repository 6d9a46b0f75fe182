# SPDX-License-Identifier: Apache-2.0
"""The list of checks, and their report as a table and as JSON."""

import datetime
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from mrd_jax.distributed import versions
from mrd_jax.selfcheck import kernels, parallel, resume, speed
from mrd_jax.selfcheck.results import FAIL, PASS, SKIPPED, Context, Result

Check = Callable[[Context], Iterator[Result]]

# In this order: the first one starts processes, which need the devices for themselves; the steps
# come before checks that may take more memory, as devices count their peak since the start; the
# last one compares with the time of a step.
CHECKS: tuple[Check, ...] = (
    resume.check_resume,
    kernels.check_attention,
    kernels.check_grouping,
    kernels.check_pooling,
    kernels.check_losses,
    parallel.check_backends,
    speed.time_steps,
    parallel.check_collectives,
    speed.time_attention,
    speed.time_grouping,
    speed.time_pipeline,
)
# Values that the table shows, with their format.
SHOWN = {
    "error": "error {:.1e}",
    "ms": "{:.3g} ms",
    "samples_per_second": "{:.4g} samples/s",
    "compile_s": "compiled in {:.1f} s",
    "gb_per_s": "{:.3g} GB/s",
    "ratio": "{:.2f} x the compiler's bytes",
    "records_per_second": "{:.0f} records/s",
    "resumed_from_step": "from step {}",
}


def run(
    context: Context,
    *,
    checks: Sequence[Check] = CHECKS,
    report: Callable[[Result], Any] = lambda result: None,
) -> list[Result]:
    """Runs the checks.

    An exception in a check is a failure, and the next check follows.

    Args:
      context: what the checks share.
      checks: checks to run.
      report: called with every result as soon as it is known.
    """
    results = []
    # In the quick form, all checks use one tiny step, which is compiled once.
    with jax.default_matmul_precision("highest" if context.quick else None):
        for check in checks:
            started = time.perf_counter()
            for result in _results(check, context):
                result.values["seconds"] = round(time.perf_counter() - started, 3)
                started = time.perf_counter()
                results.append(result)
                report(result)
    return results


def _results(check: Check, context: Context) -> Iterator[Result]:
    try:
        yield from check(context)
    except Exception as error:  # of any kind: it is what the check has found
        traceback.print_exc(file=sys.stderr)
        lines = str(error).strip().splitlines() or [""]
        yield Result(check.__name__, FAIL, f"{type(error).__name__}: {lines[0][:300]}")


def describe(context: Context, results: Sequence[Result]) -> dict[str, Any]:
    """Returns the report as a JSON object: device, versions, and every result."""
    device = context.devices[0]
    counts = {status: _count(results, status) for status in (PASS, FAIL, SKIPPED)}
    return {
        "format": 1,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": device.device_kind,
        "platform": device.platform,
        "platform_version": device.client.platform_version,
        "devices": len(context.devices),
        "cpus": os.cpu_count(),
        "machine": platform.machine(),
        "versions": versions.installed(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "quick": context.quick,
        "seconds": round(time.monotonic() - context.started, 1),
        "counts": counts,
        "results": [
            {
                "name": result.name,
                "status": result.status,
                "detail": result.detail,
                "values": result.values,
            }
            for result in results
        ],
    }


def _count(results: Sequence[Result], status: str) -> int:
    return sum(result.status == status for result in results)


def format_line(result: Result) -> str:
    """Formats a result as a row of the table: status, name, values and detail."""
    shown = [
        text.format(result.values[name])
        for name, text in SHOWN.items()
        if result.values.get(name) is not None
    ]
    rest = ", ".join([*shown, *([result.detail] if result.detail else [])])
    return f"{result.status:<8}{result.name:<36} {rest}"
