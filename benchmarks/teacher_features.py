# SPDX-License-Identifier: Apache-2.0
"""Measures a teacher: preprocessing of pictures, and what bfloat16 changes in features.

python -m benchmarks.teacher_features --shapes data/shapes/furniture
python -m benchmarks.teacher_features --shapes data/shapes/furniture --teacher DIR

Without --teacher, a CLIP of the sizes of ViT-B/32 with random weights is measured. Prints one JSON
line: pictures per second that are decoded and preprocessed by 1, 2, ... threads, and of one thread
by the processor of transformers, which earlier versions used; pictures per second of the teacher in
float32 and bfloat16, over all devices;
and the cosine between the features of a picture in float32 and in bfloat16, its mean and its
minimum over the pictures.
"""

import functools
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import transformers

from data_prep import flag_types, shapes, shards, teachers
from data_prep.teachers import batching, clip, lit, notices
from mrd_jax.cli import command


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures a teacher and prints the result."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.teacher_features")
    add, positive = parser.add_argument, flag_types.integer(1)
    add("--shapes", required=True, type=Path, help="shape cache of a build")
    add("--teacher", help="folder or hub name; default: random weights of the sizes of ViT-B/32")
    add("--pictures", type=positive, default=416, help="default: %(default)s")
    add("--repeats", type=positive, default=3, help="the best counts; default: %(default)s")
    options = parser.parse_args(arguments)
    pictures = read_pictures(options.shapes, options.pictures)
    exact, other = (load(options.teacher, dtype) for dtype in ("float32", "bfloat16"))
    processor = transformers.CLIPImageProcessor()
    prepare = {"prepare": getattr(exact, "_to_pixels", None) or lit.backbones.to_pixels}

    def by_transformers(image: Any) -> np.ndarray:
        return processor(images=image, return_tensors="np")["pixel_values"][0]

    threads = [count for count in (1, 2, 4, 8, 16) if count <= (os.cpu_count() or 1)]
    rows = [each.encode_images(pictures) for each in (exact, other)]
    cosine = (rows[0] * rows[1]).sum(axis=1) / np.prod(
        [np.linalg.norm(each, axis=1) for each in rows], axis=0
    )
    result = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {jax.default_backend()}",
        "teacher": exact.info.name,
        "pictures": len(pictures),
        "prepared_per_second": {
            count: best(prepared(pictures, count, **prepare), options.repeats, len(pictures))
            for count in threads
        },
        "prepared_per_second_by_transformers": best(
            prepared(pictures, 1, prepare=by_transformers), options.repeats, len(pictures)
        ),
        "encoded_per_second": {
            dtype: best(
                functools.partial(teacher.encode_images, pictures), options.repeats, len(pictures)
            )
            for dtype, teacher in (("float32", exact), ("bfloat16", other))
        },
        "cosine_of_bfloat16": {
            "mean": round(float(cosine.mean()), 6),
            "min": round(float(cosine.min()), 6),
        },
    }
    print(json.dumps(result))
    return 0


def read_pictures(cache: Path, count: int) -> list[bytes]:
    """Returns the first pictures of a shape cache."""
    pictures: list[bytes] = []
    for path in shards.list_paths(cache) or sorted(cache.glob("shard-*.npz")):
        pictures += [data for shape in shapes.load_shard(path) for data in shape.images]
        if len(pictures) >= count:
            return pictures[:count]
    raise ValueError(f"--shapes {cache}: {len(pictures)} pictures, expected at least {count}")


def load(name: str | None, dtype: str) -> Any:
    """Loads a teacher, or makes a CLIP with random weights."""
    if name is not None:
        return teachers.load_teacher(name, dtype=dtype)
    config = transformers.CLIPConfig(projection_dim=512)  # the sizes of ViT-B/32
    with notices.suppress_flax_deprecation():
        model = transformers.FlaxCLIPModel(config, dtype=jnp.dtype(dtype), _do_init=False)
    params = model.init_weights(jax.random.key(0), input_shape=((1, 77), (1, 224, 224, 3)))
    return clip.ClipTeacher(
        model=model,
        params=jax.tree.map(lambda leaf: np.asarray(leaf, dtype), params),
        image_processor=transformers.CLIPImageProcessor(),
        tokenizer=None,
        name="random ViT-B/32",
        revision="",
        batch_size=None,
    )


def prepared(
    pictures: Sequence[bytes], threads: int, *, prepare: Callable[[Any], np.ndarray]
) -> Callable[[], None]:
    """Returns a function that preprocesses all pictures."""

    def run() -> None:
        with mock.patch.object(batching, "MAX_THREADS", threads):
            arrays: Iterator = batching.prepare_pictures(pictures, prepare=prepare)
            for _ in batching.stack_batches(arrays, batch_size=32):
                pass

    return run


def best(function: Callable[[], Any], repeats: int, count: int) -> float:
    """Returns the highest rate of a few runs, per second."""
    rates = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        rates.append(count / (time.perf_counter() - start))
    return round(max(rates), 1)


if __name__ == "__main__":
    sys.exit(main())
