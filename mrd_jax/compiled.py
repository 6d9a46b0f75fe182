# SPDX-License-Identifier: Apache-2.0
"""Where compiled programs are kept."""

import os
import pathlib
import platform

import jax


def keep() -> None:
    """Keeps compiled programs in the user's cache folder, so that a second run need not compile.

    JAX_COMPILATION_CACHE_DIR names another folder (on a pod, one that all hosts see), and
    JAX_ENABLE_COMPILATION_CACHE=false turns it off. The folder may be deleted at any time.
    """
    if jax.config.jax_compilation_cache_dir is not None:
        return
    folder = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    folder = folder / "mrd_jax" / "compiled"
    if jax.default_backend() == "cpu":
        # Made for this very processor, while a home folder may be shared with others.
        folder /= platform.node()
    jax.config.update("jax_compilation_cache_dir", str(folder))
