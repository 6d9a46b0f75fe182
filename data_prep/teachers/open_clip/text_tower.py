# SPDX-License-Identifier: Apache-2.0
r"""Copies the text tower of an OpenCLIP checkpoint, for machines that only search by words.

python -m data_prep.teachers.open_clip.text_tower --teacher FOLDER --output TEXT_FOLDER

The copy is a teacher with the name and the revision of the whole checkpoint. That of
EVA02-E-14-plus has 0.7 of 5.0 billion parameters.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import safetensors.numpy

from data_prep.teachers.open_clip import (
    places,
    tables,
    teacher,
    tensors,
    towers,
    weights,
)
from mrd_jax import atomic_io
from mrd_jax.cli import command

_TOKENIZER = ("tokenizer*.json", "vocab.json", "merges.txt", "special_tokens_map.json")


def copy(name: str, output: Path) -> int:
    """Writes a folder with the config, the tokenizer and the text tower of a checkpoint.

    Args:
      name: folder, file or hub name, see `places.is_open_clip`.
      output: folder to create.

    Returns:
      The number of parameters.

    Raises:
      FileExistsError: the folder exists.
      FileNotFoundError, ValueError: see `places.find` and `weights.text_weights`.
    """
    if output.exists():
        raise FileExistsError(f"{output} exists; choose another folder or remove it first")
    place = places.find(name)
    places.check_tokenizer(place.folder)
    file = tensors.open_file(place.weights)
    weights.text_weights(file, towers.text_tower(place.config, "float32").parameters())
    keys = [key for key in file.shapes if not key.startswith(tables.IMAGE_PREFIX)]
    state = {key: file.read(key) for key in keys}
    metadata = {
        "format": "pt",
        teacher.WHOLE_NAME: file.metadata.get(teacher.WHOLE_NAME, place.name),
        teacher.WHOLE_REVISION: file.metadata.get(teacher.WHOLE_REVISION)
        or place.revision
        or weights.checksum(file),
    }
    with atomic_io.replacing(output, last=places.CONFIG_FILE) as temporary:
        folder = Path(temporary)
        folder.mkdir(parents=True)
        safetensors.numpy.save_file(state, folder / places.WEIGHTS_FILES[0], metadata=metadata)
        for pattern in _TOKENIZER:
            for path in place.folder.glob(pattern):
                shutil.copy(path, folder)
        (folder / places.CONFIG_FILE).write_text(json.dumps(place.content, indent=1), "utf-8")
    return sum(array.size for array in state.values())


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    count = copy(options.teacher, options.output)
    print(f"wrote the text tower, {count:,} parameters, to {options.output}")
    return 0


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m data_prep.teachers.open_clip.text_tower")
    parser.add_argument(
        "--teacher", required=True, help="folder, FILE, ARCHITECTURE=FILE or hub name"
    )
    parser.add_argument("--output", required=True, type=command.local_path, help="folder to write")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
