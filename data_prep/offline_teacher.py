# SPDX-License-Identifier: Apache-2.0
"""LiT teacher of a data set, trained once on its training split."""

import dataclasses
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_prep import catalogue, teachers

# Kinds of captions that earlier versions trained on.
EARLIER_KINDS = ("name", "tags")
# Written into a teacher's folder after training; other training data cause a new training.
TRAINED_ON = "trained_on.json"


def load_or_train(
    folder: Path,
    prepared: catalogue.Catalogue,
    train: Sequence[str],
    *,
    cache_dir: Path,
    seed: int,
    batch_size: int | None,
    dtype: str,
) -> teachers.Teacher:
    """Loads the teacher of a folder, after training it unless it was trained on the same shapes.

    Args:
      folder: folder of the trained teacher; a teacher that was trained otherwise is replaced.
      prepared: catalogue of the prepared shapes.
      train: ids of the training shapes.
      cache_dir: features of the frozen image model, which all teachers share.
      seed: seed of the training.
      batch_size: pictures or texts per call, over all devices; None as in
        `teachers.load_teacher`.
      dtype: dtype of the activations, "float32" or "bfloat16".

    Returns:
      The trained teacher.
    """
    from data_prep.teachers import lit  # takes seconds to import, and needs transformers
    from data_prep.teachers.lit import training

    trained_on = {
        "shapes": {shape_id: prepared.fingerprints[shape_id] for shape_id in train},
        "seed": seed,
        "dtype": dtype,
        "settings": json.loads(json.dumps(dataclasses.asdict(training.Settings()))),
    }
    path = folder / TRAINED_ON
    found = json.loads(path.read_text()) if path.exists() else None
    if found in (trained_on, _earlier(trained_on)):
        kinds = ", ".join(found["settings"]["caption_kinds"])
        print(f"{folder} is trained on these shapes already, by captions of the kinds {kinds}")
        return lit.LitTeacher.load(folder, batch_size=batch_size, dtype=dtype, cache_dir=cache_dir)
    if folder.exists():
        print(f"{folder} was trained on other shapes or not completed; it is trained again")
        shutil.rmtree(folder)
    teacher = lit.train_lit(
        prepared.load(train),
        folder,
        seed=seed,
        cache_dir=cache_dir,
        encode_batch_size=batch_size,
        dtype=dtype,
        progress=True,
    )
    path.write_text(json.dumps(trained_on) + "\n")
    return teacher


def _earlier(trained_on: dict) -> dict:
    """Returns what earlier versions, which did not read sentences, wrote of the same training.

    Their teachers are kept, because data sets were built with them.
    """
    settings = trained_on["settings"] | {"caption_kinds": list(EARLIER_KINDS)}
    return trained_on | {"settings": settings}
