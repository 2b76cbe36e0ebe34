"""What devices send each other in a compiled program: every collective, by mesh axis and bytes."""

import math
import re
from typing import NamedTuple

import numpy as np

from xclip_jax.plan import hlo

_IOTA = r"\[([\d,]+)\](?:T\(([\d,]+)\))?"
KINDS = (
    *("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute"),
    *("ragged-all-to-all", "collective-broadcast"),
)


class Collective(NamedTuple):
    """A collective of the program.

    Attributes:
      kind: as XLA calls it.
      axes: the mesh axes over which it goes, "data", "data+fsdp", or "dcn" between slices: of one
        over several slices XLA makes one within each and one between them.
      group: devices that take part together.
      payload: bytes of a device's operands, each time.
      times: how often it runs.
      sent: bytes that a device sends all in all, as `sent_bytes` has it.
      op_name: the JAX operation that it comes from.
    """

    kind: str
    axes: str
    group: int
    payload: int
    times: int
    sent: float
    op_name: str


def sent_bytes(kind: str, payload: int, group: int) -> float:
    """Returns the bytes that a device has to send when each of a group brings `payload` bytes.

    The least that any algorithm gets by with: what a ring does.
    """
    match kind:
        case "all-gather":
            return payload * (group - 1)
        case "all-reduce":
            return 2 * payload * (group - 1) / group
        case "reduce-scatter" | "all-to-all" | "ragged-all-to-all":
            return payload * (group - 1) / group
    return payload  # a permutation, a broadcast


def find(program: hlo.Program, mesh: dict[str, int], *, slices: int = 1) -> list[Collective]:
    """Returns the collectives of a program in which devices send something, the largest first.

    Args:
      mesh: the axes' names and sizes, slowest first; device i of the program is at position i.
      slices: how many slices the devices are of; the first axis of the mesh goes over them.
    """
    often, _ = hlo.times(program)
    inside = hlo.fused(program)
    devices = math.prod(mesh.values()) // slices
    found, seen = [], set()
    for name, lines in program.computations.items():
        for line in lines.values():
            kind, group, axes = _what(line, name, mesh, devices, slices)
            if not kind or not often[name] or (group == 1 and kind != "collective-permute"):
                continue
            # The TPU's compiler spreads one collective over the fusions that run meanwhile: each
            # holds a copy of it, by the same channel.
            channel = re.search(r"channel_id=(\d+)", line.attributes)
            if name in inside and channel:
                if (kind, channel[1]) in seen:
                    continue
                seen.add((kind, channel[1]))
            payload = sum(lines[operand].bytes for operand in line.operands if operand in lines)
            sent = often[name] * sent_bytes(kind, payload, group)
            found.append(Collective(kind, axes, group, payload, often[name], sent, line.op_name))
    return sorted(found, key=lambda one: -one.sent)


def _what(
    line: hlo.Instruction, computation: str, mesh: dict[str, int], devices: int, slices: int
) -> tuple[str, int, str]:
    """Returns the kind of a collective, the size of its groups and its axes; "" for others."""
    if between := re.search(r'_xla_megascale_transfer_type="(\w+)"', line.attributes):
        if line.opcode != "send":
            return "", 1, ""
        return between[1].lower().replace("_", "-"), slices, "dcn"
    kind = line.opcode.removesuffix("-start")
    if kind not in KINDS:
        return "", 1, ""
    if kind == "all-reduce" and computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"
    groups = _groups(line, devices)
    if not groups:  # a permutation of nothing, by which the devices of several slices wait
        return "", 1, ""
    return kind, len(groups[0]), _axes(groups, mesh)


def _groups(line: hlo.Instruction, devices: int) -> list[list[int]]:
    """Returns the groups of devices, in any of the forms that XLA writes them in."""
    text = line.attributes
    if pairs := re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}", text):
        return [[int(n) for n in pair.split(",")] for pair in re.findall(r"\{([\d,]+)\}", pairs[1])]
    if lists := re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", text):
        groups = [
            [int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", lists[1])
        ]
        return groups or [list(range(devices))]
    if iota := re.search(rf"replica_groups=\[(\d+),(\d+)\]<={_IOTA}", text):
        return _iota(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2])).tolist()
    ids = rf"(?:, device_ids=\((?:{_IOTA}|([\d,]+))\))?"
    if named := re.search(rf"replica_groups=@?mesh\[([^\]]*)\]{ids} \{{([^}}]*)\}}", text):
        sizes, shape, order, listed, axes = named.groups()
        ids = None
        if shape or listed:
            ids = _iota(shape, order) if shape else np.array([int(n) for n in listed.split(",")])
        return _named_groups(sizes, ids, axes)
    if "replica_groups=" in text:
        raise ValueError(f"cannot read the groups of devices in {text[:200]!r}.")
    return [list(range(devices))]


def _iota(shape: str, order: str | None) -> np.ndarray:
    """Returns the device numbers of `[4,2]T(1,0)`: 0 to 7 as [4, 2], then transposed."""
    sizes = [int(n) for n in shape.split(",")]
    ids = np.arange(math.prod(sizes)).reshape(sizes)
    return ids.transpose([int(n) for n in order.split(",")]) if order else ids


def _named_groups(mesh: str, ids: np.ndarray | None, axes: str) -> list[list[int]]:
    """Returns the groups of `mesh['a'=2,'b'=4] {'b'}`, where `'b':(2)2` is a part of an axis."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    wanted = re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", axes)
    if ids is None:
        ids = np.arange(math.prod(sizes.values()))
    shape: list[int] = []
    grouped: list[int] = []
    for name, size in sizes.items():
        parts = [(int(pre or 1), int(part or size)) for axis, pre, part in wanted if axis == name]
        for pre, part in parts or [(size, 1)]:
            grouped.append(len(shape) + 1)
            shape += [pre, part, size // pre // part]
    ids = ids.reshape(shape)
    rest = [i for i in range(len(shape)) if i not in grouped]
    count = math.prod(shape[i] for i in grouped)
    return ids.transpose([*rest, *grouped]).reshape(-1, count).tolist()


def _axes(groups: list[list[int]], mesh: dict[str, int]) -> str:
    """Returns the names of the axes along which a group's devices differ."""
    places = np.array(np.unravel_index(groups[0], tuple(mesh.values())))
    varying = [name for name, row in zip(mesh, places, strict=True) if len(set(row.tolist())) > 1]
    return "+".join(varying) or "none"
