# SPDX-License-Identifier: Apache-2.0
"""Evaluates an encoder on prepared test sets, beside published results.

python -m mrd_jax.main --mode eval --config configs/benchmarks.py --workdir runs/benchmarks \
    --config.checkpoint=encoders/openshape
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the config of a benchmark, which writes results.json and benchmarks.md."""
    config = ConfigDict()
    # Workdir of a run, whose newest checkpoint is used, or folder of mrd_jax.tools.convert.
    config.checkpoint = ""
    # Folder of the data sets, the --output of data_prep.build.
    config.data = "data"
    # Names of the test sets, such as ("objaverse_lvis", "modelnet40"), which must all fit the
    # encoder. () selects every data set that fits; the others are listed with the reason.
    config.sets = ()
    # Point clouds per batch, over all devices of this host.
    config.batch_size = 32
    # Number of disjoint samples of a point cloud whose embeddings are averaged; `eval_windows` of
    # a run. Published results use one.
    config.windows = 1
    # Mean average precision by class is computed for test splits of up to this many shapes. It
    # sorts the split for every shape, which takes many minutes at the 46,832 of Objaverse-LVIS.
    config.map_up_to = 10_000
    # Fit a linear probe, and few-shot probes (10 draws each of 1, 2, 4, 8 and 16 shots), on sets
    # that have a training split.
    config.linear_probe = True
    config.few_shot = True
    # Seed that draws the part of the training split on which the penalty of the linear probe is
    # chosen. The draws of few-shot probes have seeds of their own.
    config.seed = 0
    return config
