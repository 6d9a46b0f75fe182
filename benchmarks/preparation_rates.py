# SPDX-License-Identifier: Apache-2.0
"""Measures the rates that `python -m data_prep.estimate` multiplies: seconds and bytes per shape.

python -m benchmarks.preparation_rates --input data/sweethome3d

Prepares a random sample of the furniture at the default sizes, in this process. A stub with the
dimension of OpenCLIP's ViT-bigG-14 stands for the teacher. The work of the teacher is counted, not
timed: multiply-adds of the compiled program for one picture and one text. Writes
data_prep/measured_rates.json, or --output.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import transformers

from data_prep import build, build_flags, estimate, shapes, sources, teachers
from data_prep import shards as shard_files
from data_prep.options import Options
from data_prep.progress import Snapshot
from data_prep.sources.furniture import Furniture
from data_prep.teachers import batching, clip, names, notices
from mrd_jax import atomic_io
from mrd_jax.cli import command

NAME = "furniture_sample"
# OpenCLIP's ViT-bigG-14, the teacher of OpenShape.
BIGG = {
    "vision": {
        "hidden_size": 1664,
        "intermediate_size": 8192,
        "num_hidden_layers": 48,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 224,
    },
    "text": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 20,
    },
    "dim": 1280,
}


@dataclasses.dataclass(frozen=True)
class Sample:
    """Random furniture, as a source.

    Attributes:
      count: number of models.
      origin: source of all models.
      family: name of the shape cache.
    """

    count: int
    origin: Furniture = Furniture(test="BlendSwap-CC-0")
    family: str = NAME
    from_y_up: str = "rotate"

    def items(self, input_dir: Path) -> list[Any]:
        """Returns the sample, which is always the same."""
        items = self.origin.items(input_dir)
        return random.Random(0).sample(items, min(self.count, len(items)))

    def prepare(self, item: Any, **settings: int) -> shapes.Shape:
        """Prepares one model."""
        return self.origin.prepare(item, **settings)

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Returns all models as the split "train"."""
        return {"train": [shape.id for shape in prepared]}

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """Returns no classes."""
        return []


class Stub:
    """Teacher that returns random features at once: constant ones would be compressed."""

    info = teachers.TeacherInfo("stub", "1", BIGG["dim"], "clip", "none")

    def encode_images(self, images: Sequence[Any], *, progress: bool = False) -> np.ndarray:
        """Returns float32 [len(images), dim]."""
        return self._random(len(images))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Returns float32 [len(texts), dim]."""
        return self._random(len(texts))

    def _random(self, rows: int) -> np.ndarray:
        return np.random.default_rng(rows).normal(size=(rows, self.info.dim)).astype(np.float32)


class StageTimes:
    """Listener that measures the CPU seconds of the stages in this process."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self.seconds: dict[str, float] = {}

    def __call__(self, snapshot: Snapshot) -> None:
        """Implements `progress.Listener`."""
        now = time.process_time()
        first = self._started.setdefault(snapshot.stage, now)
        self.seconds[snapshot.stage] = now - first


def measure(input_dir: Path, *, count: int) -> dict[str, Any]:
    """Builds a data set of a sample.

    Args:
      input_dir: folder of the furniture catalogues.
      count: number of models.

    Returns:
      Seconds and bytes per shape, picture or record.
    """
    times = StageTimes()
    with tempfile.TemporaryDirectory() as folder, stub_teacher(Sample(count)):
        output = Path(folder)
        execution = build_flags.Execution(workers=0, listener=times)
        options = Options(NAME, input_dir, output, "stub", execution=execution)
        target = build.build(options)
        paths = shard_files.list_paths(output / "shapes" / NAME)
        made = [shape for path in paths for shape in shapes.load_shard(path)]
        images = [image for shape in made for image in shape.images]
        number = len(made)
        return {
            "shapes": number,
            "shape_cpu_seconds": times.seconds["shapes"] / number,
            "pictures_per_shape": len(images) / number,
            "captions_per_shape": sum(len(shape.captions) for shape in made) / number,
            "picture_cpu_seconds": time_preprocessing(images),
            "record_cpu_seconds": times.seconds["records"] / number,
            "source_bytes": size(input_dir) / len(Furniture(test="").items(input_dir)),
            "cache_bytes": size(output / "shapes") / number,
            "feature_bytes": size(output / "features") / number,
            "record_bytes": size(target) / number,
        }


@contextlib.contextmanager
def stub_teacher(sample: Sample) -> Iterator[None]:
    """Makes the sample a source, and the stub the teacher, for the time of the block."""
    with (
        mock.patch.dict(sources.SOURCES, {NAME: sample}),
        mock.patch.object(teachers, "load_teacher", lambda *args, **options: Stub()),
        mock.patch.object(names, "check", lambda *args, **options: None),
    ):
        yield


def time_preprocessing(images: Sequence[bytes]) -> float:
    """Returns the CPU seconds of decoding and preprocessing a picture for CLIP."""
    processor = transformers.CLIPImageProcessor()

    def prepare(image: Any) -> np.ndarray:
        return clip.to_pixels(image, processor)

    start = time.process_time()
    for _ in batching.prepare_pictures(images, prepare=prepare):
        pass
    return (time.process_time() - start) / len(images)


def count_operations() -> dict[str, float]:
    """Returns the floating-point operations of ViT-bigG-14 for one picture and one text.

    Nothing is computed, and no weights are needed.
    """
    config = transformers.CLIPConfig(
        text_config=BIGG["text"], vision_config=BIGG["vision"], projection_dim=BIGG["dim"]
    )
    with notices.suppress_flax_deprecation():
        model = transformers.FlaxCLIPModel(config, dtype=jax.numpy.bfloat16, _do_init=False)
    pixels = jax.ShapeDtypeStruct((1, 3, 224, 224), np.float32)
    tokens = jax.ShapeDtypeStruct((1, 77), np.int32)

    def lower(function: Any, *inputs: Any) -> float:
        lowered = jax.jit(function).lower(model.params_shape_tree, *inputs)
        return lowered.cost_analysis()["flops"]

    return {
        "picture_flops": lower(lambda p, x: model.get_image_features(x, params=p), pixels),
        "text_flops": lower(lambda p, x: model.get_text_features(x, params=p), tokens),
    }


def size(folder: Path) -> int:
    """Returns the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m benchmarks.preparation_rates")
    add = parser.add_argument
    add("--input", required=True, type=command.local_path, help="output of data_prep.fetch")
    add("--shapes", type=int, default=128, help="number of models; default: %(default)s")
    add("--output", type=command.local_path, default=estimate.RATES, help="file to write")
    options = parser.parse_args(arguments)
    rates = measure(options.input, count=options.shapes) | count_operations()
    rounded = {name: float(f"{value:.4g}") for name, value in rates.items()}
    content = {
        "command": f"python -m benchmarks.preparation_rates --shapes {options.shapes}",
        "date": datetime.date.today().isoformat(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, shared with other jobs",
        "rates": rounded,
    }
    text = json.dumps(content, indent=1)
    atomic_io.write_text(options.output, f"{text}\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
