# SPDX-License-Identifier: Apache-2.0
"""Short fuzzing of every reader of untrusted files, and tests that the fuzzer detects faults.

`python -m benchmarks.fuzz` runs longer.
"""

import importlib.util
import os
import pathlib
import signal

import numpy as np
import pytest

from benchmarks.fuzz import __main__ as command
from benchmarks.fuzz import mutations, readers, valid, worker
from data_prep.geometry import formats

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize("name", readers.READERS)
def test_valid_file_is_accepted(tmp_path, name):
    """Otherwise its mutations would be rejected for another reason."""
    reader = readers.READERS[name]
    for file in reader.valid():
        path = tmp_path / f"file.{reader.suffix}"
        path.write_bytes(file.pack(file.part))
        reader.read(path)


def test_every_reader_of_meshes_and_clouds_whose_packages_are_installed_is_fuzzed():
    installed = {
        kind.reader
        for kind in formats.FORMATS.values()
        if all(importlib.util.find_spec(name) for name in kind.packages)
    }
    fuzzed = readers.READERS.keys() & formats.FORMATS.keys()
    assert {formats.FORMATS[name].reader for name in fuzzed} == installed


def test_readers_raise_only_documented_exceptions():
    seed = np.random.SeedSequence().entropy % 2**32
    print("seed", seed)
    for result in command.fuzz([*readers.READERS], inputs=100, seed=seed):
        print(result)
        assert not result.faults, f"seed {seed}, {result.name}: {result.faults}"
        assert result.refused + result.accepted == command.inputs_of(result.name, 100)


def test_inputs_depend_on_the_seed_and_differ_from_valid_files():
    first, repeated, other = (
        [worker.make_input("ply", seed=seed, index=index) for index in range(20)]
        for seed in (1, 1, 2)
    )
    valid_files = {file.part for file in readers.READERS["ply"].valid()}
    assert first == repeated != other
    assert len(set(first) - valid_files) > 15


def test_every_mutation_changes_the_file():
    data, rng = valid.OBJ.encode(), np.random.default_rng(0)
    for mutation in set(mutations._MUTATIONS):
        assert any(mutation(data, [valid.MTL.encode()], rng) != data for _ in range(20)), mutation


# Worker with one reader, whose inputs are their own index. Imports nothing large.
FAULTY = """
import os, sys, time, types

class Reader(types.SimpleNamespace):
    suffix, refusals, share = "", (ValueError,), 1

    def valid(self):
        return [types.SimpleNamespace(part=b"", pack=bytes)]

    def read(self, path):
        number = path.read_bytes()[0]
        if number == 3:
            raise KeyError("unexpected")
        if number == 5:
            os.abort()
        if number == 7:
            time.sleep(60)
        if number == 9:
            bytearray(8 * 2**30)
        if number % 2:
            raise ValueError("unreadable PLY file" if number == 1 else "documented")

stub = types.ModuleType("benchmarks.fuzz.readers")
stub.READERS = {"faulty": Reader()}
sys.modules[stub.__name__] = stub
import benchmarks.fuzz
benchmarks.fuzz.readers = stub
from benchmarks.fuzz import mutations, worker

mutations.mutate = lambda data, **_: open(sys.argv[2], "rb").read()[:1]
worker.SECONDS = 0.3
worker.main()
"""


def test_unexpected_exception_abort_hang_and_memory_excess_are_reported(tmp_path, monkeypatch):
    (tmp_path / "faulty_worker.py").write_text(FAULTY)
    monkeypatch.setattr(worker, "__name__", "faulty_worker")
    monkeypatch.setattr(worker, "SECONDS", 0.3)
    monkeypatch.setitem(readers.READERS, "faulty", readers.Reader(list, print, ()))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))
    (result,) = command.fuzz(["faulty"], inputs=14, seed=0)
    found = dict(result.faults)
    assert found.keys() == {3, 5, 7, 9}
    assert found[3].startswith("KeyError: 'unexpected' at ")
    assert found[5] == f"ended the process with status {-signal.SIGABRT}"
    assert found[7] == "took more than 0.3 s"
    assert found[9].startswith("MemoryError")
    assert (result.refused, result.accepted, result.unnamed) == (3, 7, 1)


def test_command_keeps_the_inputs_with_faults(tmp_path, monkeypatch, capsys):
    result = command.Result("card", refused=3, faults=[(4, "KeyError: 'x' at a.py:1")])
    monkeypatch.setattr(command, "fuzz", lambda names, **options: iter([result]))
    assert command.main(["card", "--seed", "7", "--keep", str(tmp_path)]) == 1
    kept = (tmp_path / "card-7-4").read_bytes()
    assert kept == worker.make_input("card", seed=7, index=4) != readers._valid_card()[0].part
    out = capsys.readouterr().out
    assert "seed 7" in out and "4 inputs" in out and "1 faults" in out and "KeyError: 'x'" in out
    with pytest.raises(SystemExit):
        command.main(["cards"])
