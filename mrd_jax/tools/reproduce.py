# SPDX-License-Identifier: Apache-2.0
r"""Measures a published encoder on the published test sets and prints the difference.

python -m mrd_jax.tools.reproduce --encoder openshape --data downloads
python -m mrd_jax.tools.reproduce --encoder uni3d-b --data downloads --teacher TEACHER

DATA holds the files as their owners publish them, see docs/published.md. Converts the checkpoint,
prepares the test sets that are there, evaluates zero-shot, and prints ours beside the published
row. Everything is written to DATA/mrd_jax, and an interrupted run continues.
"""

import argparse
import dataclasses
import json
import pathlib
import runpy
import sys
from collections.abc import Sequence
from typing import Any

from data_prep import build, teachers
from mrd_jax import storage
from mrd_jax.checkpoints import fingerprinting, restore
from mrd_jax.cli import command, console
from mrd_jax.data import dataset_metadata
from mrd_jax.evaluation import benchmark, results, table
from mrd_jax.evaluation.benchmark import published
from mrd_jax.tools import convert

# Folder below DATA that everything is written to.
WORK = "mrd_jax"


@dataclasses.dataclass(frozen=True)
class Published:
    """A published encoder.

    Attributes:
      size: published size that the checkpoint must have.
      checkpoint: file below DATA, where the commands of docs/published.md put it.
      method: its rows in the table of published results.
      training: training set, a key of `published.TRAINING`.
    """

    size: str
    checkpoint: str
    method: str
    training: str

    @property
    def module(self) -> str:
        """Returns the source of the checkpoint, "openshape" or "uni3d"."""
        return self.size.partition("-")[0]

    def rows(self) -> list[published.Row]:
        """Returns its published rows; several if its owner published several."""
        return [
            row
            for row in published.rows()
            if (row.method.partition(",")[0], row.training) == (self.method, self.training)
        ]


_REPOSITORIES = {
    "openshape": ("openshape-pointbert-vitg14-rgb", "E"),
    "openshape-no-lvis": ("openshape-pointbert-no-lvis", "N"),
    "openshape-shapenet": ("openshape-pointbert-shapenet", "S"),
}
ENCODERS = {
    name: Published("openshape-4", f"{folder}/model.pt", "OpenShape PointBERT", training)
    for name, (folder, training) in _REPOSITORIES.items()
} | {
    f"uni3d-{size}{suffix}": Published(
        f"uni3d-{size}", f"modelzoo/uni3d-{size}{suffix}/model.pt", f"Uni3D {letter}", training
    )
    for size, letter in (("b", "B"), ("l", "L"), ("g", "g"))
    for suffix, training in (("", "E"), ("-no-lvis", "N"))
}
# Test sets -> (folders below DATA that may be the input, files of which one tells that it is).
INPUTS = {
    "objaverse_lvis": (("",), ("meta_data/split/lvis.json",)),
    "modelnet40": (
        ("", "test_datasets"),
        ("meta_data/modelnet40/test_pc.npy", "modelnet40/test_pc.npy"),
    ),
    "scanobjectnn": (
        ("", "test_datasets"),
        ("meta_data/scanobjectnn/xyz_label.npy", "scanobjectnn/xyz_label.npy"),
    ),
}


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    encoder = ENCODERS[options.encoder]
    checkpoint = options.checkpoint or options.data / encoder.checkpoint
    if not checkpoint.is_file():
        raise FileNotFoundError(
            f"{checkpoint}: no checkpoint of {options.encoder}; docs/published.md has the command "
            "that downloads it, and --checkpoint takes another file"
        )
    inputs = find_inputs(options.data)
    if not inputs:
        wanted = ", ".join(file for _, files in INPUTS.values() for file in files)
        raise FileNotFoundError(f"{options.data} has no test set; expected one of {wanted}")
    work = options.data / WORK
    teacher = options.teacher or default_teacher(encoder)
    folder = work / "data" / teacher.replace("/", "_")
    sets = {name: build_set(name, path, folder, teacher) for name, path in inputs.items()}
    names = {dataset_metadata.read(one)["teacher"]["name"] for one in sets.values()}
    converted = convert_once(options.encoder, checkpoint, work, teacher=names.pop())
    # Not imported: this package must not depend on its experiments.
    config = runpy.run_path(str(console.installed_configs() / "benchmarks.py"))["get_config"]()
    config.checkpoint, config.data, config.sets = str(converted), str(folder), tuple(sorted(sets))
    config.linear_probe = config.few_shot = False
    config.batch_size = options.batch_size
    workdir = work / "benchmarks" / options.encoder
    benchmark.evaluate(config, str(workdir))
    measured = json.loads((workdir / benchmark.RESULTS_FILE).read_text())
    print(comparison(options.encoder, measured["sets"]))
    return 0


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.reproduce")
    add = parser.add_argument
    add("--encoder", required=True, choices=sorted(ENCODERS), help="published encoder")
    add("--data", required=True, type=command.local_path, help="folder of the downloaded files")
    add("--checkpoint", type=command.local_path, help="checkpoint, if it is elsewhere")
    add(
        "--teacher",
        help="teacher that embeds the class names, as data_prep.build takes it (default: the "
        "released features for OpenShape, the hub name of its teacher for Uni3D)",
    )
    add("--batch_size", type=int, default=32, help="point clouds per batch (default: 32)")
    return parser.parse_args(arguments)


def default_teacher(encoder: Published) -> str:
    """Returns the value of `data_prep.build --teacher` for the test sets of an encoder."""
    return teachers.RELEASED if encoder.module == "openshape" else convert.TEACHERS["uni3d"]


def find_inputs(data: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the input folder of every test set whose files are there."""
    return {
        name: data / folder
        for name, (folders, files) in INPUTS.items()
        for folder in reversed(folders)
        if any((data / folder / file).is_file() for file in files)
    }


def build_set(name: str, path: pathlib.Path, folder: pathlib.Path, teacher: str) -> pathlib.Path:
    """Prepares a test set with as many points as the encoders take; returns its folder."""
    points = convert.CONVENTIONS["points"]
    return build.build(
        build.Options(source=name, input=path, output=folder, teacher=teacher, points=points)
    )


def convert_once(
    name: str, checkpoint: pathlib.Path, work: pathlib.Path, *, teacher: str
) -> pathlib.Path:
    """Converts a checkpoint, unless the encoder folder has it already; returns the folder.

    Raises:
      ValueError: the checkpoint is of another size.
    """
    encoder, folder = ENCODERS[name], work / "encoders" / name
    if not folder.exists():
        convert.main(
            [f"--from={encoder.module}", f"--checkpoint={checkpoint}", f"--output={folder}"]
            + [f"--teacher={teacher}"]
        )
    card = restore.find_student(storage.path(folder)).card
    if card.size != encoder.size:
        raise ValueError(f"{checkpoint} is a {card.size or 'unpublished size'}; {name} is a "
                         f"{encoder.size}: check the file, and remove {folder}")  # fmt: skip
    found = {"teacher": card.teacher, "SHA-256": card.source_sha256}
    wanted = {"teacher": teacher, "SHA-256": fingerprinting.file_checksum(checkpoint)}
    if found != wanted:
        raise ValueError(f"{folder} was converted from {found}, not {wanted}; remove the folder")
    return folder


def comparison(name: str, measured: dict[str, Any]) -> str:
    """Formats ours beside every published row, and the difference.

    Args:
      name: key of `ENCODERS`.
      measured: `sets` of the benchmark's results.
    """
    rows = [["test set", "shapes", "accuracy", "ours", "published", "difference", "source"]]
    for row in ENCODERS[name].rows():
        for test_set, title in published.BENCHMARKS.items():
            if test_set not in measured:
                rows.append([title, "", "", "not measured: its files are missing", "", "", ""])
                continue
            figures = measured[test_set]
            (student,) = (
                result
                for result in map(results.from_dict, figures["results"])
                if result.name == results.STUDENT
            )
            for k, value in zip((1, 3, 5), row.figures[test_set], strict=True):
                if value is not None:
                    ours = 100 * student.metrics[f"top{k}"]
                    cells = [f"top-{k}", f"{ours:.1f}", f"{value:.1f}", f"{ours - value:+.1f}"]
                    shapes = f"{figures['counts']['labelled']:,}"
                    rows.append([title, shapes, *cells, f"{row.method}: {row.source}"])
    return table.format_markdown(rows, left=(0, 6))


if __name__ == "__main__":
    sys.exit(main())
