# SPDX-License-Identifier: Apache-2.0
"""Pickles of PyTorch are read tensor by tensor without PyTorch, and nothing in them is called."""

import pathlib
import pickle
import zipfile

import ml_dtypes
import numpy as np
import open_clip_small
import pytest
import safetensors.numpy

from data_prep.teachers.open_clip import tensors

RELEASED = open_clip_small.FIXTURES / "open_clip_weights.bin"


def rewritten(folder, *, drop=(), compression=zipfile.ZIP_STORED, **members):
    """Writes a copy of the fixture with other members, by their name without dots."""
    path = folder / "weights.bin"
    with zipfile.ZipFile(RELEASED) as source, zipfile.ZipFile(path, "w", compression) as target:
        for name in source.namelist():
            last = name.partition("/")[2]
            if last not in drop:
                content = members.pop(last.replace(".", "_"), None)
                target.writestr(name, source.read(name) if content is None else content)
        for name, content in members.items():
            target.writestr(f"archive/{name.replace('_', '.')}", content)
    return path


def test_a_checkpoint_that_torch_has_written_is_read_without_torch():
    file = tensors.open_file(RELEASED)
    rising = np.arange(24, dtype=np.float32)
    want = {
        "float": rising.reshape(4, 6),
        "transposed": rising.reshape(4, 6).T,
        "half": (rising[:5] / 8).astype(np.float16),
        "bfloat16": (rising[1:7] / 3).astype(ml_dtypes.bfloat16),
        "scalar": np.float32(2.5),
        "integers": np.arange(3),
    }
    assert file.shapes == {key: value.shape for key, value in want.items()}
    for key, value in want.items():
        got = file.read(key)
        np.testing.assert_array_equal(got, value)
        assert got.dtype == value.dtype


def test_arrays_of_a_pickle_are_mapped_and_not_read_at_once(tmp_path):
    file = tensors.open_file(rewritten(tmp_path))
    before = file.read("half")
    content = bytearray(file.path.read_bytes())
    offset = content.index(np.arange(24, dtype=np.float32).tobytes())
    content[offset : offset + 4] = np.float32(99).tobytes()
    file.path.write_bytes(content)
    assert file.read("float")[0, 0] == 99
    np.testing.assert_array_equal(file.read("half"), before)


class Attack:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("was_called"),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_pkl": pickle.dumps(Attack())}, "the name pathlib"),
        ({"data_pkl": pickle.dumps({"epoch": 3})}, "entries that are not tensors: epoch"),
        ({"data_pkl": pickle.dumps([1])}, "list, not a state dict"),
        ({"data_pkl": b"\x80\x02}"}, "found"),
        ({"drop": ("data.pkl",)}, "an archive without data.pkl"),
        ({"drop": ("data/0",)}, "no uncompressed storage 0"),
        ({"compression": zipfile.ZIP_DEFLATED}, "no uncompressed storage"),
        ({"byteorder": b"big"}, "a big-endian writer"),
        ({"constants_pkl": b""}, "a TorchScript archive"),
        ({"data/0": b"123"}, "data/0 has 3 bytes"),
    ],
)
def test_a_corrupt_or_dangerous_pickle_is_an_error(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    path = rewritten(tmp_path, **changes)
    with pytest.raises(ValueError, match=f"(?s)weights.bin: expected a state dict.*{message}"):
        tensors.open_file(path)
    assert not (tmp_path / "was_called").exists()


def test_a_truncated_file_is_an_error(tmp_path):
    path = tmp_path / "weights.bin"
    path.write_bytes(RELEASED.read_bytes()[:-100])
    with pytest.raises(ValueError, match="weights.bin: expected a state dict"):
        tensors.open_file(path)
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file({"a": np.zeros(100)}, path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        tensors.open_file(path)
