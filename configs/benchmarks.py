# SPDX-License-Identifier: Apache-2.0
"""Any encoder on every prepared test set, beside the published rows of the field.

python -m mrd_jax.main --mode eval --config configs/benchmarks.py --workdir runs/benchmarks \
    --config.checkpoint=encoders/openshape
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Evaluates, trains nothing; the workdir gets results.json and benchmarks.md."""
    config = ConfigDict()
    # Workdir of a run, whose newest checkpoint is meant, or folder of mrd_jax.tools.convert.
    config.checkpoint = ""
    # Folder of the data sets: what data_prep.build was given as --output.
    config.data = "data"
    # Names of those that are meant, such as ("objaverse_lvis", "modelnet40"), all of which must
    # fit the encoder. () is every one that does; the others are listed with the reason.
    config.sets = ()
    # Clouds a call, over all devices of this host.
    config.batch_size = 32
    # Disjoint samples of a cloud whose embeddings are averaged: `eval_windows` of a run. The
    # published figures have one.
    config.windows = 1
    # Largest test split, in shapes, whose mean average precision by class is measured: it sorts
    # the split for every shape, which takes many minutes at the 46,832 of Objaverse-LVIS.
    config.map_up_to = 10_000
    # Fit a linear probe, and few-shot probes (10 draws each of 1, 2, 4, 8 and 16 shots), on sets
    # that have a training split.
    config.linear_probe = True
    config.few_shot = True
    # Draws the part of a training split that chooses the linear probe's penalty; the draws of
    # few-shot have seeds of their own.
    config.seed = 0
    return config
