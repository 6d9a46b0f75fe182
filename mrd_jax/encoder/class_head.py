# SPDX-License-Identifier: Apache-2.0
"""Class head: a linear classifier on the unit embeddings of an encoder, with names of classes."""

import dataclasses
import json
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from mrd_jax import storage
from mrd_jax.checkpoints import manifest

# File of an encoder folder that has a class head.
FILE = "class_head.safetensors"
# Key of the file's metadata that has the class names and the manifest of the arrays, as JSON.
_METADATA = "mrd_jax"


@dataclasses.dataclass(frozen=True)
class ClassHead:
    """Classifier of embeddings.

    Attributes:
      names: [classes], names of the classes.
      kernel: float32 [dim, classes].
      bias: float32 [classes].
    """

    names: tuple[str, ...]
    kernel: np.ndarray
    bias: np.ndarray

    def __post_init__(self):
        """Checks the shapes.

        Raises:
          ValueError: names, kernel and bias are not of the same number of classes.
        """
        classes = len(self.names)
        if self.kernel.ndim != 2 or self.kernel.shape[1] != classes or len(self.bias) != classes:
            raise ValueError(
                f"a class head of {classes} names has a kernel {list(self.kernel.shape)} and a "
                f"bias {list(self.bias.shape)}; expected [dim, {classes}] and [{classes}]"
            )

    def logits(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the logits of the classes.

        Args:
          embeddings: float [count, dim], unit norm, as `Encoder.embed` returns them.

        Returns:
          float32 [count, classes].
        """
        return np.asarray(embeddings, np.float32) @ self.kernel + self.bias

    def probabilities(self, embeddings: np.ndarray) -> np.ndarray:
        """Returns the probabilities of the classes, the softmax of their logits.

        Args:
          embeddings: float [count, dim], unit norm, as `Encoder.embed` returns them.

        Returns:
          float32 [count, classes].
        """
        logits = self.logits(embeddings)
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)

    def classify(self, embeddings: np.ndarray) -> list[tuple[str, float]]:
        """Returns the best class of each embedding, and its probability.

        Args:
          embeddings: float [count, dim], unit norm, as `Encoder.embed` returns them.
        """
        chances = self.probabilities(embeddings)
        best = chances.argmax(axis=1)
        found = chances[np.arange(len(best)), best].tolist()
        return [(self.names[i], chance) for i, chance in zip(best, found, strict=True)]


def write(folder: storage.Path, head: ClassHead) -> None:
    """Writes the file of a class head.

    Args:
      folder: existing local folder.
      head: class head.
    """
    arrays = _arrays(head)
    described = {"names": head.names, "manifest": manifest.describe(arrays)}
    # One key: the order of several would differ from file to file.
    metadata = {_METADATA: json.dumps(described)}
    safetensors.numpy.save_file(arrays, folder / FILE, metadata=metadata)


def read(folder: storage.Path) -> ClassHead | None:
    """Reads the class head of an encoder folder; None if it has none.

    Args:
      folder: encoder folder, or a run, which has none.

    Raises:
      CorruptCheckpointError: the file is not what was saved.
    """
    file = folder / FILE
    if not file.is_file():
        return None
    content = file.read_bytes()
    try:
        arrays = safetensors.numpy.load(content)
        described = json.loads(_metadata(content)[_METADATA])
        head = ClassHead(tuple(described["names"]), arrays["kernel"], arrays["bias"])
        saved = described["manifest"]
        manifest.compare(saved, _arrays(head), where=file)
    except (safetensors.SafetensorError, ValueError, LookupError, TypeError) as error:
        raise manifest.CorruptCheckpointError(f"{file}: cannot be read ({error})") from error
    return head


def _arrays(head: ClassHead) -> dict[str, np.ndarray]:
    return {
        "kernel": np.ascontiguousarray(head.kernel, np.float32),
        "bias": np.ascontiguousarray(head.bias, np.float32),
    }


def _metadata(content: bytes) -> dict[str, Any]:
    """Returns the metadata in the header of a `.safetensors` file, which is JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]
