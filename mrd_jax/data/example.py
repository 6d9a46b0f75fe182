# SPDX-License-Identifier: Apache-2.0
"""Lazy decoding of stored records: only the requested fields are decoded.

TFDS decodes every field of a record that it reads, which takes ten times as long as parsing it.
Here, tensors are views of the stored bytes, and the other fields stay undecoded.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from google.protobuf import message
from tensorflow_datasets.proto import tf_example_pb2, tf_feature_pb2


class Examples:
    """Sequence of serialised records whose fields decode by name, to the same values as in TFDS.

    Args:
      serialised: `tf.train.Example` messages, as TFDS writes them.
      features: features of the data set: text, lists of text, integers, and tensors stored as
        bytes.
      names: names of the fields that can be read.

    Raises:
      ValueError: the data set lacks a field, or stores it in another way.
    """

    def __init__(
        self,
        serialised: Sequence[bytes],
        features: tfds.features.FeaturesDict,
        *,
        names: Iterable[str],
    ):
        self._serialised = serialised
        self._decoders = {name: _decoder(features, name) for name in names}

    def __len__(self) -> int:
        return len(self._serialised)

    def __getitem__(self, index: int) -> "Example":
        try:
            parsed = tf_example_pb2.Example.FromString(self._serialised[index])
        except message.DecodeError as error:
            raise ValueError(f"not a tf.train.Example ({error})") from error
        return Example(parsed, self._decoders)


class Example:
    """Parsed record; `example[name]` decodes a field."""

    def __init__(self, parsed: tf_example_pb2.Example, decoders: dict[str, Callable]):
        self._fields = parsed.features.feature
        self._decoders = decoders

    def __getitem__(self, name: str) -> Any:
        """Decodes one field.

        Raises:
          ValueError: the record lacks the field, or its value has another type or shape.
        """
        # Indexing a protocol-buffer map would insert the missing key.
        if name not in self._fields:
            raise ValueError(f"no field {name!r}")
        try:
            return self._decoders[name](self._fields[name])
        except ValueError as error:
            raise ValueError(f"field {name!r}: {error}") from error


def _decoder(features: tfds.features.FeaturesDict, name: str) -> Callable:
    """Returns the function that decodes a field."""
    if name not in features:
        raise ValueError(f"features.json has no field {name!r}; expected {sorted(features)}")
    feature = features[name]
    if isinstance(feature, tfds.features.Text):  # a subclass of Tensor, so it comes first
        return _text
    if isinstance(feature, tfds.features.Sequence):
        if isinstance(feature.feature, tfds.features.Text):
            return _texts
    elif isinstance(feature, tfds.features.Tensor):
        if feature.shape == () and np.issubdtype(feature.np_dtype, np.integer):
            return _integer
        if feature.get_serialized_info().np_dtype == np.object_:  # stored as bytes
            shape = tuple(-1 if size is None else size for size in feature.shape)
            return functools.partial(_tensor, dtype=np.dtype(feature.np_dtype), shape=shape)
    raise ValueError(f"features.json stores field {name!r} in an unsupported way: {feature}")


def _text(field: tf_feature_pb2.Feature) -> bytes:
    return _single(field.bytes_list.value)


def _texts(field: tf_feature_pb2.Feature) -> list[bytes]:
    return list(field.bytes_list.value)


def _integer(field: tf_feature_pb2.Feature) -> int:
    return _single(field.int64_list.value)


def _tensor(
    field: tf_feature_pb2.Feature, *, dtype: np.dtype, shape: tuple[int, ...]
) -> np.ndarray:
    """Returns a view of the stored bytes; -1 in the shape stands for any length."""
    stored = _single(field.bytes_list.value)
    try:
        return np.frombuffer(stored, dtype).reshape(shape)
    except ValueError as error:
        raise ValueError(f"{len(stored)} bytes; expected {dtype} {list(shape)}") from error


def _single(values: Sequence) -> Any:
    """Returns the only element."""
    if len(values) != 1:
        raise ValueError(f"{len(values)} values; expected 1")
    return values[0]
