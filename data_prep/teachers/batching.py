# SPDX-License-Identifier: Apache-2.0
"""Batched inference: images and texts through a jitted function with a fixed batch size."""

import collections
import concurrent.futures
import io
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import jax
import numpy as np
import PIL.Image
import tqdm

from data_prep.teachers import batch_sizes

# Threads that decode and preprocess images; most of their work does not hold Python's lock.
MAX_THREADS = 16

# By default, a TPU multiplies float32 matrices in bfloat16.
_PRECISION = "highest"

# An opened image, or the bytes of an encoded one, which several threads decode.
Picture = PIL.Image.Image | bytes


class BatchedFunction:
    """Function that is compiled once, with its batch sharded over all devices of this host.

    Args:
      function: pure `function(variables, batch)` that treats rows independently.
      variables: pytree of weights, replicated on every device.
      batch_size: rows per call, rounded up to a multiple of the number of devices; None for 32 on
        CPUs, and elsewhere for what fits into the memory of the devices.
      row: name -> shape and dtype of the largest row of a batch.

    Where a call exhausts the memory of the devices, it is repeated with half as many rows, which
    later calls then have as well.
    """

    def __init__(
        self,
        function: Callable,
        variables,
        *,
        batch_size: int | None,
        row: Mapping[str, jax.ShapeDtypeStruct],
    ):
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        devices = jax.local_devices()
        mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
        self._rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._variables = jax.device_put(variables, replicated)
        self._function = jax.jit(function, out_shardings=self._rows)
        self._row, self._devices = row, len(devices)
        if batch_size is None and jax.default_backend() == "cpu":
            batch_size = batch_sizes.CPU
        self._batch_size = batch_size and -(-batch_size // len(devices)) * len(devices)
        self._lock = threading.Lock()

    @property
    def batch_size(self) -> int:
        """Rows per call; the first use may compile the function for several sizes."""
        if self._batch_size is None:
            free = batch_sizes.free_memory()
            if free is None:
                raise ValueError(
                    "the memory of the devices is unknown: pass --batch_size, such as "
                    f"--batch_size {batch_sizes.CPU * self._devices}"
                )
            self._batch_size = batch_sizes.choose(
                self.needed_memory, devices=self._devices, free=free
            )
            print(f"{self._batch_size} rows per call over {self._devices} devices", flush=True)
        return self._batch_size

    def needed_memory(self, rows: int) -> int:
        """Returns the bytes that a call needs on each device, beside the variables.

        Args:
          rows: rows of the call.
        """
        batch = {
            name: jax.ShapeDtypeStruct((rows, *each.shape), each.dtype, sharding=self._rows)
            for name, each in self._row.items()
        }
        with jax.default_matmul_precision(_PRECISION):
            compiled = self._function.lower(self._variables, batch).compile()
        memory = compiled.memory_analysis()
        variables = sum(leaf.nbytes for leaf in jax.tree.leaves(self._variables))
        # While one batch is computed, the next is copied and the last one's result is fetched.
        moved = memory.argument_size_in_bytes - variables + memory.output_size_in_bytes
        return memory.temp_size_in_bytes + 2 * moved

    def __call__(self, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[np.ndarray]:
        """Applies the function to each batch.

        Args:
          batches: dicts of arrays [rows, ...] with at most as many rows as `batch_size` once was.
            Batches of fewer than `batch_size` rows are padded with copies of their last row.

        Yields:
          float32 [rows, ...] for each batch, without the padding. Results lag one batch behind, so
          that the host prepares a batch while the devices compute.

        Raises:
          ValueError: calls of one row per device exhaust the memory of the devices.
        """
        pending: tuple[dict[str, np.ndarray], int, jax.Array | None] | None = None
        for batch in batches:
            size = self.batch_size
            started = batch, size, self._start(batch, size)
            if pending is not None:
                yield self._finish(*pending)
            pending = started
        if pending is not None:
            yield self._finish(*pending)

    def _start(self, batch: dict[str, np.ndarray], size: int) -> jax.Array | None:
        """Starts a call; returns None if it has too many rows, or exhausts the memory at once."""
        if _row_count(batch) > size:
            return None
        padded = {name: _pad_rows(array, size) for name, array in batch.items()}
        try:
            with jax.default_matmul_precision(_PRECISION):
                return self._function(self._variables, jax.device_put(padded, self._rows))
        except jax.errors.JaxRuntimeError as error:
            self._halve(size, error)
            return None

    def _finish(
        self, batch: dict[str, np.ndarray], size: int, result: jax.Array | None
    ) -> np.ndarray:
        """Returns the result of a call; repeats the call in parts if it has none."""
        if result is not None:
            try:
                return _to_host(result, _row_count(batch))
            except jax.errors.JaxRuntimeError as error:
                self._halve(size, error)
        size = self.batch_size
        parts = [
            self._finish(part, size, self._start(part, size))
            for part in row_batches(batch, batch_size=size)
        ]
        return np.concatenate(parts)

    def _halve(self, size: int, error: jax.errors.JaxRuntimeError) -> None:
        """Halves `batch_size` after a call of `size` rows failed, unless another thread has."""
        if not batch_sizes.is_exhausted(error):
            raise error
        if size == self._devices:
            raise ValueError(
                f"a call of {size} rows over {self._devices} devices exhausts their memory; end "
                "other processes on them, or use a smaller teacher"
            ) from error
        with self._lock:
            if self._batch_size == size:
                self._batch_size = -(-size // (2 * self._devices)) * self._devices
                print(
                    f"note: {size} rows per call exhausted the memory of the devices; calls have "
                    f"{self._batch_size} from now on",
                    flush=True,
                )


def row_batches(arrays: dict[str, np.ndarray], *, batch_size: int) -> Iterator[dict]:
    """Splits arrays with equal numbers of rows into consecutive batches.

    Args:
      arrays: name -> [rows, ...].
      batch_size: rows of all batches except the last.

    Yields:
      Dicts with the same names.
    """
    for start in range(0, len(next(iter(arrays.values()))), batch_size):
        yield {name: array[start : start + batch_size] for name, array in arrays.items()}


def stack_batches(arrays: Iterable[np.ndarray], *, batch_size: int) -> Iterator[np.ndarray]:
    """Stacks arrays of equal shape into batches.

    Args:
      arrays: arrays of the same shape.
      batch_size: rows of all batches except the last.

    Yields:
      [rows, ...].
    """
    rows = []
    for array in arrays:
        rows.append(array)
        if len(rows) == batch_size:
            yield np.stack(rows)
            rows = []
    if rows:
        yield np.stack(rows)


def prepare_pictures(
    pictures: Sequence[Picture],
    *,
    prepare: Callable[[PIL.Image.Image], np.ndarray],
    progress: bool = False,
) -> Iterator[np.ndarray]:
    """Decodes and preprocesses images in order, with several threads that prefetch.

    Args:
      pictures: opened images or encoded bytes.
      prepare: function from an RGB image to an array; called by several threads.
      progress: whether to show a progress bar.

    Yields:
      The result of `prepare` for each image.

    Raises:
      ValueError: an image cannot be decoded.
    """
    workers = min(MAX_THREADS, os.cpu_count() or 1)
    positions = iter(range(len(pictures)))
    pending: collections.deque = collections.deque()

    def prepare_one(position: int, picture: Picture) -> np.ndarray:
        return prepare(_to_rgb(picture, position))

    def submit(pool: concurrent.futures.Executor) -> None:
        position = next(positions, None)
        if position is not None:
            picture = pictures[position]
            if isinstance(picture, PIL.Image.Image):
                # Decoding modifies the object, which may occur in the list twice.
                picture.load()
            pending.append(pool.submit(prepare_one, position, picture))

    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        tqdm.tqdm(total=len(pictures), desc="pictures", disable=not progress) as bar,
    ):
        for _ in range(8 * workers):
            submit(pool)
        while pending:
            array = pending.popleft().result()
            submit(pool)
            bar.update()
            yield array


def _to_rgb(picture: Picture, position: int) -> PIL.Image.Image:
    try:
        image = PIL.Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
        image.load()
    except (OSError, SyntaxError) as error:
        raise ValueError(f"picture {position} cannot be decoded: {error}") from error
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PIL.Image.new("RGBA", image.size, "white")
        image = PIL.Image.alpha_composite(white, image)
    return image.convert("RGB")


def _row_count(batch: Mapping[str, np.ndarray]) -> int:
    return len(next(iter(batch.values())))


def _pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _to_host(result: jax.Array, rows: int) -> np.ndarray:
    return np.asarray(result, np.float32)[:rows]
