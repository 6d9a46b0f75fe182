# SPDX-License-Identifier: Apache-2.0
"""OpenShape's training lists as variants of a config: `--config configs/uni3d.py:shapenet`.

The variants are `shapenet`, `ensembled_no_lvis` and `ensembled`, which is the default. Each of them
expects a data set that `python -m data_prep.build --source SOURCE --output data` writes from
OpenShape's release, with the SOURCE below.
"""

from ml_collections import ConfigDict

# Variant -> (source of data_prep, rounded number of shapes). `ensembled_no_lvis` excludes the
# 46,832 shapes of Objaverse-LVIS, which are part of `ensembled`.
VARIANTS = {
    "shapenet": ("openshape_shapenet", 52_000),
    "ensembled_no_lvis": ("openshape_no_lvis", 828_000),
    "ensembled": ("openshape", 875_000),
}


def choose(config: ConfigDict, variant: str, *, epochs: int) -> None:
    """Sets the fields that depend on the data: folder, teacher, sampling, number of steps.

    Args:
      config: config of the run, modified in place; `batch_size` must be set already.
      variant: a key of `VARIANTS`.
      epochs: passes over the training set.

    Raises:
      ValueError: the variant is unknown.
    """
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r} of the data; choose from {sorted(VARIANTS)}")
    source, shapes = VARIANTS[variant]
    config.data.directory = f"data/{source}/1.0.0"
    config.total_steps = epochs * shapes // config.batch_size
    # The release has no test split; the benchmarks are separate data sets.
    config.data.test_split = ""
    # Points per released cloud (OpenShape, train.yaml: num_points).
    config.data.points = 10_000
    # OpenCLIP ViT-bigG-14, the teacher of OpenShape's released features.
    config.teacher.name = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
    # Dimension of the released features.
    config.teacher.dim = 1_280
    # OpenShape's code: a name that GPT-4 did not reject, a caption by BLIP or Microsoft, or a
    # retrieved text, with equal probability.
    config.data.caption_groups = (("name",), ("blip", "msft"), ("retrieved",))
    # OpenShape's code: Objaverse's thumbnail with probability 1/2.
    config.data.picture_probability = 0.5
    # Intervals in steps, for runs of several days. Ours.
    config.log_every = 100
    config.eval_every = 5_000
    config.checkpoint_every = 1_000
