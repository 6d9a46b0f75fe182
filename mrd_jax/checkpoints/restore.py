# SPDX-License-Identifier: Apache-2.0
"""Reads the student from a checkpoint of a run or from an encoder folder, and verifies either."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import jax
import numpy as np
import orbax.checkpoint as ocp
import safetensors
import safetensors.numpy
from flax import linen as nn

from mrd_jax import models, storage
from mrd_jax.checkpoints import manifest, model_card, paths, run_identity, train_state

# Tells the config.json of an encoder folder from that of other libraries.
MODEL_TYPE = "mrd_jax"


@dataclasses.dataclass(frozen=True)
class StoredStudent:
    """A student on disk; its variables are not read yet.

    Attributes:
      card: model card of the student.
      folder: what Orbax wrote, either the variables alone or a train state.
      manifest: manifest of the folder.
      in_train_state: whether the folder holds a train state.
    """

    card: model_card.ModelCard
    folder: storage.Path
    manifest: dict[str, Any]
    in_train_state: bool

    def read_variables(self) -> dict[str, Any]:
        """Reads `params` and `batch_stats` to the host.

        Of a train state with a moving average of the parameters, that average is read. Optimizer
        state, twice the size of the student, is not.

        Returns:
          Nested dict of numpy arrays.

        Raises:
          CorruptCheckpointError: the variables do not match the manifest or the model card.
        """
        wanted = abstract(self.card)
        handler = ocp.PyTreeCheckpointHandler()
        with manifest.reading(self.folder), ocp.Checkpointer(handler) as reader:
            # Not through the reader: it warns about the step-level metadata file, absent here.
            stored = dict(handler.metadata(self.folder))
            places: dict[str, tuple[str, ...]] = {name: (name,) for name in wanted}
            if self.in_train_state:
                places = train_state.student_paths(stored)
            found = {name: _subtree(stored, place) for name, place in places.items()}
            if fault := difference(found, wanted):
                raise manifest.CorruptCheckpointError(
                    f"{self.folder} does not hold the student on its model card:\n{fault}"
                )
            part: dict[str, Any] = {}
            for name, place in places.items():
                _subtree(part, place[:-1])[place[-1]] = wanted[name]
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), part)
            arguments = ocp.args.PyTreeRestore(
                item=part, restore_args=as_numpy, partial_restore=True
            )
            restored = reader.restore(self.folder, args=arguments)
        manifest.compare(self.manifest, restored, where=self.folder)
        return {name: _subtree(restored, place) for name, place in places.items()}

    def verify(self) -> int:
        """Reads everything in the folder and compares it with the manifest.

        Returns:
          Number of arrays.

        Raises:
          CorruptCheckpointError: names what is corrupt.
        """
        return manifest.verify(self.folder, self.manifest)


@dataclasses.dataclass(frozen=True)
class StoredEncoder:
    """An encoder folder on disk; its variables are not read yet.

    Attributes:
      card: model card of the encoder.
      folder: the folder.
      manifest: checksums of the variables.
    """

    card: model_card.ModelCard
    folder: storage.Path
    manifest: dict[str, Any]

    def read_variables(self) -> dict[str, Any]:
        """Reads `params` and `batch_stats` to the host, as `StoredStudent.read_variables`."""
        file = self.folder / paths.WEIGHTS_FILE
        try:
            leaves = storage.read_safetensors(file)
        except (safetensors.SafetensorError, FileNotFoundError) as error:
            raise manifest.CorruptCheckpointError(f"{file}: cannot be read ({error})") from error
        found = {"batch_stats": {}} | flax.traverse_util.unflatten_dict(leaves, sep=".")
        if fault := difference(found, abstract(self.card)):
            raise manifest.CorruptCheckpointError(
                f"{file} does not hold the student on its model card:\n{fault}"
            )
        manifest.compare(self.manifest, found, where=self.folder)
        return found

    def verify(self) -> int:
        """Reads all arrays and compares them with the manifest, as `StoredStudent.verify`."""
        return len(jax.tree.leaves(self.read_variables()))


def write_encoder(
    folder: storage.Path, variables: Mapping[str, Any], *, card: model_card.ModelCard
) -> None:
    """Writes the files that `student_of_encoder` reads.

    Args:
      folder: existing local folder.
      variables: `params` and `batch_stats` of the encoder.
      card: its model card.
    """
    arrays = flax.traverse_util.flatten_dict(jax.device_get(dict(variables)), sep=".")
    arrays = {name: np.array(leaf, order="C") for name, leaf in arrays.items()}
    # The Hub shows which framework the weights are of.
    safetensors.numpy.save_file(arrays, folder / paths.WEIGHTS_FILE, metadata={"format": "flax"})
    described = json.dumps(manifest.describe(variables), indent=1)
    (folder / paths.MANIFEST_FILE).write_text(described)
    fields = {"model_type": MODEL_TYPE} | card.as_dict()
    (folder / paths.CARD_FILE).write_text(json.dumps(fields, indent=1) + "\n")


def is_encoder(path: storage.Path) -> bool:
    """Returns whether a path is an encoder folder of this or an earlier version."""
    if not (path / paths.CARD_FILE).exists():
        return (path / paths.OLD_CARD_FILE).exists()
    fields = model_card.read_object((path / paths.CARD_FILE).read_text())
    return fields.get("model_type") == MODEL_TYPE


def find_student(path: storage.Path) -> StoredStudent | StoredEncoder:
    """Finds the student that a path means.

    Args:
      path: encoder folder, workdir of a run (its newest checkpoint is used), or one checkpoint.

    Raises:
      FileNotFoundError: the path is none of these, or the run has no checkpoint.
      CardError: the model card is missing, corrupt or of another version.
      CorruptCheckpointError: the card or the manifest does not match what was saved.
    """
    if (path / run_identity.RUN_FILE).exists():
        return student_of_step(paths.newest(path))
    if paths.is_step(path):
        return student_of_step(path)
    if is_encoder(path):
        return student_of_encoder(path)
    raise FileNotFoundError(
        f"{path} holds no encoder: expected {paths.CARD_FILE} (mrd_jax.encoder.save, "
        f"mrd_jax.tools.convert), {run_identity.RUN_FILE} (the workdir of a run), or a step of its "
        f"{paths.FOLDER}/; check the path"
    )


def student_of_step(folder: storage.Path) -> StoredStudent:
    """Returns the student in the checkpoint of a step; raises as `find_student`."""
    return StoredStudent(read_card(folder), folder / paths.STATE, read_manifest(folder), True)


def student_of_encoder(folder: storage.Path) -> StoredStudent | StoredEncoder:
    """Returns the student in an encoder folder; raises as `find_student`."""
    described = manifest.read(folder / paths.MANIFEST_FILE)
    if not (folder / paths.CARD_FILE).exists():
        card = model_card.from_json((folder / paths.OLD_CARD_FILE).read_text())
        return StoredStudent(card, folder / paths.OLD_VARIABLES, described, False)
    fields = model_card.read_object((folder / paths.CARD_FILE).read_text())
    fields.pop("model_type")
    return StoredEncoder(model_card.from_dict(fields), folder, described)


def read_card(checkpoint: storage.Path) -> model_card.ModelCard:
    """Reads the model card of a checkpoint.

    Args:
      checkpoint: folder of a step.

    Raises:
      CardError: the checkpoint has no model card, or one of another version.
      CorruptCheckpointError: the card is not the one that was saved.
    """
    if not (checkpoint / paths.CARD).exists():
        raise model_card.CardError(
            f"{checkpoint} has no model card: an earlier version of mrd_jax saved it; train again"
        )
    with manifest.reading(checkpoint / paths.CARD):
        with ocp.Checkpointer(ocp.JsonCheckpointHandler()) as reader:
            card = reader.restore(checkpoint / paths.CARD)
    if manifest.fingerprint(card) != read_manifest(checkpoint)["card"]:
        raise manifest.CorruptCheckpointError(
            f"{checkpoint / paths.CARD}: not the model card that was saved"
        )
    return model_card.from_dict(card)


def read_manifest(checkpoint: storage.Path) -> dict[str, Any]:
    """Reads the manifest of a checkpoint.

    Args:
      checkpoint: folder of a step.

    Raises:
      CorruptCheckpointError: the manifest is missing or was changed.
    """
    # "metadata" is the file that Orbax writes for an item saved as JSON.
    return manifest.read(checkpoint / paths.MANIFEST / "metadata")


def build(card: model_card.ModelCard) -> nn.Module:
    """Builds the student that a model card describes, for any platform."""
    fields = {**card.student, "points": card.points}
    if "attention" in fields:
        # The run may have asked for an implementation that this machine lacks.
        fields["attention"] = "auto"
    return models.build_model(fields)


def abstract(card: model_card.ModelCard) -> dict[str, Any]:
    """Returns shapes and types of the variables of the student that a model card describes."""
    return model_card.abstract_variables(build(card), points=card.points)


def difference(found: Any, wanted: Any) -> str:
    """Lists the leaves that are missing, unexpected or of another shape or type.

    Args:
      found: tree of arrays, or of their shapes.
      wanted: tree to compare with.

    Returns:
      One line per leaf; "" if the trees agree.
    """
    there, here = _leaves(found), _leaves(wanted)
    return "\n".join(
        f"  {name}: {there.get(name, 'absent')} there, {here.get(name, 'absent')} on the card"
        for name in sorted(there.keys() | here.keys())
        if there.get(name) != here.get(name)
    )


def _subtree(tree: dict[str, Any], place: Sequence[str]) -> Any:
    """Returns the subtree at these keys, created if it is absent."""
    for key in place:
        tree = tree.setdefault(key, {})
    return tree


def _leaves(tree: Any) -> dict[str, str]:
    """Returns type and shape of every leaf by its path, such as "float32 [3, 64]"."""
    return {
        jax.tree_util.keystr(path): f"{np.dtype(leaf.dtype).name} {list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
