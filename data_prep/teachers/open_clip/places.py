# SPDX-License-Identifier: Apache-2.0
"""Where the files of an OpenCLIP checkpoint are: a folder, a file, or a repository on the hub."""

import dataclasses
import json
import pathlib
from typing import Any

import huggingface_hub
import huggingface_hub.errors

from data_prep.teachers.open_clip import architectures, configs, tokens

CONFIG_FILE = "open_clip_config.json"
# In the order of preference.
WEIGHTS_FILES = (
    *("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors"),
    "open_clip_pytorch_model.bin",
)
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
      config: parsed config.
    """

    name: str
    revision: str
    weights: pathlib.Path
    folder: pathlib.Path
    config: configs.Config


def is_open_clip(name: str) -> bool:
    """Returns whether a teacher is an OpenCLIP checkpoint; a hub name is looked up there.

    Args:
      name: folder, file of weights, "ARCHITECTURE=FILE", or hub name with or without "@revision".
    """
    path = pathlib.Path(name)
    if path.is_dir():
        return (path / CONFIG_FILE).is_file() and not _has_transformers_clip(path)
    if path.suffix in _SUFFIXES:
        return True
    return _is_open_clip_on_hub(name)


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
    if pathlib.Path(name).suffix in _SUFFIXES:
        return _of_file(name)
    return _on_hub(name)


def _in_folder(folder: pathlib.Path, *, name: str, revision: str = "") -> Place:
    config = read_config(folder / CONFIG_FILE)
    weights = next((folder / file for file in WEIGHTS_FILES if (folder / file).is_file()), None)
    if weights is None:
        raise FileNotFoundError(
            f"{folder}: has {CONFIG_FILE}, expected one of {', '.join(WEIGHTS_FILES)} beside it"
        )
    return Place(name, revision, weights, folder, config)


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
        return Place(path.resolve().parent.name, "", path, path.parent, read_config(config_file))
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
    model = {"model_cfg": architectures.NAMED[architecture]}
    config = configs.parse(model, source=architecture)
    return Place(architecture, "", path, path.parent, config)


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


def read_config(path: pathlib.Path) -> configs.Config:
    """Reads an `open_clip_config.json`.

    Raises:
      ValueError: the file is not JSON, or the model is not supported.
    """
    return configs.parse(_read_json(path), source=str(path))


def check_folder(folder: pathlib.Path) -> None:
    """Checks that a folder has the files of a supported checkpoint, without opening the weights.

    Raises:
      FileNotFoundError, ValueError: see `find`.
    """
    place = _in_folder(folder, name=folder.name)
    tokens.check_files(place.folder)


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
    try:
        cached = [
            huggingface_hub.try_to_load_from_cache(repository, file, **version)
            for file in ("config.json", CONFIG_FILE)
        ]
        if not any(isinstance(path, str) for path in cached):
            # Fails at once where the hub cannot be reached; a download would retry.
            info = huggingface_hub.HfApi().model_info(repository, timeout=_TIMEOUT, **version)
            files = {file.rfilename for file in info.siblings or ()}
            cached = [
                huggingface_hub.hf_hub_download(repository, file, **version)
                if file in files
                else None
                for file in ("config.json", CONFIG_FILE)
            ]
    except (OSError, huggingface_hub.errors.HFValidationError):
        # Loading reports why the name leads to no checkpoint.
        return False
    other, own = cached
    is_clip = isinstance(other, str) and _read_json(pathlib.Path(other)).get("model_type") == "clip"
    return isinstance(own, str) and not is_clip


def _read_json(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a JSON file: {error}") from error
