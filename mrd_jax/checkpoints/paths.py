# SPDX-License-Identifier: Apache-2.0
"""Names of the files and folders of checkpoints, and where the checkpoints of a run are."""

import orbax.checkpoint as ocp

from mrd_jax import storage

# Folder of a workdir that holds one folder per saved step.
FOLDER = "checkpoints"
# Folder of a workdir that corrupt checkpoints are moved to.
CORRUPT = "corrupt"
# Items of a checkpoint: train state, manifest, run identity, model card.
STATE, MANIFEST, RUN, CARD = "state", "manifest", "run", "card"

# Files of an encoder folder, see `mrd_jax.encoder.save`: model card, variables, checksums, text.
CARD_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
MANIFEST_FILE = "manifest.json"
README_FILE = "README.md"
# Model card and variables, as Orbax writes them, in the encoder folders of version 0.1.
OLD_CARD_FILE = "card.json"
OLD_VARIABLES = "variables"


def steps(workdir: storage.PathLike) -> list[storage.Path]:
    """Returns the folders of the complete checkpoints of a run, oldest first.

    Raises:
      FileNotFoundError: the run has no checkpoint.
    """
    folder = storage.path(workdir) / FOLDER
    found = sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []
    if not found:
        raise FileNotFoundError(f"no checkpoint in {folder}; train with --mode train first")
    return [folder / str(step) for step in found]


def newest(workdir: storage.PathLike) -> storage.Path:
    """Returns the folder of the newest complete checkpoint of a run.

    Raises:
      FileNotFoundError: the run has no checkpoint.
    """
    return steps(workdir)[-1]


def is_step(folder: storage.Path) -> bool:
    """Returns whether a folder is the complete checkpoint of a step, as `steps` lists them.

    Orbax renames a complete folder on local disks and writes a marker file into it in a bucket, so
    that an interrupted save is no checkpoint on either.
    """
    parts = all((folder / name).is_dir() for name in (STATE, MANIFEST))
    return parts and ocp.utils.is_checkpoint_finalized(folder)
