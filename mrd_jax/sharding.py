# SPDX-License-Identifier: Apache-2.0
"""All that knows about devices: the data axis, the two runners, placing state and batches.

A *body* is a pure per-device function; what it gathers or sums over goes by `AXIS`. A runner turns
a body into a function of the replicated state and the global batch. Both runners share one
convention for gradients: a body differentiates this device's share of the loss and sums the
gradients itself. Hence `check_vma=False`: with it left on, shard_map would hand out gradients of
replicated parameters that are already summed, and they would count once per device too often.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrd_jax.data import batch as batches

AXIS = "data"

Batch = Mapping[str, Any]


class Runner(Protocol):
    """How a per-device body becomes a function of the global batch."""

    def place_state(self, state: Any) -> Any:
        """Puts a host copy of the state on every device."""

    def place_batch(self, batch: Batch) -> Batch:
        """Splits this process's rows over its devices; arrays `[local rows, ...]`."""

    def train(self, body: Callable) -> Callable:
        """Compiles `body(state, batch) -> (state, metrics)`, both replicated; donates the state."""

    def embed(self, body: Callable) -> Callable:
        """Compiles `body(variables, batch) -> rows`, rows split over the devices."""

    def gather(self, rows: jax.Array) -> np.ndarray:
        """Brings an `embed` result to every host, in the order of the global batch."""


@dataclasses.dataclass(frozen=True)
class PmapRunner:
    """`jax.pmap` over all devices; the state never carries a device dimension."""

    devices: Sequence[jax.Device]

    def place_state(self, state: Any) -> Any:
        """See `Runner.place_state`."""
        # A fresh copy: the step donates its state, and the caller's arrays must survive that.
        return jax.device_put(
            jax.tree.map(np.array, state),
            NamedSharding(Mesh(self._local_devices(), (AXIS,)), PartitionSpec()),
        )

    def place_batch(self, batch: Batch) -> Batch:
        """See `Runner.place_batch`; adds the leading device dimension that pmap asks for."""
        count = len(self._local_devices())
        sharding = NamedSharding(Mesh(self._local_devices(), (AXIS,)), PartitionSpec(AXIS))
        return jax.device_put(
            {name: x.reshape(count, -1, *x.shape[1:]) for name, x in batch.items()}, sharding
        )

    def train(self, body: Callable) -> Callable:
        """See `Runner.train`."""
        return jax.pmap(
            body,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=0,
            devices=self.devices,
        )

    def embed(self, body: Callable) -> Callable:
        """See `Runner.embed`."""
        return jax.pmap(body, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=self.devices)

    def gather(self, rows: jax.Array) -> np.ndarray:
        """See `Runner.gather`."""
        rows = np.asarray(rows)
        rows = rows.reshape(-1, *rows.shape[2:])
        if jax.process_count() == 1:
            return rows
        return np.asarray(multihost_utils.process_allgather(rows, tiled=True))

    def _local_devices(self) -> np.ndarray:
        return np.array([d for d in self.devices if d.process_index == jax.process_index()])


@dataclasses.dataclass(frozen=True)
class ShardMapRunner:
    """`jax.jit(jax.shard_map(...))` over a one-dimensional mesh."""

    devices: Sequence[jax.Device]

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))

    @functools.cached_property
    def _replicated(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec())

    @functools.cached_property
    def _split(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(AXIS))

    def place_state(self, state: Any) -> Any:
        """See `Runner.place_state`."""
        return jax.device_put(jax.tree.map(np.array, state), self._replicated)

    def place_batch(self, batch: Batch) -> Batch:
        """See `Runner.place_batch`."""
        return {
            name: jax.make_array_from_process_local_data(self._split, x)
            for name, x in batch.items()
        }

    def placed_shapes(self, state: Any, batch: Batch) -> tuple[Any, Batch]:
        """What `place_state` and `place_batch` would give, as shapes, to compile ahead of time.

        Args:
          state: tree of shapes and types.
          batch: shapes and types of the global batch.
        """

        def placed(tree: Any, sharding: NamedSharding) -> Any:
            return jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
            )

        return placed(state, self._replicated), placed(batch, self._split)

    def train(self, body: Callable) -> Callable:
        """See `Runner.train`."""
        return jax.jit(self._map(body, (PartitionSpec(), PartitionSpec())), donate_argnums=0)

    def embed(self, body: Callable) -> Callable:
        """See `Runner.embed`."""
        return jax.jit(self._map(body, PartitionSpec(AXIS)))

    def gather(self, rows: jax.Array) -> np.ndarray:
        """See `Runner.gather`."""
        if jax.process_count() == 1:
            return np.asarray(rows)
        return np.asarray(multihost_utils.process_allgather(rows, tiled=True))

    def _map(self, body: Callable, out_specs: Any) -> Callable:
        return jax.shard_map(
            body,
            mesh=self._mesh,
            in_specs=(PartitionSpec(), PartitionSpec(AXIS)),
            out_specs=out_specs,
            check_vma=False,
        )


RUNNERS: dict[str, type] = {"pmap": PmapRunner, "shard_map": ShardMapRunner}


def make_runner(
    spmd: str, *, batch_size: int, devices: Sequence[jax.Device] | None = None
) -> Runner:
    """Chooses the runner and checks that the global batch divides over its devices.

    Args:
      spmd: "pmap" or "shard_map".
      batch_size: rows of the global batch.
      devices: all devices of the run, over all processes; by default every device there is.

    Raises:
      ValueError: unknown `spmd`, or a batch that does not divide.
    """
    if spmd not in RUNNERS:
        raise ValueError(f"config.spmd is {spmd!r}; choose one of {sorted(RUNNERS)}")
    devices = tuple(jax.devices() if devices is None else devices)
    batches.check_batch_size(
        batch_size, process_count=jax.process_count(), device_count=len(devices)
    )
    return RUNNERS[spmd](devices)
