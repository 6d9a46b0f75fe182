# SPDX-License-Identifier: Apache-2.0
"""Feed any number of pictures or texts to a jitted function in batches of one fixed size."""

import collections
import concurrent.futures
import io
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
import PIL.Image
import tqdm

# An opened picture, or the bytes of an encoded one, which are decoded on several threads.
Picture = PIL.Image.Image | bytes


class BatchedFunction:
    """A function compiled once, with its rows split over all devices of this host.

    Args:
      function: `function(variables, batch)`; pure, rows independent of each other.
      variables: tree of weights, copied to every device.
      batch_size: rows a call; rounded up to a multiple of the number of devices.
    """

    def __init__(self, function: Callable, variables, *, batch_size: int):
        if batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}, expected at least 1")
        devices = jax.local_devices()
        mesh = jax.sharding.Mesh(np.array(devices), ("batch",))
        self._rows = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
        replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        self._variables = jax.device_put(variables, replicated)
        self._function = jax.jit(function, out_shardings=self._rows)
        self.batch_size = -(-batch_size // len(devices)) * len(devices)

    def __call__(self, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[np.ndarray]:
        """Apply the function to each batch.

        Args:
          batches: dicts of arrays [rows, ...] with at most `batch_size` rows; a short batch is
            filled up with copies of its last row, which are cut off again.

        Yields:
          float32 [rows, ...] for each batch, one batch behind, so that the host prepares the
          next while the devices work.
        """
        waiting = None
        for batch in batches:
            rows = len(next(iter(batch.values())))
            padded = {name: _pad_rows(array, self.batch_size) for name, array in batch.items()}
            # A TPU multiplies float32 in one bfloat16 pass unless told otherwise.
            with jax.default_matmul_precision("highest"):
                result = self._function(self._variables, jax.device_put(padded, self._rows))
            if waiting is not None:
                yield _to_host(*waiting)
            waiting = (result, rows)
        if waiting is not None:
            yield _to_host(*waiting)


def row_batches(arrays: dict[str, np.ndarray], *, batch_size: int) -> Iterator[dict]:
    """Cut arrays with equal numbers of rows into consecutive batches.

    Args:
      arrays: name -> [rows, ...].
      batch_size: rows of every batch but the last.

    Yields:
      Dicts with the same names.
    """
    for start in range(0, len(next(iter(arrays.values()))), batch_size):
        yield {name: array[start : start + batch_size] for name, array in arrays.items()}


def stack_batches(arrays: Iterable[np.ndarray], *, batch_size: int) -> Iterator[np.ndarray]:
    """Stack single rows into batches as they arrive.

    Args:
      arrays: rows of one shape.
      batch_size: rows of every batch but the last.

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
    """Decode and preprocess pictures on threads, in order, some way ahead of the reader.

    Args:
      pictures: opened pictures or encoded bytes.
      prepare: RGB picture -> array; called on several threads at once.
      progress: show a bar.

    Yields:
      What `prepare` returned, one for each picture.

    Raises:
      ValueError: a picture cannot be decoded; names its position.
    """
    workers = min(16, os.cpu_count() or 1)
    positions = iter(range(len(pictures)))
    pending: collections.deque = collections.deque()

    def prepare_one(position: int, picture: Picture) -> np.ndarray:
        return prepare(_to_rgb(picture, position))

    def submit(pool: concurrent.futures.Executor) -> None:
        position = next(positions, None)
        if position is not None:
            picture = pictures[position]
            if isinstance(picture, PIL.Image.Image):
                # Lazy decoding changes the object, which may be in the list twice.
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


def _pad_rows(array: np.ndarray, rows: int) -> np.ndarray:
    missing = rows - len(array)
    return np.concatenate([array, np.repeat(array[-1:], missing, axis=0)]) if missing else array


def _to_host(result: jax.Array, rows: int) -> np.ndarray:
    return np.asarray(result, np.float32)[:rows]
