# SPDX-License-Identifier: Apache-2.0
"""All that knows about devices: the data axis, the two backends, placing state and batches.

A *body* is a pure per-device function; what it gathers or sums over goes by `AXIS`. A backend turns
a body into a function of the replicated state and the global batch. Both backends share one
convention for gradients: a body differentiates this device's share of the loss and sums the
gradients itself. Hence `check_vma=False`: with it left on, shard_map would hand out gradients of
replicated parameters that are already summed, and they would count once per device too often.

With a split state a device keeps its share of the parameters, of the optimizer's memory and of the
moving average, by one rule for every array, `layouts.shard_axis`. A step gathers the parameters,
those of the transformer's loop a block at a time, leaves each device with the sum of its share of
the gradient, and updates that share: the numbers are those of the replicated state. Shapes stay
those of the whole arrays, so a checkpoint fits any number of devices, split or not.
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
# Fields of a state that may be split; the statistics of batch norm are small and read whole.
SHARDED_FIELDS = ("params", "opt_state", "ema")

Batch = Mapping[str, Any]


class Backend(Protocol):
    """How a per-device body becomes a function of the global batch."""

    @property
    def devices(self) -> Sequence[jax.Device]:
        """That the batch is split over."""

    def state_shardings(self, state: Any) -> Any:
        """Where the leaves of a state belong; a state of shapes will do."""

    def place_state(self, state: Any) -> Any:
        """Puts a copy of the state where it belongs."""

    def place_batch(self, batch: Batch) -> Batch:
        """Splits this process's rows over its devices; arrays `[local rows, ...]`."""

    def train(self, body: Callable) -> Callable:
        """Compiles `body(state, batch) -> (state, metrics)`; donates the state.

        The metrics are replicated, and so is the state, unless the backend splits it. Then the body
        sees shares, and `layout=layouts.Sharded(...)` says of what.
        """

    def embed(self, body: Callable) -> Callable:
        """Compiles `body(variables, batch) -> rows`, rows split over the devices."""

    def gather(self, rows: jax.Array) -> np.ndarray:
        """Brings an `embed` result to every host, in the order of the global batch."""


@dataclasses.dataclass(frozen=True)
class PmapBackend:
    """`jax.pmap` over all devices; the state never carries a device dimension."""

    devices: Sequence[jax.Device]

    def state_shardings(self, state: Any) -> Any:
        """See `Backend.state_shardings`."""
        everywhere = NamedSharding(Mesh(self._local_devices(), (AXIS,)), PartitionSpec())
        return jax.tree.map(lambda _: everywhere, state)

    def place_state(self, state: Any) -> Any:
        """See `Backend.place_state`."""
        # A fresh copy: the step donates its state, and the caller's arrays must survive that.
        return jax.device_put(jax.tree.map(np.array, state), self.state_shardings(state))

    def place_batch(self, batch: Batch) -> Batch:
        """See `Backend.place_batch`; adds the leading device dimension that pmap asks for."""
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
        own = np.asarray(rows)
        own = own.reshape(-1, *own.shape[2:])
        if jax.process_count() == 1:
            return own
        return np.asarray(multihost_utils.process_allgather(own, tiled=True))

    def _local_devices(self) -> np.ndarray:
        return np.array([d for d in self.devices if d.process_index == jax.process_index()])


@dataclasses.dataclass(frozen=True)
class ShardMapBackend:
    """`jax.jit(jax.shard_map(...))` over a one-dimensional mesh.

    Attributes:
      devices: of all processes.
      shard_state: whether the devices share the state rather than hold one each.
    """

    devices: Sequence[jax.Device]
    shard_state: bool = False

    @functools.cached_property
    def _mesh(self) -> Mesh:
        return Mesh(np.array(self.devices), (AXIS,))

    @functools.cached_property
    def _split(self) -> NamedSharding:
        return NamedSharding(self._mesh, PartitionSpec(AXIS))

    def state_shardings(self, state: Any) -> Any:
        """See `Backend.state_shardings`."""
        return jax.tree.map(lambda spec: NamedSharding(self._mesh, spec), self._specs(state))

    def place_state(self, state: Any) -> Any:
        """See `Backend.place_state`."""

        def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
            if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
                return leaf.copy()
            # `device_put` would send every array round all processes to compare their copies.
            leaf = np.array(leaf)
            return jax.make_array_from_callback(leaf.shape, sharding, lambda part: leaf[part])

        return jax.tree.map(place, state, self.state_shardings(state))

    def place_batch(self, batch: Batch) -> Batch:
        """See `Backend.place_batch`."""
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

        def placed(tree: Any, shardings: Any) -> Any:
            return jax.tree.map(
                lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
                tree,
                shardings,
            )

        split = dict.fromkeys(batch, self._split)
        return placed(state, self.state_shardings(state)), placed(dict(batch), split)

    def train(self, body: Callable) -> Callable:
        """See `Backend.train`."""

        def run(state, batch):
            specs = self._specs(state)
            own = body
            if self.shard_state:
                shapes = jax.eval_shape(lambda params: params, state.params)
                own = functools.partial(body, layout=fsdp.Sharded(shapes, len(self.devices), AXIS))
            return self._map(own, specs, (specs, PartitionSpec()))(state, batch)

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
        """How every leaf of a state is split."""

        def spec(path, leaf):
            if not (self.shard_state and path[0].name in SHARDED_FIELDS):
                return PartitionSpec()
            axis = fsdp.shard_axis(leaf.shape, count=len(self.devices))
            return PartitionSpec() if axis is None else PartitionSpec(*[None] * axis, AXIS)

        return jax.tree_util.tree_map_with_path(spec, state)

    def _map(self, body: Callable, first_specs: Any, out_specs: Any) -> Callable:
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
      shard_state: whether the devices share the train state (FSDP); "shard_map" only.
      devices: devices of the run, over all processes; all devices by default.

    Raises:
      ValueError: unknown `spmd`, or one that cannot shard the state.
    """
    if spmd not in BACKENDS:
        raise ValueError(f"config.spmd is {spmd!r}; expected one of {sorted(BACKENDS)}")
    if shard_state and spmd != "shard_map":
        raise ValueError(
            f"config.shard_state is True, but config.spmd is {spmd!r}, which keeps the whole state "
            "on every device; set config.spmd to 'shard_map'"
        )
    devices = tuple(jax.devices() if devices is None else devices)
    return ShardMapBackend(devices, shard_state) if shard_state else BACKENDS[spmd](devices)
