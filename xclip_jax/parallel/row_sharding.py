"""Rows of a batch between a host's memory and the devices, each of which computes a share of them.

The mesh decides which rows a device holds. On TPUs the devices of one host are not neighbors in it,
so a host asks which rows are its own, and nothing here relies on the order of hosts.
"""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from xclip_jax.sharding import BATCH


def own(count: int, mesh: Mesh, process: int | None = None) -> np.ndarray:
    """Returns the numbers of those of `count` rows, ascending, that lie on the devices of this
    process, or of another one; the devices must divide `count`."""
    process = jax.process_index() if process is None else process
    owner = np.array([device.process_index for device in mesh.devices.flat])
    return np.flatnonzero(np.repeat(owner, count // mesh.size) == process)


def padded(count: int, mesh: Mesh) -> int:
    """Returns the smallest number of rows, `count` or more, of which each device has as many."""
    return -(-count // mesh.size) * mesh.size


def fill(x: np.ndarray, size: int, value=0) -> np.ndarray:
    """Returns `x` with rows of `value` after its own, `size` of them in all."""
    if len(x) == size:  # np.pad would copy
        return x
    return np.concatenate([x, np.full((size - len(x), *x.shape[1:]), value, x.dtype)])


def spread(tree, mesh: Mesh):
    """Returns NumPy arrays that every host has whole as global arrays, a share on each device."""
    place = NamedSharding(mesh, BATCH)
    if jax.process_count() == 1:
        return jax.device_put(tree, place)
    return jax.tree.map(
        lambda x: jax.make_array_from_callback(x.shape, place, lambda index, x=x: x[index]), tree
    )


def fetch(tree, mesh: Mesh):
    """Returns global arrays as NumPy arrays, whole on every host and in the order of their rows."""
    if jax.process_count() > 1:
        tree = _replicated(mesh)(tree)
    return jax.tree.map(np.asarray, tree)


def compute(call: Callable, mesh: Mesh, *trees):
    """Returns `call(*trees)` as NumPy arrays, every device having computed its share of the rows.

    The trees hold NumPy arrays of as many rows, the same on all hosts; zeros fill them up to a
    multiple of the devices, and what `call` makes of those is cut off.
    """
    count = len(jax.tree.leaves(trees)[0])
    filled = jax.tree.map(lambda x: fill(np.asarray(x), padded(count, mesh)), trees)
    found = fetch(call(*spread(filled, mesh)), mesh)
    return jax.tree.map(lambda x: x[:count], found)


@functools.cache
def _replicated(mesh: Mesh):
    return jax.jit(lambda tree: tree, out_shardings=NamedSharding(mesh, P()))
