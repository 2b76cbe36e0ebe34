"""Where arrays live: one mesh, one rule for parameters, one layout for everything with a batch.

The same code runs on one CPU, eight GPUs or a TPU pod; on one device all of it is a no-op.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

BATCH = P(("data", "fsdp"))  # the leading axis is spread over every device
HOST = 8  # devices that reach each other directly
MIN_SHARDED = 2**16  # elements; smaller arrays are whole on each device: moving them costs more


def make_mesh(fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a ("data", "fsdp") mesh over all devices, or those given, `fsdp` of them sharing
    each parameter.

    The devices of one "fsdp" group are neighbours on a TPU's torus, whatever the order of
    `devices`. With several slices (of TPUs; the hosts of GPUs), "fsdp" stays inside one where it
    can: parameters travel at every step, and the network between slices is slow.

    Raises ValueError naming the values that work where `fsdp` is none of them.
    """
    devices = list(jax.devices() if devices is None else devices)
    if fsdp not in (working := fsdp_sizes(devices)):
        raise ValueError(
            f"fsdp={fsdp} does not divide the {_shared(devices)}: set config.fsdp to"
            f" {listed(working)}."
        )
    if devices[0].platform == "tpu":  # jax's layout of a small tpu7x goes by the order it is given
        devices.sort(key=lambda device: (*reversed(device.coords), device.core_on_chip))
    count, slices = len(devices), _slices(devices)
    # An axis of the torus may be shared by "data" and "fsdp": 8 chips of a row as 4 x 2.
    if slices > 1 and (count // slices) % fsdp == 0:
        grid = mesh_utils.create_hybrid_device_mesh(
            *((count // slices // fsdp, fsdp), (slices, 1), devices),
            allow_split_physical_axes=True,
        )
    else:
        grid = mesh_utils.create_device_mesh(
            (count // fsdp, fsdp), devices, allow_split_physical_axes=True
        )
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def fsdp_sizes(devices: Sequence[jax.Device]) -> list[int]:
    """Returns the values of `fsdp` that work: divisors of the devices, of TPUs those of a slice."""
    count = len(devices)
    if devices[0].platform == "tpu":
        count //= _slices(devices)
    return [size for size in range(1, count + 1) if count % size == 0]


def listed(numbers: Sequence[int]) -> str:
    """Returns "1", "1 or 2", "1, 2 or 4"."""
    *others, last = map(str, numbers)
    return f"{', '.join(others)} or {last}" if others else last


def _slices(devices: Sequence[jax.Device]) -> int:
    return len({getattr(device, "slice_index", 0) for device in devices})


def _shared(devices: Sequence[jax.Device]) -> str:
    """Returns "8 devices", of several slices of TPUs "2 devices of a slice (4 of them)"."""
    slices = _slices(devices)
    if slices == 1 or devices[0].platform != "tpu":
        return f"{len(devices)} devices"
    return f"{len(devices) // slices} devices of a slice ({slices} of them)"


def local_mesh() -> Mesh:
    """Returns the mesh over the devices of this process, for what it computes on its own."""
    grid = np.array(jax.local_devices()).reshape(-1, 1)  # a part of a torus has no best order
    return Mesh(grid, ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)


def shard_params(abstract, mesh: Mesh):
    """Returns a NamedSharding for each leaf: its largest divisible dimension on "fsdp".

    Works for the optimizer's moments too, which have the parameters' shapes.
    """
    size = mesh.shape["fsdp"]

    def rule(leaf) -> NamedSharding:
        divisible = [i for i, n in enumerate(leaf.shape) if n % size == 0]
        if size == 1 or np.prod(leaf.shape) < MIN_SHARDED or not divisible:
            return NamedSharding(mesh, P())
        axis = max(divisible, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, P(*[None] * axis, "fsdp"))

    return jax.tree.map(rule, abstract)


def shard_batch(x: jax.Array) -> jax.Array:
    """Keeps the leading axis of an activation spread over the mesh, where one is set.

    Models call this at four places (embeddings, block outputs, features, scores), and `compare_all`
    where the features of texts and videos meet; it is what stops the partitioner from gathering
    activations instead of weights.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % mesh.size:
        return x
    return jax.lax.with_sharding_constraint(x, BATCH)


def compare_all(compare: Callable, whole, rows, columns) -> jax.Array:
    """Returns `compare(whole, rows, columns)`, scores [T, V], each device making its own rows.

    Every device has a share of `rows` and `columns`, trees of features, and all of `whole`, the
    parameters of the comparison. The columns are gathered once, and their gradients, of which each
    device has a part, are summed and shared out once, however `compare` goes about it: left to
    itself the partitioner does both in every turn of its loops.
    """
    mesh = jax.sharding.get_abstract_mesh()
    counts = {len(x) for x in jax.tree.leaves((rows, columns))}
    if mesh.empty or mesh.size == 1 or any(count % mesh.size for count in counts):
        return compare(whole, rows, columns)

    @jax.custom_vjp
    def gather(x):
        return jax.lax.all_gather(x, mesh.axis_names, tiled=True)

    gather.defvjp(lambda x: (gather(x), None), lambda _, grads: (_sum_shares(grads, mesh),))

    def here(whole, rows, columns):
        return compare(whole, rows, jax.tree.map(gather, columns))

    return jax.shard_map(here, in_specs=(P(), BATCH, BATCH), out_specs=BATCH)(whole, rows, columns)


def _sum_shares(x: jax.Array, mesh) -> jax.Array:
    """Returns this device's rows of the sum of all devices' x, inside a shard_map.

    Many devices do it in two steps, with their neighbours first: for one step over more than a
    row of a TPU's chips the compiler sums everything everywhere, which sends twice as much.
    """
    scatter = functools.partial(jax.lax.psum_scatter, axis_name=mesh.axis_names, tiled=True)
    count = mesh.size
    near = min(n for n in range(1, count + 1) if count % n == 0 and n * n >= count)
    if count <= HOST or near == count:
        return scatter(x)
    places = np.arange(count).reshape(-1, near)
    x = x.reshape(*places.shape, -1, *x.shape[1:]).swapaxes(0, 1).reshape(x.shape)
    x = scatter(x, axis_index_groups=places.tolist())
    return scatter(x, axis_index_groups=places.T.tolist())


def devices() -> int:
    """Returns over how many devices activations are spread."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def share(count: int) -> int:
    """Returns how many rows of an activation of `count` lie on one device."""
    return count // devices() if count % devices() == 0 else count


def to_global(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Returns the global batch of which each host brings its rows, in order: those that
    `parallel.row_sharding.own` names."""
    sharding = NamedSharding(mesh, BATCH)
    return {
        name: jax.make_array_from_process_local_data(sharding, array)
        for name, array in batch.items()
    }


def replicate(arrays, mesh: Mesh):
    """Returns NumPy arrays, the same on each host, as arrays that are whole on every device."""
    whole = NamedSharding(mesh, P())
    return jax.tree.map(
        lambda x: jax.make_array_from_process_local_data(whole, np.asarray(x), np.shape(x)), arrays
    )
