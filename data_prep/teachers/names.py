# SPDX-License-Identifier: Apache-2.0
"""Checks of `--teacher`, made before any shape is prepared."""

import json
import pathlib
import re

import huggingface_hub
import huggingface_hub.errors

from data_prep import teachers
from data_prep.teachers.open_clip import places

# owner/name or owner/name@revision.
_HUB_NAME = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w./-]+)?")
# Seconds to wait for an answer of the hub.
_TIMEOUT = 10


def check(name: str, *, released: bool) -> None:
    """Checks that a teacher can be loaded, without reading its weights.

    A hub name is resolved by its config.json alone, from the cache or from the hub.

    Args:
      name: value of `--teacher`.
      released: True if the source brings features of its own, so that "released" is allowed
        instead of "lit".

    Raises:
      ValueError: the name stands for no teacher, a file of the teacher is missing, or the hub
        cannot be reached.
    """
    if name == (teachers.RELEASED if released else teachers.LIT):
        problem = None if released else _weights_problem()
    elif name and pathlib.Path(name).is_dir():
        problem = _folder_problem(pathlib.Path(name), images=not released)
    elif places.is_file_name(name):
        problem = _open_clip_problem(name, images=not released)
    elif _HUB_NAME.fullmatch(name):
        problem = _hub_problem(name)
    else:
        problem = "no such teacher or folder"
    if problem is None:
        return
    own = (
        f"{teachers.RELEASED!r} (features that come with the data)"
        if released
        else f"{teachers.LIT!r} (trained on the input)"
    )
    raise ValueError(
        f"--teacher {name}: {problem}\nexpected {own}, the folder of a LiT teacher or of a CLIP "
        "checkpoint (of transformers or OpenCLIP), its hub name (owner/name), or a file of "
        "OpenCLIP's weights (FILE or ARCHITECTURE=FILE)"
    )


def _weights_problem() -> str | None:
    """Returns why a LiT teacher cannot be trained here; None if its weights are installed."""
    from data_prep.teachers.lit.frozen import packages  # imports JAX

    try:
        packages.locate(packages.EFFICIENTNET)
        packages.locate(packages.MINILM)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return None


def _open_clip_problem(name: str, *, images: bool) -> str | None:
    """Returns why a folder or file holds no OpenCLIP teacher; None if it holds one."""
    try:
        places.check(name, images=images)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return None


def _folder_problem(folder: pathlib.Path, *, images: bool) -> str | None:
    """Returns why a folder holds no teacher; None if it holds one."""
    from data_prep.teachers import clip, lit  # imports transformers

    if (folder / lit.CONFIG_FILE).is_file():
        return _weights_problem()
    if places.is_open_clip(str(folder)):
        return _open_clip_problem(str(folder), images=images)
    if not (folder / "config.json").is_file():
        return (
            f"the folder holds neither {lit.CONFIG_FILE} nor config.json nor {places.CONFIG_FILE}"
        )
    try:
        clip.check_folder(folder)
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return None


def _hub_problem(name: str) -> str | None:
    """Returns why a hub name does not lead to a CLIP checkpoint; None if it does."""
    if places.is_open_clip(name):
        try:
            places.check_on_hub(name)
        except ValueError as error:
            return str(error)
        return None
    repository, _, revision = name.partition("@")
    version = {"revision": revision or None}
    try:
        path = huggingface_hub.try_to_load_from_cache(repository, "config.json", **version)
        if not isinstance(path, str):
            # Fails at once where the hub cannot be reached; a download would retry for 20 seconds.
            huggingface_hub.HfApi().model_info(repository, timeout=_TIMEOUT, **version)
            path = huggingface_hub.hf_hub_download(repository, "config.json", **version)
    except huggingface_hub.errors.HFValidationError as error:
        return f"no such folder, and not a valid hub name ({error})"
    except huggingface_hub.errors.HfHubHTTPError as error:
        reason = str(error).strip().splitlines()[-1]
        return f"no such folder, and the Hugging Face Hub has no such checkpoint ({reason})"
    except OSError:
        return (
            "no such folder; as a hub name it is not in the cache, and the Hugging Face Hub "
            "cannot be reached"
        )
    kind = json.loads(pathlib.Path(path).read_text("utf-8")).get("model_type")
    return None if kind == "clip" else f"model_type is {kind!r} on the hub, expected 'clip'"
