# SPDX-License-Identifier: Apache-2.0
"""Command line of `data_prep.build` and `data_prep.merge`."""

from typing import Any

from data_prep import build_flags, flag_types, selection
from data_prep.options import Options
from mrd_jax import storage, transfer
from mrd_jax.cli import command


def make_parser(description: str | None, *, prog: str) -> command.Parser:
    """Returns the parser of the options of a build.

    Args:
      description: docstring of the command's module.
      prog: how the command is called.
    """
    parser = command.Parser(description, prog=prog)
    add = parser.add_argument
    build_flags.add_input(parser)
    add(
        "--output",
        required=True,
        help="folder of caches, teachers and data sets, or gs:// URL that data sets are copied to",
    )
    add(
        "--staging",
        type=command.local_path,
        help="with a gs:// output, the local folder of caches, teachers and data sets; default: a "
        "folder below the user's cache folder",
    )
    add(
        "--teacher",
        required=True,
        help="lit (trained on the input), the folder of a LiT teacher or a CLIP checkpoint, the "
        "hub name of a CLIP checkpoint, or released (features that come with the data)",
    )
    build_flags.add_settings(parser)
    build_flags.add_execution(parser)
    add(
        "--batch_size",
        type=flag_types.auto_or(flag_types.integer(1)),
        help="pictures or texts per call of the teacher, over all devices; default: auto, chosen "
        "by the memory of the devices, 32 on CPUs",
    )
    add(
        "--dtype",
        choices=(flag_types.AUTO, "float32", "bfloat16"),
        default=Options.dtype,
        help="dtype of the teacher's activations; auto is that of the features that exist, else "
        "bfloat16 on accelerators, and float32 on CPUs and for LiT teachers; default: %(default)s",
    )
    selection.add_flags(parser)
    add("--overwrite", action="store_true", help="replace a data set built with other options")
    return parser


def read_options(parser: command.Parser, values: dict[str, Any]) -> Options:
    """Returns the options of a parsed command line.

    Args:
      parser: parser of `make_parser`, which reports contradictions.
      values: flag -> value; emptied.
    """
    del values["debug"]
    values["captions"] = tuple(values["captions"])
    execution = build_flags.pop_execution(values)
    output, staging = values.pop("output"), values.pop("staging")
    upload = storage.path(output)
    if storage.is_remote(upload):
        staging = staging or transfer.cache_folder("build", upload)
        return Options(**values, output=staging, upload=upload, execution=execution)
    if staging is not None:
        parser.error(f"--staging is for a gs:// output, and --output is {output}")
    return Options(**values, output=storage.local_path(output), execution=execution)
