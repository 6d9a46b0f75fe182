# SPDX-License-Identifier: Apache-2.0
"""SPMD backends: `jax.pmap` and `jax.shard_map` over one data-parallel axis.

A *body* is a pure per-device function; its collectives run over the axis `AXIS`. A backend turns a
body into a function of the train state and the global batch. Both backends share one convention for
gradients: a body differentiates the loss of its own rows and sums the gradients over devices
itself. Hence `check_vma=False`: otherwise, shard_map would return gradients of replicated
parameters that are already summed, and the explicit sum would count them once per device.

With FSDP (`shard_state`), a device holds one shard of the parameters, the optimizer state and the
moving average, all split by `fsdp.shard_axis`; the result is that of the replicated state up to
rounding. Global shapes do not change, so a checkpoint restores onto any number of devices, with or
without FSDP.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrd_jax.distributed import fsdp

AXIS = "data"
# Fields of the train state that FSDP shards; batch-norm statistics are small and stay replicated.
SHARDED_FIELDS = ("params", "opt_state", "ema")

Batch = Mapping[str, Any]


class Backend(Protocol):
    """Compiles per-device bodies into functions of the global batch, and places their inputs."""

    @property
    def devices(self) -> Sequence[jax.Device]:
        """Devices that the batch is split over, of all processes."""

    def state_shardings(self, state: Any) -> Any:
        """Returns the sharding of every leaf of a train state.

        Args:
          state: train state, or a tree of its shapes.
        """

    def place_state(self, state: Any) -> Any:
        """Copies a train state onto the devices, as `state_shardings` says."""

    def place_batch(self, batch: Batch) -> Batch:
        """Splits this process's rows of the global batch over its devices.

        Args:
          batch: arrays [local_batch, ...] on the host.
        """

    def train(self, body: Callable) -> Callable:
        """Compiles `body(state, batch) -> (state, metrics)`; the state is donated.

        Metrics are replicated, and so is the state unless the backend shards it. In that case the
        body receives shards, and `param_sharding=fsdp.FullySharded(...)`, which describes them.
        """

    def embed(self, body: Callable) -> Callable:
        """Compiles `body(variables, batch) -> rows`; the rows stay split over the devices."""

    def gather(self, rows: jax.Array) -> np.ndarray:
        """Copies a result of `embed` to every host, in the order of the global batch."""


@dataclasses.dataclass(frozen=True)
class PmapBackend:
    """`jax.pmap` over all devices; the train state has no device axis.

    Attributes:
      devices: devices of all processes.
    """

    devices: Sequence[jax.Device]

    def state_shardings(self, state: Any) -> Any:
        """See `Backend.state_shardings`."""
        replicated = NamedSharding(Mesh(self._local_devices(), (AXIS,)), PartitionSpec())
        return jax.tree.map(lambda _: replicated, state)

    def place_state(self, state: Any) -> Any:
        """See `Backend.place_state`."""
        # Copied, because the step donates its state while the caller may keep using these arrays.
        return jax.device_put(jax.tree.map(np.array, state), self.state_shardings(state))

    def place_batch(self, batch: Batch) -> Batch:
        """See `Backend.place_batch`; adds the leading device axis that pmap expects."""
        count = len(self._local_devices())
        sharding = NamedSharding(Mesh(self._local_devices(), (AXIS,)), PartitionSpec(AXIS))
        return jax.device_put(
            {name: x.reshape(count, -1, *x.shape[1:]) for name, x in batch.items()}, sharding
        )

    def train(self, body: Callable) -> Callable:
        """See `Backend.train`."""
        return jax.pmap(
            body,
            axis_name=AXIS,
            in_axes=(None, 0),
            out_axes=(None, None),
            donate_argnums=0,
            devices=self.devices,
        )

    def embed(self, body: Callable) -> Callable:
        """See `Backend.embed`."""
        return jax.pmap(body, axis_name=AXIS, in_axes=(None, 0), out_axes=0, devices=self.devices)

    def gather(self, rows: jax.Array) -> np.ndarray:
        """See `Backend.gather`."""
        local = np.asarray(rows)
        local = local.reshape(-1, *local.shape[2:])
        if jax.process_count() == 1:
            return local
        return np.asarray(multihost_utils.process_allgather(local, tiled=True))

    def _local_devices(self) -> np.ndarray:
        return np.array([d for d in self.devices if d.process_index == jax.process_index()])


@dataclasses.dataclass(frozen=True)
class ShardMapBackend:
    """`jax.jit(jax.shard_map(...))` over a one-dimensional mesh.

    Attributes:
      devices: devices of all processes.
      shard_state: whether to shard the train state over the devices (FSDP).
    """

    devices: Sequence[jax.Device]
    shard_state: bool = False

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))

    @functools.cached_property
    def _batch_sharding(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(AXIS))

    def state_shardings(self, state: Any) -> Any:
        """See `Backend.state_shardings`."""
        return jax.tree.map(lambda spec: NamedSharding(self._mesh, spec), self._specs(state))

    def place_state(self, state: Any) -> Any:
        """See `Backend.place_state`."""

        def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                return leaf.copy()
            # `device_put` would compare the processes' copies of every array with one another.
            leaf = np.array(leaf)
            return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

        return jax.tree.map(place, state, self.state_shardings(state))

    def place_batch(self, batch: Batch) -> Batch:
        """See `Backend.place_batch`."""
        return {
            name: jax.make_array_from_process_local_data(self._batch_sharding, x)
            for name, x in batch.items()
        }

    def placed_shapes(self, state: Any, batch: Batch) -> tuple[Any, Batch]:
        """Returns the abstract results of `place_state` and `place_batch`, for AOT compilation.

        Args:
          state: shapes and types of the train state.
          batch: shapes and types of the global batch.

        Returns:
          Both, with shardings.
        """

        def with_shardings(tree: Any, shardings: Any) -> Any:
            return jax.tree.map(
                lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                tree,
                shardings,
            )

        return (
            with_shardings(state, self.state_shardings(state)),
            with_shardings(dict(batch), dict.fromkeys(batch, self._batch_sharding)),
        )

    def train(self, body: Callable) -> Callable:
        """See `Backend.train`."""

        def run(state, batch):
            specs = self._specs(state)
            sharded_body = body
            if self.shard_state:
                shapes = jax.eval_shape(lambda params: params, state.params)
                sharding = fsdp.FullySharded(shapes, len(self.devices), AXIS)
                sharded_body = functools.partial(body, param_sharding=sharding)
            return self._map(sharded_body, specs, (specs, PartitionSpec()))(state, batch)

        return jax.jit(run, donate_argnums=0)

    def embed(self, body: Callable) -> Callable:
        """See `Backend.embed`."""
        return jax.jit(self._map(body, PartitionSpec(), PartitionSpec(AXIS)))

    def gather(self, rows: jax.Array) -> np.ndarray:
        """See `Backend.gather`."""
        if jax.process_count() == 1:
            return np.asarray(rows)
        return np.asarray(multihost_utils.process_allgather(rows, tiled=True))

    def _specs(self, state: Any) -> Any:
        """Returns the partition spec of every leaf of a train state."""

        def spec(path, leaf):
            if not (self.shard_state and path[0].name in SHARDED_FIELDS):
                return PartitionSpec()
            axis = fsdp.shard_axis(leaf.shape, count=len(self.devices))
            return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)

        return jax.tree_util.tree_map_with_path(spec, state)

    def _map(self, body: Callable, first_specs: Any, out_specs: Any) -> Callable:
        """Maps a body over the devices; its second argument is the batch."""
        return jax.shard_map(
            body,
            mesh=self._mesh,
            in_specs=(first_specs, PartitionSpec(AXIS)),
            out_specs=out_specs,
            check_vma=False,
        )


BACKENDS: dict[str, type] = {"pmap": PmapBackend, "shard_map": ShardMapBackend}


def make_backend(
    spmd: str, *, shard_state: bool = False, devices: Sequence[jax.Device] | None = None
) -> Backend:
    """Builds the backend that `config.spmd` names.

    Args:
      spmd: "pmap" or "shard_map".
      shard_state: whether to shard the train state over the devices (FSDP); "shard_map" only.
      devices: devices of all processes; `jax.devices()` by default.

    Raises:
      ValueError: `spmd` is unknown, or cannot shard the train state.
    """
    if spmd not in BACKENDS:
        raise ValueError(f"config.spmd is {spmd!r}; expected one of {sorted(BACKENDS)}")
    if shard_state and spmd != "shard_map":
        raise ValueError(
            f"config.shard_state is True, but config.spmd is {spmd!r}, which replicates the state; "
            "set config.spmd to 'shard_map'"
        )
    devices = tuple(jax.devices() if devices is None else devices)
    return ShardMapBackend(devices, shard_state) if shard_state else BACKENDS[spmd](devices)
