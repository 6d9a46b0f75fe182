# SPDX-License-Identifier: Apache-2.0
"""Reading checkpoint files: no pickled code is executed, and only pickles need PyTorch."""

import os
import pickle
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from mrd_jax.checkpoints import fingerprinting
from mrd_jax.convert import files

STATE = {
    "a.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.arange(3).astype(ml_dtypes.bfloat16),
    "c": np.array(7),
}


def assert_same(got, want=STATE):
    assert list(got) == list(want)
    for key, value in want.items():
        np.testing.assert_array_equal(got[key], value)
        assert got[key].dtype == value.dtype


@pytest.mark.parametrize("wrapper", ["", "module."])
def test_safetensors_are_read_without_the_prefix_of_the_wrapper(tmp_path, wrapper):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file({wrapper + key: value for key, value in STATE.items()}, path)
    got = files.read(path, source="uni3d")
    assert_same({key: got[key] for key in STATE})
    assert len(got) == len(STATE)


@pytest.mark.parametrize("name", ["x.safetensors", "x.pt", "x.txt"])
def test_a_missing_file_is_an_error_with_its_name(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=name):
        files.read(tmp_path / name, source="uni3d")


def test_a_truncated_file_and_an_unsupported_type_are_errors_with_the_name(tmp_path):
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="x.safetensors: not a complete safetensors file"):
        files.read(path, source="uni3d")
    (tmp_path / "x.onnx").write_bytes(b"")
    with pytest.raises(ValueError, match=r"x.onnx: expected .safetensors, .pt"):
        files.read(tmp_path / "x.onnx", source="uni3d")


def test_a_pickle_without_pytorch_is_an_error_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "x.pt").write_bytes(b"")
    with pytest.raises(ImportError, match=r'mrd_jax\[convert\]".*safetensors'):
        files.read(tmp_path / "x.pt", source="uni3d")


def test_sha256_of_a_file_is_that_of_its_bytes(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert fingerprinting.file_checksum(tmp_path / "x") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason='pickles need pip install "mrd_jax[convert]"')


def tensors(torch):
    state = {key: torch.from_numpy(np.array(STATE[key])) for key in ("a.weight", "c")}
    state["b"] = torch.arange(3).to(torch.bfloat16)
    return {key: state[key] for key in STATE}


@pytest.mark.parametrize(
    ("source", "wrap"),
    [
        ("openshape", lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 1.0}}),
        ("uni3d", lambda state: {"module": {f"module.{k}": v for k, v in state.items()}}),
        ("uni3d", lambda state: state),
    ],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_in_the_released_layouts_are_read(tmp_path, torch, source, wrap, zipped):
    path = tmp_path / "x.pt"
    torch.save(wrap(tensors(torch)), path, _use_new_zipfile_serialization=zipped)
    assert_same(files.read(path, source=source))


def test_views_and_parameters_in_a_pickle_keep_their_values(tmp_path, torch):
    base = torch.arange(12.0).reshape(3, 4)
    state = {"v": base.T[1:], "p": torch.nn.Parameter(base)}
    torch.save({"module": state}, tmp_path / "x.pt")
    want = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert_same(files.read(tmp_path / "x.pt", source="uni3d"), {"v": want.T[1:], "p": want})


class _Attack:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


def test_a_pickle_that_calls_a_function_is_rejected_and_not_executed(tmp_path, torch):
    target = tmp_path / "attacked"
    torch.save({"module": {"a": _Attack(str(target))}}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="x.pt: not a checkpoint of plain tensors"):
        files.read(tmp_path / "x.pt", source="uni3d")
    assert not target.exists()


@pytest.mark.parametrize("content", [{"model": 3}, [1, 2]])
def test_a_pickle_without_a_state_dict_is_an_error_with_its_content(tmp_path, torch, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="expected a state dict under 'state_dict', found"):
        files.read(tmp_path / "x.pt", source="openshape")


def test_corrupt_pickles_are_errors_with_the_name(tmp_path, torch):
    path = tmp_path / "x.pt"
    path.write_bytes(pickle.dumps({"a": 1}, protocol=2)[:-3])
    with pytest.raises(ValueError, match="x.pt: not a checkpoint"):
        files.read(path, source="openshape")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", b"")
    with pytest.raises(ValueError, match="x.pt: not a checkpoint"):
        files.read(path, source="openshape")
