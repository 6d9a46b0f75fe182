# SPDX-License-Identifier: Apache-2.0
"""Bit-equal results of equal programs on NVIDIA GPUs: XLA's flag, set before JAX starts.

Sums by atomic operations and kernels chosen by measurement (autotuning) make two runs of the same
program differ in the last bits. `--xla_gpu_deterministic_ops=true` replaces the first and disables
the second. CPUs and TPUs need no flag.
"""

import os
from collections.abc import MutableMapping

FLAG = "xla_gpu_deterministic_ops"
# Implied by `FLAG`.
_IMPLIED = "xla_gpu_exclude_nondeterministic_ops"


def enable(environ: MutableMapping[str, str] = os.environ) -> None:
    """Adds the flag to XLA_FLAGS; must be called before the first computation.

    Args:
      environ: environment variables of this process, changed in place.

    Raises:
      ValueError: XLA_FLAGS contradicts.
    """
    flags = environ.get("XLA_FLAGS", "")
    if flags and not flags.lstrip().startswith("-"):
        raise ValueError(
            f"config.deterministic is True, but XLA_FLAGS is {flags!r}, a file; put the flags of "
            "the file into XLA_FLAGS"
        )
    for name in (FLAG, _IMPLIED):
        if _value(flags, name) is False:
            raise ValueError(
                f"config.deterministic is True, but XLA_FLAGS sets --{name}=false; remove it there"
            )
    if _value(flags, FLAG) is None:
        environ["XLA_FLAGS"] = f"{flags} --{FLAG}=true".strip()


def check(environ: MutableMapping[str, str] = os.environ) -> None:
    """Checks that the flag is set, for programs that run on GPUs.

    Args:
      environ: environment variables of this process.

    Raises:
      ValueError: it is not set.
    """
    if not _value(environ.get("XLA_FLAGS", ""), FLAG):
        raise ValueError(
            f"config.deterministic is True, but XLA_FLAGS lacks --{FLAG}=true, and JAX has "
            "started: call mrd_jax.distributed.determinism.enable() before the first computation"
        )


def _value(flags: str, name: str) -> bool | None:
    """Returns the value of a flag; None if it is not set. XLA takes the last one."""
    value = None
    for word in flags.split():
        flag, equals, text = word.lstrip("-").partition("=")
        if flag == name:
            value = text.lower() in ("true", "1") if equals else True
    return value
