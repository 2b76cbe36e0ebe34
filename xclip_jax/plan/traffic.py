"""Counts the bytes that a compiled program moves to and from main memory, loops included."""

from xclip_jax.plan import hlo

# These name memory that another instruction has made, or move nothing.
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"} | {
    "while",
    "conditional",
    "call",
    "partition-id",
    "replica-id",
    "opt-barrier",
}


def count(program: hlo.Program) -> int:
    """Returns the bytes that all instructions together read from and write to main memory.

    What a fusion keeps in registers, and what the compiler placed in a chip's fast memory, does
    not count; of an array that is only sliced or updated in place, the slice does.
    """
    often, _ = hlo.times(program)
    inside = hlo.fused(program)
    return sum(
        often[name] * _traffic(program, lines, line)
        for name, lines in program.computations.items()
        if name not in inside and often[name]
        for line in lines.values()
    )


def _traffic(program: hlo.Program, lines: dict[str, hlo.Instruction], line: hlo.Instruction) -> int:
    if line.opcode in _FREE or line.opcode.endswith(("-done", "-update")):
        return 0
    operands = [lines[name] for name in line.operands if name in lines]
    if line.opcode == "fusion":
        return _fusion_traffic(program, operands, line)
    if line.opcode.endswith("-start"):  # a copy, or a collective: once there and once back
        return 2 * sum(_main(operand) for operand in operands)
    if line.opcode in ("dynamic-slice", "slice", "gather"):
        return 2 * _main(line)
    if line.opcode == "dynamic-update-slice":
        return 2 * _main(operands[1])
    return _main(line) + sum(_main(operand) for operand in operands)


def _main(line: hlo.Instruction) -> int:
    return sum(array.bytes for array in line.result if array.space == 0)


def _fusion_traffic(
    program: hlo.Program, operands: list[hlo.Instruction], line: hlo.Instruction
) -> int:
    name = line.called["calls"][0]
    body = program.computations[name]
    users: dict[str, list[hlo.Instruction]] = {inner: [] for inner in body}
    for inner in body.values():
        for operand in inner.operands:
            if operand in users:
                users[operand].append(inner)
    moved = 0
    for inner in body.values():
        if inner.opcode == "parameter" and int(inner.arguments) < len(operands):
            outer = operands[int(inner.arguments)]
            if _main(outer):
                moved += min(_main(outer), _read(inner, users))
    root = program.root(name)
    ends = [body[part] for part in root.operands] if root.opcode == "tuple" else [root]
    for end, array in zip(ends, line.result, strict=False):
        if array.space == 0:
            moved += _written(end, body, array)
    return moved


def _read(value: hlo.Instruction, users: dict[str, list[hlo.Instruction]]) -> int:
    """Returns the bytes of an operand that a fusion looks at."""
    total = 0
    for user in users[value.name]:
        if user.opcode == "bitcast":
            total += _read(user, users)
        elif user.opcode in ("dynamic-slice", "slice", "gather"):
            total += user.bytes if user.operands[0] == value.name else value.bytes
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == value.name:
            total += 0  # updated in place
        elif user.opcode not in ("tuple", "custom-call", "all-gather", "all-reduce"):
            return value.bytes
    return total


def _written(end: hlo.Instruction, body: dict[str, hlo.Instruction], array: hlo.Array) -> int:
    """Returns the bytes that a fusion writes of one of its results."""
    while end.opcode == "bitcast":
        end = body[end.operands[0]]
    if end.opcode == "dynamic-update-slice":
        return body[end.operands[1]].bytes
    if end.opcode in ("parameter", "get-tuple-element", "custom-call"):
        return 0  # handed on
    return array.bytes
