# SPDX-License-Identifier: Apache-2.0
"""Formats the reports of `mrd_jax.analysis.ahead` as tables."""

from collections.abc import Mapping, Sequence
from typing import Any

CAVEAT_GPU = """\
All figures come from the compiler; nothing was run. Allocated memory is what the program reserves:
arguments, temporary arrays and code, to be compared with the share of the memory that JAX takes at
start. The CUDA context, NCCL's buffers and the next batch come on top. Without a GPU, the compiler
cannot time candidates (autotuning): every matrix product is a call of cuBLAS, and the program on a
GPU may fuse and allocate differently. There is no schedule, so no estimate of the step time: the
two lower bounds are the time of the model's matrix products at the peak, without recomputation, and
the time of the memory traffic at full bandwidth. Traffic is counted from the compiled program, each
operand and each result of an operation once, times its number of executions; what stays in the L2
cache between two operations (farthest point sampling does) counts, too. The minimal traffic is that
of the products, attention and optimizer with one pass between each two of them. Launches cost
microseconds each and are in neither bound."""

CAVEAT = """\
All figures come from the compiler; nothing was run. Allocated memory is what the compiler reserves:
a program that does not fit is rejected here as it would be on the chip. The estimate sums the
cycles that the compiler's cost model assigns to the scheduled instructions, each multiplied by its
number of executions. It is conservative: the two lines "estimate / roofline" show by how much, for
a large matrix product and a large sum, which come close to the published peak and bandwidth. The
lower bound is the time of the model's matrix products at the chip's peak, without recomputation.
The cost model does not cover Pallas kernels; they count as 1.4 times the time of their operations
at the peak. Communication between chips and data waits are not in the estimate, and instructions
that overlap are both counted. Use the estimate to compare formulations and to find expensive parts;
it does not predict the time of a step, and another compiler version may give other figures."""


def format_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Returns the (name, value) rows of the table.

    Args:
      report: report of `ahead.measure`.
    """
    is_gpu = _is_gpu(report)
    lines = [
        ("topology", f"{report['topology']}, {report['chips']} chips"),
        ("batch", f"{report['batch_size']:,}, {report['batch_per_chip']:,} per chip"),
        ("student parameters", f"{report['parameters'] / 1e6:.1f} M"),
        (
            "model FLOPs, matrix products",
            f"{report['model_flops']['total'] / 1e9:,.0f} GFLOP per chip",
        ),
        ("program FLOPs, matrix products", f"{report['flops'] / 1e9:,.0f} GFLOP per chip"),
        ("lower bound", _milliseconds(report["floor_s"])),
    ]
    if not report["fits"] and "temporary_bytes" not in report:
        return lines + [
            ("DOES NOT FIT", f"needs {_size(report['allocated_bytes'])} of "
             f"{_size(report['memory_bytes'])} per chip"),
        ]  # fmt: skip
    lines += [
        ("fits", "yes" if report["fits"] else "NO"),
        (
            "memory, allocated",
            f"{_size(report['allocated_bytes'])} of {_size(report['memory_bytes'])}"
            + (f" ({report['memory_fraction']:.0%} of the GPU)" if is_gpu else ""),
        ),
        ("memory, peak", _size(report["peak_bytes"])),
        ("memory, arguments", _size(report["argument_bytes"])),
        *((f"  {name}", _size(size)) for name, size in report.get("argument_bytes_of", {}).items()),
        ("memory, temporary", _size(report["temporary_bytes"])),
        ("memory traffic", f"{_size(report['bytes'])}, "
         f"{_milliseconds(report['bytes_s'])} at full bandwidth"),
        *(_gpu_rows(report) if is_gpu else _estimate_rows(report)),
        *(
            (kind, f"{sent['count']}, {_size(sent['bytes'])}")
            for kind, sent in report["collectives"].items()
        ),
    ]  # fmt: skip
    if "calibration" in report:
        lines += [
            ("estimate / roofline, large product", f"{report['calibration']['product']:.2f}"),
            ("estimate / roofline, large sum", f"{report['calibration']['sum']:.2f}"),
        ]
    for field, name in (
        ("kernels_not_estimated", "KERNELS WITHOUT AN ESTIMATE"),
        ("loops_of_unknown_length", "LOOPS OF UNKNOWN LENGTH"),
    ):
        if report.get(field):
            lines.append((name, str(report[field])))
    return lines + [("compilation", f"{report['compile_s']:.0f} s")]


def _estimate_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("estimate", _milliseconds(report["estimate_s"])),
        ("  of which Pallas kernels", _milliseconds(report["kernels_s"])),
        *((f"  {name}", f"{share:.1%}") for name, share in report["share"].items()),
    ]


def _gpu_rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    minimal = sum(report["minimal_bytes_of"].values())
    return [
        *(
            (f"  {name}", f"{size / report['bytes']:.1%}")
            for name, size in report["bytes_of"].items()
        ),
        ("minimal traffic", f"{_size(minimal)}, a ratio of {report['bytes'] / minimal:.2f}"),
        ("kernels launched", f"{report['launches']:,}"),
        *((f"  {name}", f"{count:,}") for name, count in report["library_calls"].items()),
        ("sorts", str(report["sorts"])),
        ("schedule", "none: the GPU compiler estimates no times"),
    ]


def format_text(report: Mapping[str, Any]) -> str:
    """Returns the table as text, with notes on its figures."""
    lines = format_rows(report)
    caveat = CAVEAT_GPU if _is_gpu(report) else CAVEAT
    width = max(len(name) for name, _ in lines)
    table = "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
    note = ""
    if report["spmd_of_config"] != "shard_map":
        note = (
            f"\nconfig.spmd is {report['spmd_of_config']!r}; the same step was compiled under "
            "'shard_map', since pmap cannot be compiled ahead of time.\n"
        )
    return f"{table}\n{note}\n{caveat}\n"


def format_markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    """Returns a Markdown table with one column per report."""
    columns = [dict(format_rows(report)) for report in reports]
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = [f"| {' | '.join(['', *(report['topology'] for report in reports)])} |"]
    lines.append(f"| --- |{' ---: |' * len(reports)}")
    lines += [
        f"| {name.strip()} | {' | '.join(column.get(name, '') for column in columns)} |"
        for name in names
        if name != "topology"
    ]
    return "\n".join(lines)


def _is_gpu(report: Mapping[str, Any]) -> bool:
    # Reports that were stored before GPUs were supported do not name the platform.
    return report.get("platform", "tpu") == "gpu"


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.2f} MiB"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms"
