# SPDX-License-Identifier: Apache-2.0
"""Pickled `.npy` files load as arrays and plain values, and their code is never run."""

import builtins
import functools
import io
import os
import pickle
import pickletools

import numpy as np
import pytest

from data_prep.foreign import safe_pickle


def write(path, payload: bytes, *, shape=()):
    """Writes a .npy file of objects, in numpy's format, around any pickle."""
    buffer = io.BytesIO()
    header = {"descr": "|O", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, header)
    path.write_bytes(buffer.getvalue() + payload)
    return path


def shape_file():
    """Returns a dict like that of a released shape, with every kind of value."""
    rng = np.random.default_rng(0)
    return {
        "id": "abc",
        "xyz": rng.normal(size=(10, 3)),
        "rgb": rng.random((10, 3)).astype(np.float32),
        "half": rng.random((2, 3, 4)).astype(np.float16),
        "turned": np.asfortranarray(rng.integers(0, 9, (3, 4))),
        "big endian": np.arange(4, dtype=">i2"),
        "flags": np.array([True, False]),
        "words": np.array(["a", "\u00fcber"]),
        "empty": np.zeros((0, 5), np.float32),
        "text": ["one", "two"],
        "feat": [{"original": rng.random(3), "prompt_avg": rng.random((1, 3))}],
        "numbers": (1, 2.5, None, True, -(2**80), b"\x00\xff"),
        "scalars": [np.float32(0.1), np.int64(-3), np.bool_(True), np.str_("t")],
        "set": {1, 2},
    }


def assert_equal(got, want):
    if isinstance(want, np.ndarray):
        assert isinstance(got, np.ndarray) and got.dtype == want.dtype
        np.testing.assert_array_equal(got, want)
    elif isinstance(want, dict):
        assert list(got) == list(want)
        for key in want:
            assert_equal(got[key], want[key])
    elif isinstance(want, list | tuple):
        assert type(got) is type(want) and len(got) == len(want)
        for one, other in zip(got, want, strict=True):
            assert_equal(one, other)
    else:
        assert got == want


def test_saved_dict_loads_unchanged(tmp_path):
    np.save(tmp_path / "a.npy", shape_file())
    assert_equal(safe_pickle.load(tmp_path / "a.npy"), shape_file())


@pytest.mark.parametrize("protocol", [2, 3, 4])
@pytest.mark.parametrize("package", ["numpy.core", "numpy._core"])
def test_old_protocols_and_module_names_of_numpy_1_and_2_are_read(tmp_path, protocol, package):
    # Sets and empty bytes were calls of builtins then; no published file has them.
    want = shape_file() | {"empty": 0, "set": 0}
    wrapped = np.array(want, dtype=object)
    data = pickle.dumps(wrapped, protocol)
    if protocol < 4:  # names are lines of text there
        data = data.replace(b"numpy._core.", package.encode() + b".")
        assert (package + ".multiarray").encode() in data
    got = safe_pickle.load(write(tmp_path / "a.npy", data))
    assert_equal(got, want)


def test_module_names_of_numpy_1_are_read_in_protocol_4(tmp_path):
    data = pickle.dumps(np.array({"a": np.arange(3)}, dtype=object), 4)
    long, short = b"numpy._core.multiarray", b"numpy.core.multiarray"
    data = data.replace(bytes([len(long)]) + long, bytes([len(short)]) + short)
    # The frame is shorter now.
    frame = data.index(b"\x95")
    data = data[: frame + 1] + (len(data) - frame - 9).to_bytes(8, "little") + data[frame + 9 :]
    assert short in data and long not in data
    assert_equal(safe_pickle.load(write(tmp_path / "a.npy", data)), {"a": np.arange(3)})


def test_array_of_dicts_loads_as_a_list(tmp_path):
    clouds = [{"xyz": np.arange(6.0).reshape(2, 3)}, {"xyz": np.zeros((1, 3))}]
    np.save(tmp_path / "a.npy", np.array(clouds, dtype=object))
    assert_equal(safe_pickle.load(tmp_path / "a.npy"), clouds)


def test_plain_array_loads_without_a_pickle(tmp_path):
    values = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    np.save(tmp_path / "a.npy", values)
    assert_equal(safe_pickle.load(tmp_path / "a.npy"), values)


class Calls:
    """Object that pickles into a call of any function."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def create_file(path):
    open(path, "w").close()  # noqa: SIM115


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda target: Calls(os.system, f"touch {target}"), "posix.system"),
        (lambda target: Calls(builtins.eval, f"open({target!r}, 'w')"), "builtins.eval"),
        (lambda target: Calls(builtins.exec, f"open({target!r}, 'w')"), "builtins.exec"),
        # "io" until Python 3.12, "_io" since.
        (lambda target: Calls(builtins.open, target, "w"), f"{builtins.open.__module__}.open"),
        (lambda target: Calls(builtins.getattr, "", "join"), "builtins.getattr"),
        (lambda target: Calls(create_file, target), "test_safe_pickle.create_file"),
        (lambda target: functools.partial(create_file, target), "functools.partial"),
        (lambda target: Calls(np.load, target), "numpy.load"),
        (lambda target: Calls(np.save, target, 1), "numpy.save"),
        (lambda target: Calls(np.memmap, target, "f4", "w+", 0, (4,)), "numpy.memmap"),
        (lambda target: Calls(np.fromfile, target), "numpy.fromfile"),
        (lambda target: np.ma.masked_array([1, 2]), "numpy.ma"),
        (lambda target: np.random.default_rng(0), "numpy.random"),
        (lambda target: Calls(bytearray, 3), "builtins.bytearray"),
        (lambda target: Calls(__import__, "antigravity"), "builtins.__import__"),
    ],
)
@pytest.mark.parametrize("where", ["alone", "in a dict", "in an array"])
def test_pickle_that_would_run_code_is_rejected_before_it_runs(tmp_path, make, name, where):
    target = str(tmp_path / "target")
    payload = make(target)
    payload = {"alone": payload, "in a dict": {"xyz": [np.zeros(3), payload]}}.get(where, payload)
    path = tmp_path / "evil.npy"
    if where == "in an array":
        wrapped = np.empty(2, dtype=object)
        wrapped[0] = payload
        np.save(path, wrapped)
    else:
        write(path, pickle.dumps(payload))
    with pytest.raises(safe_pickle.UnsafePickleError, match=f"evil.npy: refused.* {name}"):
        safe_pickle.load(path)
    assert not os.path.exists(target)


def test_numpy_runs_the_code_of_the_same_file(tmp_path):
    target = tmp_path / "target"
    path = write(tmp_path / "evil.npy", pickle.dumps(Calls(os.system, f"touch {target}")))
    np.load(path, allow_pickle=True)
    assert target.exists()  # so the attack works, and the test above checks that it is rejected


RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\n"
EMPTY = RECONSTRUCT + b"(cnumpy\nndarray\n(I0\ntC\x01btR"
OBJECT = b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8I00\nI01\ntR"
HIDDEN = OBJECT + b"(I3\nX\x01\x00\x00\x00|NNNI-1\nI-1\nI0\ntb"  # flags say: holds no objects
ADDRESS = b"C\x08AAAAAAAA"


@pytest.mark.parametrize(
    ("program", "message"),
    [
        # numpy would take eight bytes of the file for the address of an object.
        (EMPTY + b"(I1\n(I1\nt" + HIDDEN + b"I00\n" + ADDRESS + b"tb.", "array of objects"),
        (b"cnumpy._core.multiarray\nscalar\n(" + OBJECT + ADDRESS + b"tR.", "object type"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00V8I00\nI01\ntR.", "numbers of type 'V8'"),
        (b"cnumpy\ndtype\n(X\x02\x00\x00\x00M8I00\nI01\ntR.", "numbers of type 'M8'"),
        (b"cnumpy\ndtype\n.", "value of type _MakeDtype"),
        (EMPTY + b".", "array without content"),
        (RECONSTRUCT + b"(NI0\nNtR.", "array of kind None"),
        (b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x05\x00\x00\x00rot13tR.", "encoding 'rot13'"),
        (b"(lp0\ng0\na.", "contains itself"),
        # Attributes set on a function would outlive the file.
        (RECONSTRUCT + b"N}X\x01\x00\x00\x00aI1\ns\x86b.", "not a valid .npy file"),
        (b"(X\x01\x00\x00\x00aX\x01\x00\x00\x00bd.trailing", None),
        (b"(" * 5 + b".", "not a valid .npy file"),
        (b"P0\n.", "not a valid .npy file"),
        (b"\x82\x01.", "not a valid .npy file"),
        (b"]" + b"]" * 100_000 + b"a" * 100_000 + b".", "nested too deep"),
    ],
)
def test_misuse_of_the_allowed_names_is_rejected(tmp_path, program, message):
    path = write(tmp_path / "odd.npy", program)
    if message is None:
        assert safe_pickle.load(path) == {"a": "b"}
        return
    with pytest.raises(safe_pickle.UnsafePickleError, match=f"odd.npy: .*{message}"):
        safe_pickle.load(path)


def test_exponentially_repeated_list_loads_quickly(tmp_path):
    inner = []
    for _ in range(100):
        inner = [inner] * 10
    payload = pickle.dumps(inner)
    assert len(pickletools.optimize(payload)) < 10_000
    got = safe_pickle.load(write(tmp_path / "a.npy", payload))
    assert len(got) == 10 and got[0] is got[9]


def test_array_longer_than_its_bytes_is_rejected(tmp_path):
    data = pickle.dumps(np.array({"a": np.arange(4, dtype=np.int8)}, dtype=object), 2)
    longer = data.replace(b"K\x04\x85", b"K\x05\x85")
    assert longer != data
    with pytest.raises(safe_pickle.UnsafePickleError, match="a.npy: not a valid"):
        safe_pickle.load(write(tmp_path / "a.npy", longer))


@pytest.mark.parametrize("keep", [3, 60, 130, 300])
def test_truncated_file_is_named(tmp_path, keep):
    np.save(tmp_path / "a.npy", shape_file())
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:keep])
    with pytest.raises(safe_pickle.UnsafePickleError, match="a.npy: not a valid .npy file"):
        safe_pickle.load(tmp_path / "a.npy")


def test_object_array_of_two_axes_is_rejected(tmp_path):
    np.save(tmp_path / "a.npy", np.array([[{}, {}]], dtype=object))
    with pytest.raises(safe_pickle.UnsafePickleError, match="array of objects of shape .1, 2."):
        safe_pickle.load(tmp_path / "a.npy")


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(2, "c8"),
        np.zeros(2, "c16"),
        np.zeros(2, "M8[s]"),
        np.zeros(2, "m8[s]"),
        np.zeros(2, [("x", "f4"), ("y", "i2")]),
        np.zeros(2, "V4"),
        np.zeros(2, np.longdouble),
    ],
    ids=lambda array: str(array.dtype),
)
def test_array_of_other_than_numbers_and_text_is_rejected_without_a_pickle(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(safe_pickle.UnsafePickleError, match=r"a\.npy: refused: numbers of type"):
        safe_pickle.load(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", ["b1", "u1", "<i8", ">i8", "f2", ">f4", "f8", "U3", "S3"])
def test_array_of_numbers_and_text_keeps_its_type(tmp_path, dtype):
    array = np.ones((2, 3)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    found = safe_pickle.load(tmp_path / "a.npy")
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
