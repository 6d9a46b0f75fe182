# SPDX-License-Identifier: Apache-2.0
"""Names of the files and folders of checkpoints, and where the checkpoints of a run are."""

import orbax.checkpoint as ocp
from etils import epath

# Folder of a workdir that holds one folder per saved step.
FOLDER = "checkpoints"
# Folder of a workdir that corrupt checkpoints are moved to.
CORRUPT = "corrupt"
# Items of a checkpoint: train state, manifest, run identity, model card.
STATE, MANIFEST, RUN, CARD = "state", "manifest", "run", "card"

# Files of an encoder folder, see `mrd_jax.encoder.save`.
CARD_FILE = "card.json"
MANIFEST_FILE = "manifest.json"
VARIABLES = "variables"


def steps(workdir: str | epath.Path) -> list[epath.Path]:
    """Returns the folders of the complete checkpoints of a run, oldest first.

    Raises:
      FileNotFoundError: the run has no checkpoint.
    """
    folder = epath.Path(workdir) / FOLDER
    found = sorted(ocp.utils.checkpoint_steps(folder)) if folder.exists() else []
    if not found:
        raise FileNotFoundError(f"no checkpoint in {folder}; train with --mode train first")
    return [folder / str(step) for step in found]


def newest(workdir: str | epath.Path) -> epath.Path:
    """Returns the folder of the newest complete checkpoint of a run.

    Raises:
      FileNotFoundError: the run has no checkpoint.
    """
    return steps(workdir)[-1]


def is_step(folder: epath.Path) -> bool:
    """Returns whether a folder is the checkpoint of a step, as `steps` lists them."""
    return all((folder / name).is_dir() for name in (STATE, MANIFEST))
