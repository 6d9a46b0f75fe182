# SPDX-License-Identifier: Apache-2.0
"""Where the files of an OpenCLIP checkpoint are: a folder, a file, or a repository on the hub."""

import dataclasses
import json
import pathlib
from typing import Any

import huggingface_hub
import huggingface_hub.errors

from data_prep.teachers.open_clip import architectures, configs, tables, tensors

CONFIG_FILE = "open_clip_config.json"
# In the order of preference.
WEIGHTS_FILES = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    "open_clip_pytorch_model.bin",
)
# Files from which a tokenizer can be read.
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
_CONFIGS = ("*.json", "*.txt")
# Seconds to wait for an answer of the hub.
_TIMEOUT = 10


@dataclasses.dataclass(frozen=True)
class Place:
    """Files of a checkpoint.

    Attributes:
      name: name on the hub, or name of the folder or of the architecture.
      revision: commit on the hub, or "".
      weights: file of the weights.
      folder: folder of the tokenizer.
      content: content of the config file.
      config: parsed content.
    """

    name: str
    revision: str
    weights: pathlib.Path
    folder: pathlib.Path
    content: Any
    config: configs.Config


def is_file_name(name: str) -> bool:
    """Returns whether a teacher is named as a file of weights."""
    return pathlib.Path(name).suffix in _SUFFIXES and not pathlib.Path(name).is_dir()


def is_open_clip(name: str) -> bool:
    """Returns whether a teacher is an OpenCLIP checkpoint; a hub name is looked up there.

    Args:
      name: folder, file of weights, "ARCHITECTURE=FILE", or hub name with or without "@revision".
    """
    path = pathlib.Path(name)
    if path.is_dir():
        return (path / CONFIG_FILE).is_file() and not _has_transformers_clip(path)
    return is_file_name(name) or _is_open_clip_on_hub(name)


def find(name: str) -> Place:
    """Finds the files of a checkpoint; downloads them if the name is one of the hub.

    Args:
      name: see `is_open_clip`.

    Raises:
      FileNotFoundError: a file is missing, or the download failed.
      ValueError: the architecture or the config is not supported.
    """
    if pathlib.Path(name).is_dir():
        return _in_folder(pathlib.Path(name), name=pathlib.Path(name).resolve().name)
    if is_file_name(name):
        return _of_file(name)
    return _on_hub(name)


def _in_folder(folder: pathlib.Path, *, name: str, revision: str = "") -> Place:
    content, config = read_config(folder / CONFIG_FILE)
    weights = next((folder / file for file in WEIGHTS_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise FileNotFoundError(
            f"{folder}: has {CONFIG_FILE}, expected one of {', '.join(WEIGHTS_FILES)} beside it"
        )
    return Place(name, revision, weights, folder, content, config)


def _of_file(name: str) -> Place:
    """Finds a file with its config beside it, or with a named architecture."""
    architecture, _, file = name.rpartition("=")
    path = pathlib.Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected a file of weights of OpenCLIP")
    if not architecture:
        config_file = path.parent / CONFIG_FILE
        if not config_file.is_file():
            raise FileNotFoundError(
                f"{config_file}: not found; copy it from where the weights come from, or name the "
                f"architecture: ARCHITECTURE={path}"
            )
        content, config = read_config(config_file)
        return Place(path.resolve().parent.name, "", path, path.parent, content, config)
    if architecture not in architectures.NAMED:
        raise ValueError(
            f"unknown architecture {architecture!r}; expected one of "
            f"{', '.join(sorted(architectures.NAMED))}"
        )
    if architecture in architectures.AMBIGUOUS:
        raise ValueError(
            f"releases of {architecture} differ in their preprocessing; pass a folder with the "
            f"{CONFIG_FILE} of these weights"
        )
    content = {"model_cfg": architectures.NAMED[architecture]}
    config = configs.parse(content, source=architecture)
    return Place(architecture, "", path, path.parent, content, config)


def _on_hub(name: str) -> Place:
    repository, _, revision = name.partition("@")
    try:
        # One file of weights is enough.
        for weights in WEIGHTS_FILES:
            folder = pathlib.Path(
                huggingface_hub.snapshot_download(
                    repository, revision=revision or None, allow_patterns=[*_CONFIGS, weights]
                )
            )
            if (folder / weights).is_file():
                break
    except (
        huggingface_hub.errors.HfHubHTTPError,
        huggingface_hub.errors.HFValidationError,
        huggingface_hub.errors.LocalEntryNotFoundError,
    ) as error:
        raise FileNotFoundError(
            f"teacher {name!r}: the download from the Hugging Face Hub failed: {error}\nRun once "
            "with access to the hub to fill its cache, or pass a folder with the files of the "
            "repository"
        ) from error
    return _in_folder(folder, name=name, revision=folder.name)


def read_config(path: pathlib.Path) -> tuple[Any, configs.Config]:
    """Reads an `open_clip_config.json`; returns its content, as it is and parsed.

    Raises:
      ValueError: the file is not JSON, or the model is not supported.
    """
    content = _read_json(path)
    return content, configs.parse(content, source=str(path))


def check(name: str, *, images: bool) -> None:
    """Checks that a folder or file holds a supported checkpoint; no weights are read.

    Args:
      name: folder, file of weights, or "ARCHITECTURE=FILE".
      images: whether the image tower is needed.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: the model is not supported, or its file holds the text tower alone.
    """
    place = find(name)
    check_tokenizer(place.folder)
    file = tensors.open_file(place.weights)
    if images and not any(key.startswith(tables.IMAGE_PREFIX) for key in file.shapes):
        raise ValueError(text_only(place.weights))


def check_tokenizer(folder: pathlib.Path) -> None:
    """Raises FileNotFoundError if a folder has no tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise FileNotFoundError(
            f"{folder}: expected {' or '.join(TOKENIZER_FILES)}, the tokenizer of the model. Copy "
            "it from its repository on the Hugging Face Hub, or from any CLIP with the same "
            "vocabulary, such as openai/clip-vit-base-patch32"
        )


def text_only(path: pathlib.Path) -> str:
    """Returns the message for images where a file holds the text tower alone."""
    return (
        f"{path} holds the text tower alone, which cannot embed images; pass the whole checkpoint"
    )


def _has_transformers_clip(folder: pathlib.Path) -> bool:
    """Returns whether a folder also has the weights and the config of a CLIP of transformers."""
    config = folder / "config.json"
    if not config.is_file() or _read_json(config).get("model_type") != "clip":
        return False
    return any(folder.glob("model*.safetensors")) or (folder / "flax_model.msgpack").is_file()


def _is_open_clip_on_hub(name: str) -> bool:
    """Returns whether a repository has a config of OpenCLIP, and none of a transformers' CLIP."""
    repository, _, revision = name.partition("@")
    version: dict[str, Any] = {"revision": revision or None}
    files = ("config.json", CONFIG_FILE)
    try:
        paths = [huggingface_hub.try_to_load_from_cache(repository, f, **version) for f in files]
        if not any(isinstance(path, str) for path in paths):
            # Fails at once where the hub cannot be reached; a download would retry.
            info = huggingface_hub.HfApi().model_info(repository, timeout=_TIMEOUT, **version)
            names = {file.rfilename for file in info.siblings or ()}
            if CONFIG_FILE not in names:
                return False
            paths = [
                huggingface_hub.hf_hub_download(repository, file, **version)
                for file in files
                if file in names
            ]
    except (OSError, huggingface_hub.errors.HFValidationError):
        # Loading reports why the name leads to no checkpoint.
        return False
    found = {pathlib.Path(path).name: pathlib.Path(path) for path in paths if isinstance(path, str)}
    other = found.get("config.json")
    is_clip = other is not None and _read_json(other).get("model_type") == "clip"
    return CONFIG_FILE in found and not is_clip


def check_on_hub(name: str) -> None:
    """Checks the config of a repository for which `is_open_clip` holds.

    Raises:
      ValueError: the model is not supported.
    """
    repository, _, revision = name.partition("@")
    path = huggingface_hub.try_to_load_from_cache(
        repository, CONFIG_FILE, revision=revision or None
    )
    if isinstance(path, str):
        read_config(pathlib.Path(path))


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
