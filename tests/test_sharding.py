"""The layout rule, and that a layout changes no number."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from xclip_jax import sharding

LAYOUTS = [(8, 1), (2, 4)]


def mesh_of(data: int, fsdp: int):
    """Returns a mesh over the first data * fsdp devices."""
    devices = jax.devices()[: data * fsdp]
    kinds = (AxisType.Auto,) * 2
    return jax.make_mesh((data, fsdp), ("data", "fsdp"), axis_types=kinds, devices=devices)


@pytest.mark.parametrize("fsdp", [1, 2, 4, 8])
def test_a_mesh_spans_all_devices(fsdp):
    mesh = sharding.make_mesh(fsdp)

    assert dict(mesh.shape) == {"data": 8 // fsdp, "fsdp": fsdp}
    assert {device.id for device in mesh.devices.flat} == set(range(8))


@pytest.mark.parametrize("fsdp", [0, -2, 3, 16])
def test_a_number_that_does_not_divide_the_devices_is_refused(fsdp):
    with pytest.raises(ValueError, match=rf"fsdp={fsdp} does not divide the 8 devices: set config"):
        sharding.make_mesh(fsdp)


@pytest.mark.parametrize(
    "shape, expected",
    [
        ((12, 768, 3072), P(None, None, "fsdp")),  # the largest
        ((512, 256), P("fsdp")),
        ((256, 512, 512), P(None, "fsdp")),  # the first of two equals
        ((49_409, 512), P(None, "fsdp")),  # the largest that four divides
        ((4, 50_000), P(None, "fsdp")),
        ((997, 499), P()),  # nothing divides
        ((65_536,), P("fsdp")),  # just large enough
        ((65_532,), P()),  # just too small to be worth it
        ((), P()),
    ],
)
def test_the_largest_divisible_dimension_is_split(shape, expected):
    leaf = jax.ShapeDtypeStruct(shape, jnp.float32)

    layout = sharding.shard_params({"x": leaf}, mesh_of(2, 4))

    assert layout["x"].spec == expected


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device: here a TPU chip of one of several slices."""

    id: int
    slice_index: int
    coords: tuple[int, int, int] = (0, 0, 0)
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    process_index: int = 0


def test_of_several_slices_each_parameter_stays_inside_one():
    chips = [Chip(i, i % 2, (i // 2 % 2, i // 4, 0)) for i in range(8)]  # 2x2 a slice, interleaved

    mesh = sharding.make_mesh(2, chips)

    assert dict(mesh.shape) == {"data": 4, "fsdp": 2}
    assert all(one.slice_index == other.slice_index for one, other in mesh.devices)
    assert [row[0].slice_index for row in mesh.devices] == [0, 0, 1, 1]


def test_a_parameter_shared_across_slices_is_refused():
    chips = [Chip(i, i // 2) for i in range(8)]

    with pytest.raises(ValueError, match=r"fsdp=4 does not divide the 2 devices of a slice \(4 of"):
        sharding.make_mesh(4, chips)


def test_with_one_share_everything_is_whole():
    leaf = jax.ShapeDtypeStruct((512, 512), jnp.float32)

    assert sharding.shard_params([leaf], mesh_of(8, 1))[0].spec == P()


def test_a_batch_is_spread_over_every_device_in_order():
    mesh = mesh_of(2, 4)
    batch = {"tokens": np.arange(16 * 3).reshape(16, 3), "mask": np.arange(8) % 2 == 0}

    whole = sharding.to_global(batch, mesh)

    for name, array in batch.items():
        np.testing.assert_array_equal(whole[name], array)
        share = len(array) // 8
        for i, device in enumerate(mesh.devices.flat):
            [own] = [s.data for s in whole[name].addressable_shards if s.device == device]
            np.testing.assert_array_equal(own, array[i * share : (i + 1) * share])


def test_activations_are_spread_where_a_mesh_is_set_and_the_batch_can_be_split():
    spread = jax.jit(sharding.shard_batch)

    with jax.set_mesh(mesh_of(2, 4)):
        split, uneven = spread(jnp.zeros((16, 3))), spread(jnp.zeros((6, 5)))
    alone = spread(jnp.zeros((16, 3)))

    assert {shard.data.shape for shard in split.addressable_shards} == {(2, 3)}
    assert uneven.shape == (6, 5) and alone.shape == (16, 3)
    assert len(alone.devices()) == 1


@pytest.fixture(scope="module")
def on_one_device():
    return gradients(mesh_of(1, 1))


def gradients(mesh) -> tuple[np.ndarray, dict]:
    """Returns the loss and its gradients, computed with every array laid out on the mesh."""
    graphdef, abstract = tiny.create()
    layout = sharding.shard_params(abstract, mesh)
    with jax.set_mesh(mesh):
        # Of these parameters rounding makes 1e-5; of those of seed 0, up to 6e-5 in some runs.
        params = jax.device_put(tiny.params(2), layout)
        batch = sharding.to_global(tiny.batch(8, 8), mesh)
        run = jax.jit(
            jax.value_and_grad(lambda params, batch: tiny.loss(graphdef, params, batch)),
            out_shardings=(None, layout),
        )
        loss, grads = run(params, batch)
    for gradient, place in zip(jax.tree.leaves(grads), jax.tree.leaves(layout), strict=True):
        assert gradient.sharding.is_equivalent_to(place, gradient.ndim)
    return jax.tree.map(np.asarray, (loss, grads))


@pytest.mark.parametrize("data, fsdp", LAYOUTS)
def test_loss_and_gradients_are_the_same_on_every_mesh(data, fsdp, on_one_device, monkeypatch):
    """Contrasts span all devices; only the order of float32 sums differs, by 1e-7, of which the
    softmax at 0.01 makes 1e-5 of a gradient's largest value."""
    monkeypatch.setattr(sharding, "MIN_SHARDED", 8)
    mesh = mesh_of(data, fsdp)
    layout = sharding.shard_params(tiny.create()[1], mesh)
    split = [place for place in jax.tree.leaves(layout) if place.spec != P()]
    assert len(split) > 30 if fsdp > 1 else not split

    loss, grads = gradients(mesh)

    expected_loss, expected = on_one_device
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    for (path, one), other in zip(
        jax.tree_util.tree_leaves_with_path(grads), jax.tree.leaves(expected), strict=True
    ):
        error = np.abs(one - other).max() / np.abs(other).max()
        assert error < 3e-5, jax.tree_util.keystr(path)


@pytest.mark.parametrize("host", [8, 3], ids=["in one step", "in two steps"])
@pytest.mark.parametrize("count", [8, 6, 5])
def test_what_devices_compare_by_rows_has_the_gradients_of_all_at_once(host, count, monkeypatch):
    monkeypatch.setattr(sharding, "HOST", host)
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 3)).astype(np.float32)
    rows, columns = (rng.normal(size=(n * count, 3)).astype(np.float32) for n in (2, 3))
    seen = rng.random(3 * count) < 0.7

    def loss(weights, rows, columns):
        def compare(weights, rows, columns):
            vectors, seen = columns
            return rows @ weights @ jnp.where(seen[:, None], vectors, 0).T

        scores = sharding.compare_all(compare, weights, rows, (columns, seen))
        return jnp.sum(jax.nn.log_softmax(scores, axis=1)[:, :2] ** 2)

    expected = jax.grad(loss, argnums=(0, 1, 2))(weights, rows, columns)
    with jax.set_mesh(mesh_of(count, 1)):
        step = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(weights, rows, columns)
        found = step.compile()(weights, rows, columns)

    # 5 is prime: there is no row of neighbours to begin with.
    assert step.as_text().count("reduce_scatter") == (2 if host < count != 5 else 1)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
