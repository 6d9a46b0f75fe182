# SPDX-License-Identifier: Apache-2.0
"""Find the weights of a CLIP checkpoint and read them into Flax without PyTorch.

transformers reads single safetensors files into Flax, but no sharded ones (the larger CLIP
models), and fills what a file lacks with random numbers after a warning. So the files are read
here, with the names as a table.
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
# Older versions of transformers stored the positions 0, 1, 2, ... as a tensor.
IGNORED = (r".*\.position_ids",)


def resolve(name_or_dir: str) -> tuple[pathlib.Path, str]:
    """Find the folder of a checkpoint, downloading it where it is not a folder yet.

    Args:
      name_or_dir: a folder, or a hub name, optionally "owner/name@revision".

    Returns:
      the folder, and the commit of the hub ("" for a folder).

    Raises:
      FileNotFoundError: there is no such folder and the hub did not give it; says what to do.
    """
    if pathlib.Path(name_or_dir).is_dir():
        return pathlib.Path(name_or_dir), ""
    name, _, revision = name_or_dir.partition("@")
    # Weights come in several formats, so the second is asked for only where the first is absent.
    wanted = ((*CONFIG_FILES, *SAFETENSORS_FILES), (*CONFIG_FILES, FLAX_FILE))
    try:
        for patterns in wanted:
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
            f"teacher {name_or_dir!r} is no folder, and the model hub did not give it: {error}\n"
            "Correct the path; or run once where the hub can be reached, which fills its cache; "
            "or copy a folder of save_pretrained (config, processor, model.safetensors) and pass "
            "that; or use the teacher that needs no hub: --teacher lit"
        ) from error
    return folder, folder.name


def weight_files(folder: pathlib.Path) -> list[pathlib.Path]:
    """List the files that hold the weights, safetensors before Flax's own; [] for none."""
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
    """Read the weights of a checkpoint.

    Args:
      folder: with model.safetensors, its shards and index, or flax_model.msgpack.
      expected: nested tree of shapes, `FlaxCLIPModel(..., _do_init=False).params_shape_tree`.

    Returns:
      nested dict of numpy arrays, and a function that hashes the files (seconds for large
      models, and not needed where the hub names a commit).

    Raises:
      FileNotFoundError: there are no weights, a shard is missing, or there are only PyTorch
        pickles; says how to convert them.
      ValueError: the weights do not fit the config.
    """
    files = weight_files(folder)
    check_files(files, folder=folder)
    if files[0].name == FLAX_FILE:
        state = flax.serialization.msgpack_restore(files[0].read_bytes())
        flat = flax.traverse_util.flatten_dict(state, sep=".")
        params = _from_flax(flat, expected=expected, source=files[0])
    else:
        params = _from_safetensors(files, expected=expected)

    def weights_hash() -> str:
        digest = hashlib.sha256()
        for path in files:
            with open(path, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()[:16]

    return params, weights_hash


def _from_safetensors(files: list[pathlib.Path], *, expected: Mapping) -> dict:
    state: dict[str, np.ndarray] = {}
    layouts = set()
    for path in files:
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                layouts.add((file.metadata() or {}).get("format", "pt"))
                state.update({key: file.get_tensor(key) for key in file.keys()})
        except safetensors.SafetensorError as error:
            raise ValueError(f"{path}: not a whole safetensors file: {error}") from error
    if layouts == {"flax"}:
        return _from_flax(state, expected=expected, source=files[0])
    if layouts == {"pt"}:
        return rules.apply(
            state, rules=RULES, ignored=IGNORED, expected=expected, source=str(files[0])
        ).tree
    raise ValueError(f"{files[0]}: layout is {sorted(layouts)}, expected 'pt' or 'flax'")


def _from_flax(state: Mapping, *, expected: Mapping, source: pathlib.Path) -> dict:
    table = (rules.Rule(r"(.*)", r"\1"),)
    return rules.apply(state, rules=table, ignored=(), expected=expected, source=str(source)).tree


def _no_weights(folder: pathlib.Path) -> str:
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    found = f"only PyTorch pickles ({', '.join(pickles)})" if pickles else "neither"
    return (
        f"{folder}: expected model.safetensors (or its shards and index) or {FLAX_FILE}, found "
        f"{found}. A checkpoint with pickles only is converted once where PyTorch is installed: "
        "`transformers.CLIPModel.from_pretrained(NAME).save_pretrained(FOLDER)`"
    )
