# SPDX-License-Identifier: Apache-2.0
r"""Convert a peer's PyTorch checkpoint and say where every key went.

python -m mrd_jax.tools.convert --from openshape --checkpoint model.pt --output converted/openshape
python -m mrd_jax.tools.convert --from eva --size b --checkpoint eva02_b.safetensors \
    --output eva02_b.npz
"""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence

from mrd_jax import convert, encoder
from mrd_jax.checkpoints import hashes, initial_weights, model_card
from mrd_jax.convert import files
from mrd_jax.data import batch_spec

# What the peers' released encoders expect of a cloud, and the teacher that they were trained with.
CONVENTIONS = {
    "up_axis": batch_spec.UP_AXIS,
    "from_y_up": "swap",
    "normalisation": batch_spec.NORMALISATION,
    "colour_fill": 0.4,
    "points": 10_000,
}
TEACHERS = {
    "openshape": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "uni3d": "timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k",
}


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
      arguments: without the program's name; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--from", dest="source", required=True, choices=("openshape", "uni3d", "eva"))
    add("--checkpoint", required=True, type=pathlib.Path, help=".pt, .pth, .bin or .safetensors")
    add("--output", required=True, type=pathlib.Path, help="folder to write (a file for eva)")
    add("--size", choices=("ti", "s", "b", "l", "g"), help="of the Uni3D that EVA's weights start")
    add("--groups", type=int, help="only for a size that was never published")
    add("--group_size", type=int, help="likewise: points per group")
    add("--radius", type=float, help="likewise: of OpenShape's groups")
    add("--heads", type=int, help="likewise: attention heads")
    add("--teacher", help="whose feature space the encoder was trained into, if not the released")
    add("--licence", default="", help="of the weights, for the model card")
    options = parser.parse_args(arguments)
    if (options.source == "eva") != (options.size is not None):
        parser.error("--size belongs to --from eva, and --from eva needs it")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse_options(arguments)
    try:
        run(options)
    except (OSError, ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def run(options: argparse.Namespace) -> None:
    """Reads, converts, prints and writes."""
    state = files.read(options.checkpoint, source=options.source)
    name = str(options.checkpoint)
    if options.source == "eva":
        done = convert.transformer_from_eva(state, size=options.size, name=name)
        print_destinations(done.destinations)
        initial_weights.save(options.output, done.variables)
        print(f"start a uni3d-{options.size} with --config.initial_weights={options.output}")
        return
    given = ("groups", "group_size", "radius", "heads")
    untold = {field: getattr(options, field) for field in given}
    done = convert.convert(state, source=options.source, name=name, **untold)
    print_destinations(done.destinations)
    made = make_card(done, options)
    encoder.save(options.output, variables=done.variables, card=made)
    print(f"{made.size or 'no published size'}: {made.parameters:,} parameters, {options.output}")


def print_destinations(destinations: Mapping[str, str]) -> None:
    """Prints one line for every key of the file: where it went, or that it has no use."""
    width = max(map(len, destinations), default=0)
    for key, path in destinations.items():
        print(f"{key:{width}}  {path or '(not used)'}")
    unused = sum(not path for path in destinations.values())
    print(f"{len(destinations)} keys, {len(destinations) - unused} used, {unused} without a use")


def make_card(done: convert.Conversion, options: argparse.Namespace) -> model_card.ModelCard:
    """What the converted encoder is, for whoever loads it."""
    student = model_card.student_of(done.model)
    return model_card.ModelCard(
        student=student,
        size=model_card.size_of(student),
        parameters=model_card.count_parameters(done.variables),
        teacher=options.teacher or TEACHERS[options.source],
        teacher_dim=done.model.out_dim,
        source=options.source,
        source_file=options.checkpoint.name,
        source_sha256=hashes.sha256(options.checkpoint),
        licence=options.licence,
        **CONVENTIONS,
    )


if __name__ == "__main__":
    sys.exit(main())
