# SPDX-License-Identifier: Apache-2.0
"""Encoders on the Hugging Face Hub: hf://USER/NAME becomes a local folder.

The files come from one commit and stay in the cache of `huggingface_hub`, which also serves them
without a network.
"""

import logging
import os
import re

from mrd_jax import storage

LOGGER = logging.getLogger(__name__)

SCHEME = "hf://"
_NAME = re.compile(r"hf://([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")
_INSTALL = 'pip install "mrd_jax[hub]"'
# What is downloaded of a repository: the files of an encoder, in the layouts of all versions.
_FILES = ["*.json", "*.md", "*.safetensors", "variables/*"]


def resolve(path: storage.PathLike) -> storage.Path:
    """Returns the folder of an encoder; downloads it if it is on the Hub.

    Args:
      path: local path, gs://BUCKET/NAME, or hf://USER/NAME[@REVISION]. A revision is a branch, a
        tag or a commit; "main" by default.

    Raises:
      ValueError: the path is no such path.
      ImportError: the path is on the Hub and huggingface_hub is not installed.
      FileNotFoundError: the repository, the revision or the network does not exist, and the cache
        does not have it.
    """
    given = os.fspath(path)
    if not given.startswith(SCHEME):
        return storage.path(path)
    match = _NAME.fullmatch(given)
    if match is None:
        raise ValueError(f"{given!r}: expected hf://USER/NAME or hf://USER/NAME@REVISION")
    return _download(match[1], revision=match[2] or "main")


def _download(name: str, *, revision: str) -> storage.Path:
    """Returns the cached folder of one commit, whose name is that of the commit."""
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise ImportError(f"hf://{name} is on the Hub: run {_INSTALL}") from error
    try:
        folder = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_FILES)
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        line = str(error).strip().splitlines()[0]
        raise FileNotFoundError(
            f"hf://{name}@{revision}: not on the Hub, or not reachable and not in the cache "
            f"({line}); check the name, or download it on a machine with a network"
        ) from error
    snapshot = storage.path(folder)
    LOGGER.info("hf://%s@%s is in %s", name, snapshot.name, snapshot)
    return snapshot
