# SPDX-License-Identifier: Apache-2.0
"""A compiler's report as a table for people, with what its figures are and are not."""

from collections.abc import Mapping, Sequence
from typing import Any

CAVEAT = """\
What these figures are. Reserved memory is what the compiler laid out: what does not fit is refused
here as it would be on the chip. The estimate adds up the cycles that the compiler's own cost model
gives the instructions it scheduled, each as often as it runs. It errs towards slow: the two lines
"estimate over" say by how much for a large product and a large sum, which come near the published
peak and bandwidth. The floor is the matrix products of the model, once each, at the chip's peak.
Hand-written kernels, of which the cost model knows nothing, count as 1.4 times their operations at
the peak. What they are not. Nothing was run. Communication between chips and the wait for input are
not in the estimate, and what overlaps is counted twice. It compares formulations and finds what is
out of proportion; it does not promise a time. One compiler version, one answer."""


def rows(report: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values, in the order of reading.

    Args:
      report: of `ahead.measure`.
    """
    lines = [
        ("slice", f"{report['topology']}, {report['chips']} chips"),
        ("batch", f"{report['batch_size']:,}, {report['batch_per_chip']:,} per chip"),
        ("parameters of the student", f"{report['parameters'] / 1e6:.1f} M"),
        ("model, matrix products", f"{report['model_flops']['total'] / 1e9:,.0f} GFLOP per chip"),
        ("program, matrix products", f"{report['flops'] / 1e9:,.0f} GFLOP per chip"),
        ("floor", _milliseconds(report["floor_s"])),
    ]
    if not report["fits"]:
        return lines + [
            ("DOES NOT FIT", f"needs {_size(report['allocated_bytes'])} per chip, "
             f"of {_size(report['memory_bytes'])}"),
        ]  # fmt: skip
    lines += [
        ("fits", "yes"),
        (
            "memory, reserved",
            f"{_size(report['allocated_bytes'])} of {_size(report['memory_bytes'])}",
        ),
        ("memory, most in use", _size(report["peak_bytes"])),
        ("memory, arguments", _size(report["argument_bytes"])),
        ("memory, temporary", _size(report["temporary_bytes"])),
        ("to and from memory", f"{_size(report['bytes'])}, "
         f"{_milliseconds(report['bytes_s'])} at full bandwidth"),
        ("estimate", _milliseconds(report["estimate_s"])),
        ("  of it, hand-written kernels", _milliseconds(report["kernels_s"])),
        *((f"  {name}", f"{share:.1%}") for name, share in report["share"].items()),
        *(
            (kind, f"{sent['count']}, {_size(sent['bytes'])}")
            for kind, sent in report["collectives"].items()
        ),
    ]  # fmt: skip
    if "calibration" in report:
        lines += [
            ("estimate over peak, large product", f"{report['calibration']['product']:.2f}"),
            ("estimate over bandwidth, large sum", f"{report['calibration']['sum']:.2f}"),
        ]
    for field, name in (
        ("kernels_not_estimated", "KERNELS WITHOUT ESTIMATE"),
        ("loops_of_unknown_length", "LOOPS COUNTED ONCE"),
    ):
        if report[field]:
            lines.append((name, str(report[field])))
    return lines + [("compilation", f"{report['compile_s']:.0f} s")]


def text(report: Mapping[str, Any]) -> str:
    """The table, with two notes below it."""
    lines = rows(report)
    width = max(len(name) for name, _ in lines)
    table = "\n".join(f"{name:<{width}}  {value}" for name, value in lines)
    note = ""
    if report["spmd_of_config"] != "shard_map":
        note = (
            f"\nconfig.spmd is {report['spmd_of_config']!r}; compiled here is the same step under "
            "'shard_map': both call one body.\n"
        )
    return f"{table}\n{note}\n{CAVEAT}\n"


def markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    """Several reports side by side."""
    columns = [dict(rows(report)) for report in reports]
    names = list(dict.fromkeys(name for column in columns for name in column))
    lines = ["| " + " | ".join(["", *("" for _ in reports)]) + " |"]
    lines = [f"| {' | '.join(['', *(report['topology'] for report in reports)])} |"]
    lines.append(f"| --- |{' ---: |' * len(reports)}")
    lines += [
        f"| {name.strip()} | {' | '.join(column.get(name, '') for column in columns)} |"
        for name in names
        if name != "slice"
    ]
    return "\n".join(lines)


def _size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**27 else f"{count / 2**20:.2f} MiB"


def _milliseconds(seconds: float) -> str:
    return f"{1e3 * seconds:,.1f} ms"
