# SPDX-License-Identifier: Apache-2.0
"""The persistent compilation cache."""

import platform
from typing import Any

import jax

from mrd_jax import storage, transfer


def directory() -> str | None:
    """Returns the folder of the persistent compilation cache; None if there is none."""
    # JAX defines its options at import, where mypy does not see them.
    options: Any = jax.config
    return options.jax_compilation_cache_dir if options.jax_enable_compilation_cache else None


def enable() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second run does not compile.

    JAX_COMPILATION_CACHE_DIR names another folder (on a pod, one that all hosts can write to), and
    JAX_ENABLE_COMPILATION_CACHE=false disables the cache. The folder may be deleted at any time. On
    NVIDIA GPUs, XLA keeps the kernels that it chose by measurement in a folder below it.
    """
    options: Any = jax.config
    if options.jax_compilation_cache_dir is not None:
        storage.path(options.jax_compilation_cache_dir)  # JAX only warns about an unusable one
        if "://" in options.jax_compilation_cache_dir:
            # XLA would write its autotuning cache to a local folder named after the bucket.
            jax.config.update("jax_persistent_cache_enable_xla_caches", "none")
        return
    folder = transfer.cache_root() / "compiled"
    if jax.default_backend() == "cpu":
        # Programs are compiled for this very processor, and a home folder may be shared.
        folder /= platform.node()
    jax.config.update("jax_compilation_cache_dir", str(folder))
