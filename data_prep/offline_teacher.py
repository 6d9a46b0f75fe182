# SPDX-License-Identifier: Apache-2.0
"""The LiT teacher of a data set: trained on its training split, once."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_prep import catalogue as catalogue_lib
from data_prep import teachers

# Written into a teacher's folder once it is trained: on what, so that other data retrain it.
TRAINED_ON = "trained_on.json"


def load_or_train(
    folder: Path,
    catalogue: catalogue_lib.Catalogue,
    train: Sequence[str],
    *,
    cache_dir: Path,
    seed: int,
    batch_size: int,
    dtype: str,
) -> teachers.Teacher:
    """The teacher in a folder, trained where that was not done on just these shapes.

    Args:
      folder: of the trained teacher; one that was trained otherwise is replaced.
      catalogue: of the prepared shapes.
      train: ids of the training shapes.
      cache_dir: features of the frozen image model, which all teachers share.
      seed: of the training.
      batch_size: pictures or texts a call, over all devices.
      dtype: of the activations, "float32" or "bfloat16".

    Returns:
      the teacher.
    """
    from data_prep.teachers import lit  # takes seconds to import, and needs transformers
    from data_prep.teachers.lit import training

    wanted = {
        "shapes": {shape_id: catalogue.digests[shape_id] for shape_id in train},
        "seed": seed,
        "dtype": dtype,
        "settings": json.loads(json.dumps(dataclasses.asdict(training.Settings()))),
    }
    mark = folder / TRAINED_ON
    if mark.exists() and json.loads(mark.read_text()) == wanted:
        print(f"{folder} is trained on these shapes already")
        return lit.LitTeacher.load(folder, batch_size=batch_size, dtype=dtype, cache_dir=cache_dir)
    if folder.exists():
        print(f"{folder} was trained on other shapes or not to its end; it is trained again")
        shutil.rmtree(folder)
    teacher = lit.train_lit(
        catalogue.load(train),
        folder,
        seed=seed,
        cache_dir=cache_dir,
        encode_batch_size=batch_size,
        dtype=dtype,
        progress=True,
    )
    mark.write_text(json.dumps(wanted) + "\n")
    return teacher
