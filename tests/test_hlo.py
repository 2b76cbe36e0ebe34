"""Reading compiled programs: hand-written text, and programs whose bytes follow by arithmetic."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from xclip_jax import flops, sharding
from xclip_jax.plan import collectives, hlo, traffic

LOOP = """HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (state: (s32[], bf16[6,4])) -> (s32[], bf16[6,4]) {
  %state = (s32[], bf16[6,4]{1,0:T(8,128)(2,1)}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %x = bf16[6,4]{1,0} get-tuple-element(%state), index=1
  %one = s32[] constant(1)
  %next = s32[] add(%i, %one)
  %reduced = bf16[6,4]{1,0} all-reduce(%x), channel_id=1, replica_groups={{0,2},{1,3}}, META
  ROOT %out = (s32[], bf16[6,4]{1,0}) tuple(%next, %reduced)
}

%condition (state: (s32[], bf16[6,4])) -> pred[] {
  %state = (s32[], bf16[6,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %limit = s32[] constant(9)
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

ENTRY %main (x: bf16[6,4]) -> bf16[6,4] {
  %x = bf16[6,4]{1,0} parameter(0)
  %start = s32[] constant(2)
  %state = (s32[], /*index=1*/bf16[6,4]{1,0}) tuple(%start, %x)
  %loop = (s32[], bf16[6,4]{1,0}) while(%state), condition=%condition, body=%body BACKEND
  ROOT %out = bf16[6,4]{1,0} get-tuple-element(%loop), index=1
}
"""
LOOP = LOOP.replace("META", 'to_apply=%add, metadata={op_name="jit(step)/while/body/sum"}')
MESH = {"data": 2, "fsdp": 2}


def program(text: str) -> hlo.Program:
    return hlo.parse(text)


def one_line(attributes: str, devices: int = 8, mesh: dict | None = None):
    """Returns the collectives of a program that is one line of text."""
    text = (
        "HloModule m\n\nENTRY %main (x: f32[4,8]) -> f32[] {\n  %x = f32[4,8]{1,0} parameter(0)\n"
        f"  ROOT %out = f32[] {attributes}\n}}\n"
    )
    return collectives.find(hlo.parse(text), mesh or {"data": devices})


@pytest.mark.parametrize(
    ("backend", "rounds"),
    [("", 7), (', backend_config={"known_trip_count":{"n":"5"},"x":[]}', 5)],
    ids=["from the condition", "from the backend config"],
)
def test_a_loops_collective_counts_as_often_as_it_goes_round(backend, rounds):
    found = collectives.find(program(LOOP.replace(" BACKEND", backend)), MESH)

    [one] = found
    assert (one.kind, one.axes, one.group, one.times) == ("all-reduce", "data", 2, rounds)
    assert one.payload == 6 * 4 * 2
    assert one.sent == rounds * 2 * 48 * (2 - 1) / 2
    assert one.op_name == "jit(step)/while/body/sum"


def test_a_loop_of_unknown_length_is_named_and_counts_once():
    text = LOOP.replace(" BACKEND", "").replace("direction=LT", "direction=NE")

    often, unknown = hlo.times(program(text))

    assert unknown == ["loop"] and often["body"] == 1


@pytest.mark.parametrize(
    ("groups", "group", "axes"),
    [
        ("{{0,1,2,3},{4,5,6,7}}", 4, "fsdp"),
        ("{{0,4},{1,5},{2,6},{3,7}}", 2, "data"),
        ("{}", 8, "data+fsdp"),
        ("[2,4]<=[8]", 4, "fsdp"),
        ("[4,2]<=[2,4]T(1,0)", 2, "data"),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_1'}", 4, "fsdp"),
        ("mesh['axis_0'=2,'axis_1'=4] {'axis_0','axis_1'}", 8, "data+fsdp"),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", 4, "fsdp"),
        ("mesh['a'=4,'b'=2], device_ids=(0,4,1,5,2,6,3,7) {'b'}", 2, "data"),
        ("mesh['axis_0'=8] {'axis_0':(1)2}", 2, "data"),
        ("mesh['axis_0'=8,'axis_1'=1] {'axis_0':(2)4}", 4, "fsdp"),
    ],
)
def test_every_way_of_writing_groups_gives_their_size_and_axis(groups, group, axes):
    line = f"all-gather(%x), channel_id=3, replica_groups={groups}, dimensions={{0}}"

    [one] = one_line(line, mesh={"data": 2, "fsdp": 4})

    assert (one.group, one.axes, one.payload) == (group, axes, 4 * 8 * 4)
    assert one.sent == 128 * (group - 1)


def test_a_permutation_sends_what_it_has():
    [one] = one_line("collective-permute(%x), source_target_pairs={{0,1},{1,0}}")

    assert (one.kind, one.sent, one.axes) == ("collective-permute", 128, "data")


def test_a_permutation_of_nothing_sends_nothing():
    assert not one_line("collective-permute(%x), channel_id=39, source_target_pairs={}")


def test_a_collective_among_one_device_is_none():
    assert not one_line("all-reduce(%x), replica_groups={{0},{1},{2},{3}}, to_apply=%add")


def test_a_collective_spread_over_fusions_counts_once():
    fusion = (
        "%fused_NAME (p: f32[4,8]) -> f32[32,8] {\n  %p = f32[4,8]{1,0} parameter(0)\n"
        "  ROOT %g = f32[32,8]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8],"
        " dimensions={0}\n}\n\n"
    )
    text = (
        "HloModule m\n\n"
        + fusion.replace("NAME", "a")
        + fusion.replace("NAME", "b")
        + "ENTRY %main (x: f32[4,8]) -> f32[32,8] {\n  %x = f32[4,8]{1,0} parameter(0)\n"
        "  %one = f32[32,8]{1,0} fusion(%x), kind=kCustom, calls=%fused_a\n"
        "  ROOT %two = f32[32,8]{1,0} fusion(%x), kind=kCustom, calls=%fused_b\n}\n"
    )

    [one] = collectives.find(hlo.parse(text), {"data": 8})

    assert (one.times, one.payload) == (1, 128)


def test_what_leaves_a_slice_goes_over_the_data_centres_network():
    text = """HloModule m

ENTRY %main (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  %after = token[] after-all()
  %send = (f32[4,8]{1,0}, u32[], token[]) send(%x, %after), channel_id=5, HOW
  %recv = (f32[4,8]{1,0}, u32[], token[]) recv(%after), channel_id=4, HOW
  ROOT %out = f32[4,8]{1,0} get-tuple-element(%recv), index=0
}
"""
    how = 'is_host_transfer=true, frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}'

    [one] = collectives.find(hlo.parse(text.replace("HOW", how)), {"data": 12}, slices=3)

    assert (one.kind, one.axes, one.group, one.payload) == ("all-reduce", "dcn", 3, 128)
    assert one.sent == pytest.approx(2 * 128 * 2 / 3)


def test_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        hlo.parse("HloModule m\n")


def test_memory_counts_slices_in_place_updates_and_what_lies_in_fast_memory():
    text = """HloModule m

%fused (p: f32[10,8], i: s32[], q: f32[10,8], u: f32[1,8]) -> (f32[10,8], f32[1,8]) {
  %p = f32[10,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,8]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,8}
  %q = f32[10,8]{1,0} parameter(2)
  %u = f32[1,8]{1,0:S(1)} parameter(3)
  %both = f32[1,8]{1,0} add(%row, %u)
  %new = f32[10,8]{1,0} dynamic-update-slice(%q, %both, %i, %zero)
  ROOT %out = (f32[10,8]{1,0}, f32[1,8]{1,0:S(1)}) tuple(%new, %both)
}

ENTRY %main (p: f32[10,8], i: s32[], q: f32[10,8], u: f32[1,8]) -> f32[10,8] {
  %p = f32[10,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %q = f32[10,8]{1,0} parameter(2)
  %u = f32[1,8]{1,0:S(1)} parameter(3)
  %f = (f32[10,8]{1,0}, f32[1,8]{1,0:S(1)}) fusion(%p, %i, %q, %u), kind=kLoop, calls=%fused
  %first = f32[10,8]{1,0} get-tuple-element(%f), index=0
  ROOT %sum = f32[10,8]{1,0} add(%first, %p)
}
"""
    row, whole = 8 * 4, 10 * 8 * 4

    # a row read and a row written, the index (4 bytes); then two arrays read and one written
    assert traffic.count(hlo.parse(text)) == row + row + 4 + 3 * whole


@pytest.fixture(scope="module")
def compiled():
    """A loop that sums over the devices five times, and then collects all rows."""
    mesh = sharding.make_mesh(2)
    rows = NamedSharding(mesh, sharding.BATCH)
    halves, whole = NamedSharding(mesh, P("fsdp")), NamedSharding(mesh, P())

    def step(w, x):
        def turn(w, _):
            y = jnp.tanh(x @ jax.lax.with_sharding_constraint(w, whole))
            y = jax.lax.with_sharding_constraint(y, rows)
            return jax.lax.with_sharding_constraint(w + x.T @ y, halves), None

        w = jax.lax.scan(turn, w, None, length=5)[0]
        return w, jax.lax.with_sharding_constraint(jnp.tanh(x), whole)

    w = jax.ShapeDtypeStruct((24, 24), jnp.float32, sharding=halves)
    x = jax.ShapeDtypeStruct((16, 24), jnp.float32, sharding=rows)
    traced = jax.jit(step, out_shardings=(halves, whole)).trace(w, x)
    return traced, hlo.parse(traced.lower().compile().as_text()), mesh


def test_a_compiled_programs_collectives_are_those_that_arithmetic_gives(compiled):
    _, program, mesh = compiled

    found = collectives.find(program, dict(mesh.shape))

    gathers = {one.axes: one for one in found if one.kind == "all-gather"}
    weights, rows = gathers["fsdp"], gathers["data+fsdp"]
    assert (weights.times, weights.payload, weights.group) == (5, 24 * 12 * 4, 2)
    assert (rows.times, rows.payload, rows.group) == (1, 2 * 24 * 4, 8)
    # The partitioner sums the whole product over the two, and then each one's half over the four.
    sums = [(one.axes, one.payload) for one in found if one.kind == "all-reduce"]
    assert sorted(sums) == [("data", 12 * 24 * 4), ("fsdp", 24 * 24 * 4)]
    assert len(found) == 4


def test_operations_are_counted_through_loops(compiled):
    traced, _, _ = compiled

    assert flops.count(traced.jaxpr) == 5 * 2 * (2 * 16 * 24 * 24)


def test_operations_of_a_fori_loop_a_branch_and_a_convolution_are_counted():
    def step(x, image, kernel):
        y = jax.lax.fori_loop(0, 3, lambda i, y: y @ x, x)
        z = jax.lax.cond(x[0, 0] > 0, lambda: x @ x, lambda: x)
        w = jax.lax.conv_general_dilated(
            image, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return y, z, w

    arrays = [np.zeros(s, np.float32) for s in ((5, 5), (1, 6, 4, 3), (2, 2, 3, 7))]

    counted = flops.count(jax.jit(step).trace(*arrays).jaxpr)

    assert counted == 4 * (2 * 5**3) + 2 * (3 * 2 * 7) * (2 * 2 * 3)
