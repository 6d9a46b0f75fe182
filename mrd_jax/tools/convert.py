# SPDX-License-Identifier: Apache-2.0
r"""Converts a released PyTorch checkpoint to an encoder folder, and any encoder to PyTorch.

python -m mrd_jax.tools.convert --from openshape --checkpoint model.pt --output encoders/openshape
python -m mrd_jax.tools.convert --to openshape --checkpoint runs/quickstart --output model.pt
python -m mrd_jax.tools.convert --from eva --size b --checkpoint eva02_b.safetensors \
    --output eva02_b.npz

Prints where every key went, or which keys of the module no array of the encoder fills.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence

from mrd_jax import atomic_io, convert, encoder, hub, models, storage
from mrd_jax.checkpoints import fingerprinting, initial_weights, model_card, restore
from mrd_jax.cli import command
from mrd_jax.convert import files, openshape
from mrd_jax.data import batch_spec
from mrd_jax.models import axes, patch_student

# Point clouds and teachers that the released encoders were trained with.
CONVENTIONS = {
    "up_axis": batch_spec.UP_AXIS,
    "from_y_up": "swap",
    "normalisation": batch_spec.NORMALISATION,
    "colour_fill": 0.4,
    "points": 10_000,
}
# Teachers by published size, else by source.
TEACHERS = {
    "openshape": "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k",
    "openshape-b32": "openai/clip-vit-base-patch32",
    "openshape-l14": "openai/clip-vit-large-patch14",
    "uni3d": "timm/eva02_enormous_patch14_plus_clip_224.laion2b_s9b_b144k",
}
# Published sizes whose files have the layout of `openshape.CLIP_PREFIX`; every encoder without a
# projection has it, too.
CLIP_STUDENTS = ("openshape-b32", "openshape-l14")


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    if options.target:
        convert_to_pytorch(options)
        return 0
    options.checkpoint = storage.local_path(options.checkpoint)
    state = files.read(options.checkpoint, source=options.source)
    if options.source == "eva":
        convert_image_weights(state, options)
    else:
        convert_encoder(state, options)
    return 0


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.convert")
    direction = parser.add_mutually_exclusive_group(required=True)
    direction.add_argument("--from", dest="source", choices=("openshape", "uni3d", "eva"))
    direction.add_argument("--to", dest="target", choices=("openshape", "uni3d"))
    add = parser.add_argument
    add(
        "--checkpoint",
        required=True,
        help=".pt, .pth, .bin or .safetensors; with --to an encoder folder or the workdir of a run",
    )
    add(
        "--output",
        required=True,
        type=command.path,
        help="folder to write; for eva an .npz file; with --to a .safetensors or .pt file",
    )
    add(
        "--size",
        choices=("ti", "s", "b", "l", "g"),
        help="size of the Uni3D that starts from EVA's weights",
    )
    add("--groups", type=int, help="number of groups; only for a size that was never published")
    add("--group_size", type=int, help="points per group; likewise")
    add("--radius", type=float, help="radius of OpenShape's groups; likewise")
    add("--heads", type=int, help="attention heads; likewise")
    add(
        "--up",
        choices=("y", "z"),
        help="vertical axis of the clouds that the PyTorch module takes (default with --from: that "
        "of the release, y for Uni3D and OpenShape's students of ViT-B/32 and ViT-L/14; with --to: "
        "that of the encoder, z if mrd_jax trained it)",
    )
    add("--teacher", help="model whose feature space the encoder was trained into, if another")
    add("--licence", default="", help="licence of the weights, for the model card")
    options = parser.parse_args(arguments)
    if (options.source == "eva") != (options.size is not None):
        parser.error("--size belongs to --from eva, and --from eva needs it")
    return options


def convert_image_weights(state: Mapping, options: argparse.Namespace) -> None:
    """Writes the part of EVA's weights that a Uni3D student starts from."""
    conversion = convert.transformer_from_eva(
        state, size=options.size, name=str(options.checkpoint)
    )
    print_destinations(conversion.destinations)
    initial_weights.save(options.output, conversion.variables)
    print(f"start a uni3d-{options.size} with --config.initial_weights={options.output}")


def convert_encoder(state: Mapping, options: argparse.Namespace) -> None:
    """Writes an encoder folder with a model card."""
    conversion = convert.convert(
        state,
        source=options.source,
        name=str(options.checkpoint),
        groups=options.groups,
        group_size=options.group_size,
        radius=options.radius,
        heads=options.heads,
        up_axis=options.up or recorded_axis(options.checkpoint),
    )
    print_destinations(conversion.destinations)
    card = make_card(conversion, options)
    encoder.save(options.output, variables=conversion.variables, card=card)
    print(f"{card.size or 'no published size'}: {card.parameters:,} parameters, {options.output}")


def convert_to_pytorch(options: argparse.Namespace) -> None:
    """Writes the state dict of a released module, and a model card beside it."""
    output = storage.local_path(options.output)
    beside = output.with_suffix(".json")
    files.check_new(output)
    if beside.exists():
        raise FileExistsError(f"{beside} exists, where the model card goes; choose another path")
    stored = restore.find_student(hub.resolve(options.checkpoint))
    card = stored.card
    is_clip_student = options.target == "openshape" and (
        card.size in CLIP_STUDENTS or not card.student.get("projection", True)
    )
    variables, up_axis = stored.read_variables(), options.up or card.module_up_axis
    if up_axis != card.module_up_axis:
        turn = axes.weights_for_y_up if up_axis == "y" else axes.weights_for_z_up
        architecture = card.student["name"]
        variables = turn(variables, architecture=architecture, convention=card.from_y_up)
    state, filled = convert.to_state_dict(variables, student=card.student, source=options.target)
    prefix = openshape.CLIP_PREFIX if is_clip_student else ""
    files.write(output, state, source=options.target, prefix=prefix)
    if models.has_relation_head(card.student):
        print(f"params/{patch_student.RELATION_PROJECTION}  (not written: the module has one head)")
    for key in filled:
        print(f"{key}  (not used: filled with zeros or the initial value)")
    described = {
        "module": options.target,
        "up_axis": up_axis,
        "filled": filled,
        "sha256": fingerprinting.file_checksum(output),
        "encoder": card.as_dict(),
    }
    atomic_io.write_text(beside, json.dumps(described, indent=1) + "\n")
    print(f"{len(state)} keys, {len(filled)} of them not used; {up_axis} up: {output}, {beside}")


def recorded_axis(checkpoint: storage.PathLike) -> str | None:
    """Returns the vertical axis in the card that `convert_to_pytorch` wrote beside a file."""
    beside = storage.local_path(checkpoint).with_suffix(".json")
    try:
        fields = model_card.read_object(beside.read_text("utf-8"))
    except (FileNotFoundError, model_card.CardError):
        return None  # nothing, or a file of another program
    is_of_file = fields.get("sha256") == fingerprinting.file_checksum(checkpoint)
    return fields["up_axis"] if is_of_file else None


def print_destinations(destinations: Mapping[str, str]) -> None:
    """Prints one line per key of the checkpoint: the path it went to, or that it is not used."""
    width = max(map(len, destinations), default=0)
    for key, path in destinations.items():
        print(f"{key:{width}}  {path or '(not used)'}")
    unused = sum(not path for path in destinations.values())
    print(f"{len(destinations)} keys, {len(destinations) - unused} used, {unused} not used")


def make_card(conversion: convert.Conversion, options: argparse.Namespace) -> model_card.ModelCard:
    """Returns the model card of a converted encoder."""
    student = model_card.student_of(conversion.model)
    size = model_card.size_of(student)
    return model_card.ModelCard(
        student=student,
        size=size,
        parameters=model_card.count_parameters(conversion.variables),
        teacher=options.teacher or TEACHERS.get(size, TEACHERS[options.source]),
        teacher_dim=conversion.model.out_dim,
        module_up_axis=conversion.up_axis,
        source=options.source,
        source_file=options.checkpoint.name,
        source_sha256=fingerprinting.file_checksum(options.checkpoint),
        licence=options.licence,
        **CONVENTIONS,
    )


if __name__ == "__main__":
    sys.exit(main())
