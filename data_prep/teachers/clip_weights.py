# SPDX-License-Identifier: Apache-2.0
"""Weights of a CLIP checkpoint: download and conversion to Flax without PyTorch.

transformers cannot load sharded safetensors files (the larger CLIP models) into Flax, and only
warns when it initialises missing weights at random. This module therefore reads the files itself
and maps their names with a table.
"""

import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping

import flax.serialization
import flax.traverse_util
import huggingface_hub
import huggingface_hub.errors
import numpy as np
import safetensors

from mrd_jax.convert import rules

CONFIG_FILES = ("*.json", "*.txt")
SAFETENSORS_FILES = ("model.safetensors", "model-*-of-*.safetensors")
SAFETENSORS_INDEX = "model.safetensors.index.json"
FLAX_FILE = "flax_model.msgpack"

RULES = (
    rules.Rule(r"(.*\.(?:[qkv]_proj|out_proj|fc[12]))\.weight", r"\1/kernel", rules.DENSE),
    rules.Rule(r"((?:visual|text)_projection)\.weight", r"\1/kernel", rules.DENSE),
    rules.Rule(r"(vision_model\.embeddings\.patch_embedding)\.weight", r"\1/kernel", rules.CONV),
    rules.Rule(r"(.*\.(?:token|position)_embedding)\.weight", r"\1/embedding"),
    rules.Rule(
        r"(.*\.(?:layer_norm\d|pre_layrnorm|post_layernorm|final_layer_norm))\.weight",
        r"\1/scale",
    ),
    rules.Rule(r"(.*)\.bias", r"\1/bias"),
    rules.Rule(r"(logit_scale|vision_model\.embeddings\.class_embedding)", r"\1"),
)
# Older versions of transformers store the positions 0, 1, 2, ... as a tensor.
IGNORED = (r".*\.position_ids",)


def resolve(name_or_dir: str) -> tuple[pathlib.Path, str]:
    """Returns the folder of a checkpoint; downloads it if the argument is a hub name.

    Args:
      name_or_dir: folder, or hub name, optionally with a revision ("owner/name@revision").

    Returns:
      The folder, and the commit on the hub ("" for a folder).

    Raises:
      FileNotFoundError: there is no such folder, and the download failed.
    """
    if pathlib.Path(name_or_dir).is_dir():
        return pathlib.Path(name_or_dir), ""
    name, _, revision = name_or_dir.partition("@")
    # Checkpoints may have weights in several formats; downloads Flax's only without safetensors.
    try:
        for patterns in ((*CONFIG_FILES, *SAFETENSORS_FILES), (*CONFIG_FILES, FLAX_FILE)):
            folder = pathlib.Path(
                huggingface_hub.snapshot_download(
                    name, revision=revision or None, allow_patterns=list(patterns)
                )
            )
            if weight_files(folder):
                break
    except (
        huggingface_hub.errors.HfHubHTTPError,
        huggingface_hub.errors.HFValidationError,
        huggingface_hub.errors.LocalEntryNotFoundError,
    ) as error:
        raise FileNotFoundError(
            f"teacher {name_or_dir!r} is not a folder, and the download from the Hugging Face Hub "
            f"failed: {error}\n"
            "Correct the path, run once with access to the hub to fill its cache, pass a folder of "
            "save_pretrained (config, processor, model.safetensors), or use the offline teacher: "
            "--teacher lit"
        ) from error
    return folder, folder.name


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the weight files of a folder, preferably safetensors; [] if there are none."""
    if (index := folder / SAFETENSORS_INDEX).is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    names = ("model.safetensors", FLAX_FILE)
    return [folder / name for name in names if (folder / name).is_file()][:1]


def check_files(files: list[pathlib.Path], *, folder: pathlib.Path) -> None:
    """Checks that a folder has weights, and that every file of them exists.

    Args:
      files: result of `weight_files`.
      folder: folder of the checkpoint.

    Raises:
      FileNotFoundError: there are no weights, or a file of them is missing.
    """
    if not files:
        raise FileNotFoundError(_no_weights(folder))
    for path in files:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: named in {SAFETENSORS_INDEX}, but not found")


def load(folder: pathlib.Path, *, expected: Mapping) -> tuple[dict, Callable[[], str]]:
    """Reads the weights of a checkpoint.

    Args:
      folder: folder with model.safetensors, its shards and index, or flax_model.msgpack.
      expected: nested tree of shapes, `FlaxCLIPModel(..., _do_init=False).params_shape_tree`.

    Returns:
      Nested dict of numpy arrays, and a function that computes a checksum of the files. The
      checksum takes seconds for large models and is not needed if the hub names a commit.

    Raises:
      FileNotFoundError: there are no weights, a shard is missing, or there are only PyTorch
        pickles.
      ValueError: the weights do not match the config.
    """
    files = weight_files(folder)
    check_files(files, folder=folder)
    if files[0].name == FLAX_FILE:
        state = flax.serialization.msgpack_restore(files[0].read_bytes())
        flat = flax.traverse_util.flatten_dict(state, sep=".")
        params = _from_flax(flat, expected=expected, source=files[0])
    else:
        params = _from_safetensors(files, expected=expected)

    def checksum() -> str:
        digest = hashlib.sha256()
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    return params, checksum


def _from_safetensors(files: list[pathlib.Path], *, expected: Mapping) -> dict:
    state: dict[str, np.ndarray] = {}
    formats = set()
    for path in files:
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                formats.add((file.metadata() or {}).get("format", "pt"))
                state.update({key: file.get_tensor(key) for key in file.keys()})
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path}: not a valid safetensors file: {error}") from error
    if formats == {"flax"}:
        return _from_flax(state, expected=expected, source=files[0])
    if formats == {"pt"}:
        return rules.apply(
            state, rules=RULES, ignored=IGNORED, expected=expected, source=str(files[0])
        ).tree
    raise ValueError(f"{files[0]}: format is {sorted(formats)}, expected 'pt' or 'flax'")


def _from_flax(state: Mapping, *, expected: Mapping, source: pathlib.Path) -> dict:
    table = (rules.Rule(r"(.*)", r"\1"),)
    return rules.apply(state, rules=table, ignored=(), expected=expected, source=str(source)).tree


def _no_weights(folder: pathlib.Path) -> str:
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    found = f"only PyTorch pickles ({', '.join(pickles)})" if pickles else "neither"
    return (
        f"{folder}: expected model.safetensors (or its shards and index) or {FLAX_FILE}, found "
        f"{found}. To convert pickles, run this on a machine with PyTorch: "
        "`transformers.CLIPModel.from_pretrained(NAME).save_pretrained(FOLDER)`"
    )
