# SPDX-License-Identifier: Apache-2.0
"""Rows per call by memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.teachers import batch_sizes, batching


def test_candidates_split_a_shard_into_equal_calls():
    assert batch_sizes.candidates(1) == [416, 208, 104, 52, 26, 13, 7, 4, 2, 1]
    # Multiples of the devices, rounded up.
    assert batch_sizes.candidates(8) == [416, 208, 104, 56, 32, 16, 8]


def test_the_largest_call_that_fits_is_chosen():
    asked = []

    def needed(rows):
        asked.append(rows)
        return 1000 * rows

    # 80% of 200,000 are 160,000, which hold 104 rows but not 208.
    assert batch_sizes.choose(needed, devices=8, free=200_000) == 104
    assert asked == [416, 208, 104]


def test_exhausted_memory_leads_to_the_next_size():
    def needed(rows):
        if rows > 52:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return 1

    assert batch_sizes.choose(needed, devices=1, free=10) == 52


def test_other_errors_of_the_compiler_are_raised():
    def needed(rows):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        batch_sizes.choose(needed, devices=1, free=10)


def test_a_teacher_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match=r"^8 pictures .* over 8 devices need 80 bytes"):
        batch_sizes.choose(lambda rows: 10 * rows, devices=8, free=50)


def function(batch_size, width=1000):
    def apply(variables, batch):
        hidden = jnp.tanh(batch["x"] @ variables)  # [rows, width] of temporary memory
        return jnp.tanh(hidden @ variables.T)

    row = {"x": jax.ShapeDtypeStruct((4,), np.float32)}
    variables = np.ones((4, width), np.float32)
    return batching.BatchedFunction(apply, variables, batch_size=batch_size, row=row)


def test_memory_grows_with_the_rows_and_contains_temporary_arrays(monkeypatch):
    devices = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    small, large = (function(8).needed_memory(rows) for rows in (8, 64))
    assert large >= 64 * 1000 * 4
    assert 4 * small < large < 10 * small


def test_cpus_take_32_rows_and_accelerators_what_fits(monkeypatch):
    count = jax.local_device_count()
    assert function(None).batch_size == -(-32 // count) * count
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(batch_sizes, "free_memory", lambda: 1 << 40)
    assert function(None).batch_size == 416
    monkeypatch.setattr(batch_sizes, "free_memory", lambda: None)
    with pytest.raises(ValueError, match="memory of the devices is unknown: pass --batch_size"):
        function(None).batch_size  # noqa: B018
    assert function(16).batch_size == 16


class Exhausted:
    """Result whose memory is exhausted when it is fetched, as calls are asynchronous."""

    def __array__(self, dtype=None, copy=None):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")


@pytest.mark.parametrize("when", ["called", "fetched"])
def test_calls_that_exhaust_the_memory_are_repeated_in_halves(monkeypatch, capsys, when):
    devices = jax.local_devices()[:2]
    monkeypatch.setattr(jax, "local_devices", lambda: devices)
    batched, sizes = function(16, width=3), []
    compute = batched._function

    def limited(variables, batch):
        sizes.append(len(batch["x"]))
        if sizes[-1] <= 6:
            return compute(variables, batch)
        if when == "fetched":
            return Exhausted()
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    batched._function = limited
    x = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    found = list(batched({"x": x[start : start + 16]} for start in (0, 16, 32)))
    assert [len(rows) for rows in found] == [16, 16, 8]
    wanted = np.tanh(np.tanh(x @ np.ones((4, 3))) @ np.ones((3, 4)))
    np.testing.assert_allclose(np.concatenate(found), wanted, rtol=1e-5, atol=1e-6)
    assert batched.batch_size == 4 and set(sizes) == {16, 8, 4}
    printed = capsys.readouterr().out
    assert "note: 16 rows per call exhausted the memory of the devices; calls have 8" in printed
    assert "calls have 4 from now on" in printed


def test_calls_of_one_row_per_device_that_exhaust_the_memory_are_an_error(monkeypatch):
    batched = function(None)

    def exhausted(variables, batch):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    batched._function = exhausted
    with pytest.raises(ValueError, match=r"a call of (\d+) rows over \1 devices exhausts"):
        list(batched([{"x": np.ones((9, 4), np.float32)}]))


def test_other_errors_of_the_runtime_are_raised():
    batched = function(None)

    def broken(variables, batch):
        raise jax.errors.JaxRuntimeError("INTERNAL: no")

    batched._function = broken
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        list(batched([{"x": np.ones((9, 4), np.float32)}]))


def test_free_memory_is_that_of_the_fullest_device(monkeypatch):
    class Device:
        def __init__(self, used):
            self.used = used

        def memory_stats(self):
            return {"bytes_limit": 100, "bytes_in_use": self.used}

    monkeypatch.setattr(jax, "local_devices", lambda: [Device(30), Device(70), Device(10)])
    assert batch_sizes.free_memory() == 30
