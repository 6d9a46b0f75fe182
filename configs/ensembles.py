# SPDX-License-Identifier: Apache-2.0
"""OpenShape's training lists as variants of a recipe: `--config configs/uni3d.py:shapenet`.

Variants: `shapenet`, `ensembled_no_lvis` and `ensembled` (also without a name). Each expects what
`python -m data_prep.build --source SOURCE --output data` makes of OpenShape's release.
"""

from ml_collections import ConfigDict

# Variant -> source of data_prep, and its shapes in round numbers (ours; the build counts them).
# The second leaves out the 46,832 shapes of Objaverse-LVIS, which the third trains on.
VARIANTS = {
    "shapenet": ("openshape_shapenet", 52_000),
    "ensembled_no_lvis": ("openshape_no_lvis", 828_000),
    "ensembled": ("openshape", 875_000),
}


def choose(config: ConfigDict, variant: str, *, epochs: int) -> None:
    """Sets what the data decide: folder, teacher, what is drawn, length of the run.

    Args:
      config: to change; its batch_size is set already.
      variant: one of `VARIANTS`.
      epochs: how often a run sees each shape.

    Raises:
      ValueError: there is no such variant.
    """
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r} of the data; choose from {sorted(VARIANTS)}")
    source, shapes = VARIANTS[variant]
    config.data.directory = f"data/{source}/1.0.0"
    config.total_steps = epochs * shapes // config.batch_size
    # The release holds nothing to test on: the benchmarks are data sets of their own.
    config.data.test_split = ""
    # Points per released cloud (OpenShape, train.yaml: num_points).
    config.data.points = 10_000
    # OpenCLIP ViT-bigG-14, the teacher of OpenShape's released features, and their length.
    config.teacher.name = "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k"
    config.teacher.dim = 1_280
    # OpenShape's code: a name that GPT-4 did not reject, BLIP's or Microsoft's caption, or a
    # retrieved text, with equal chances.
    config.data.caption_groups = (("name",), ("blip", "msft"), ("retrieved",))
    # OpenShape's code: half of the draws from Objaverse's thumbnails.
    config.data.picture_probability = 0.5
    # Steps between lines, evaluations and checkpoints of a run of days. Ours.
    config.log_every = 100
    config.eval_every = 5_000
    config.checkpoint_every = 1_000
