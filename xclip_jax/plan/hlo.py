"""Reads the text of a compiled XLA program: what each computation holds and how often it runs.

XLA's own cost analysis counts the body of a loop once. Here every computation knows how often it
is run, so that the bytes of a loop's body count as many times as it goes round.
"""

import functools
import math
import re
from typing import NamedTuple

_BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4, "token": 0, "opaque": 0}
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,]*)\](\{[^}]*\})?")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|true_computation|false_computation)"
    r"=(\{[^}]*\}|%?[\w.-]+)"
)


class Array(NamedTuple):
    """One array of an instruction's result; `space` is 0 for a device's main memory."""

    dtype: str
    dims: tuple[int, ...]
    space: int

    @property
    def bytes(self) -> int:
        """The array's size without the padding of its layout."""
        bits = _BITS.get(self.dtype) or _digits(self.dtype)
        return math.prod(self.dims) * bits // 8


class Instruction(NamedTuple):
    """One line: `name = result opcode(operands), attributes`."""

    name: str
    opcode: str
    result: list[Array]
    operands: list[str]
    called: dict[str, list[str]]
    arguments: str  # what stands between the parentheses
    attributes: str
    root: bool

    @property
    def bytes(self) -> int:
        return sum(array.bytes for array in self.result)

    @property
    def callees(self) -> list[str]:
        return [name for names in self.called.values() for name in names]

    @property
    def op_name(self) -> str:
        """The JAX operation that this comes from, "" if the compiler does not say."""
        found = re.search(r'op_name="([^"]*)"', self.attributes)
        return found[1] if found else ""


class Program(NamedTuple):
    """A compiled program: its computations by name, each with its instructions by name."""

    computations: dict[str, dict[str, Instruction]]
    entry: str

    def root(self, computation: str) -> Instruction:
        """Returns the instruction whose result a computation returns."""
        found = self.computations[computation].values()
        return next((line for line in found if line.root), list(found)[-1])


def parse(text: str) -> Program:
    """Returns the program of `compiled.as_text()`."""
    computations: dict[str, dict[str, Instruction]] = {}
    entry, current = "", None
    for line in text.splitlines():
        if line[:1] not in (" ", "}", "") and line.endswith("{") and " -> " in line:
            name = line.removeprefix("ENTRY ").split(" ", 1)[0].split("(", 1)[0].lstrip("%")
            current = computations[name] = {}
            if line.startswith("ENTRY"):
                entry = name
        elif line.startswith("}"):
            current = None
        elif current is not None and " = " in line:
            instruction = _instruction(line)
            current[instruction.name] = instruction
    if not entry:
        raise ValueError("this is not the text of a compiled program: it has no ENTRY.")
    return Program(computations, entry)


def _instruction(line: str) -> Instruction:
    head, _, rest = re.sub(r"/\*.*?\*/", "", line).strip().partition(" = ")
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    end = _closing(rest, len(opcode))
    arguments, attributes = rest[len(opcode) + 1 : end], rest[end + 1 :]
    called = {kind: re.findall(r"[\w.-]+", names) for kind, names in _CALLED.findall(attributes)}
    return Instruction(
        head.removeprefix("ROOT ").lstrip("%"),
        opcode,
        [_array(*found) for found in _ARRAY.findall(result)],
        re.findall(r"%([\w.-]+)", arguments),
        called,
        arguments,
        attributes,
        head.startswith("ROOT "),
    )


def _array(dtype: str, dims: str, layout: str) -> Array:
    space = _SPACE.search(layout)
    return Array(dtype, tuple(int(n) for n in dims.split(",") if n), int(space[1]) if space else 0)


def _digits(dtype: str) -> int:
    """Returns the bits of f32, s8, u64, c64, f8e4m3fn."""
    found = re.match(r"[a-z]+(\d+)", dtype)
    return int(found[1]) if found else 0


def _closing(text: str, start: int) -> int:
    """Returns where the parenthesis that opens at `start` closes."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"no closing parenthesis in {text[start : start + 60]!r}.")


def trip_count(program: Program, computation: str, loop: Instruction) -> int | None:
    """Returns how often the body of a `while` runs, None where the text does not say.

    XLA writes it into the backend config, or it follows from a condition `i < constant`.
    """
    if known := re.search(r'known_trip_count[^}]*?"?n"?:"?(\d+)', loop.attributes):
        return int(known[1])
    condition = program.computations[loop.called["condition"][0]]
    compared = [line for line in condition.values() if "direction=LT" in line.attributes]
    if len(compared) != 1:
        return None
    bound = [condition[name] for name in compared[0].operands if name in condition]
    limits = [int(line.arguments) for line in bound if line.opcode == "constant"]
    counters = [line for line in bound if line.opcode == "get-tuple-element"]
    if len(limits) != 1 or len(counters) != 1:
        return None
    index = int(re.search(r"index=(\d+)", counters[0].attributes)[1])
    start = _initial(program.computations[computation], loop, index)
    return None if start is None else limits[0] - start


def _initial(lines: dict[str, Instruction], loop: Instruction, index: int) -> int | None:
    """Returns the constant from which element `index` of a loop's state starts."""
    state = lines[loop.operands[0]]
    line = lines.get(state.operands[index]) if state.opcode == "tuple" else None
    while line is not None and line.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
        line = lines.get(line.operands[0])
    constant = line is not None and line.opcode == "constant"
    return int(line.arguments) if constant else None


def times(program: Program) -> tuple[dict[str, int], list[str]]:
    """Returns how often each computation runs, and the loops whose count is not known (once)."""
    callers: dict[str, list[tuple[str, int]]] = {name: [] for name in program.computations}
    unknown = []
    for name, lines in program.computations.items():
        for line in lines.values():
            for kind, names in line.called.items():
                rounds = 1
                if line.opcode == "while":
                    rounds = trip_count(program, name, line)
                    if rounds is None and kind == "body":
                        unknown.append(line.name)
                    rounds = 1 if rounds is None else rounds
                for callee in names:
                    if callee in callers:
                        callers[callee].append((name, rounds))

    @functools.cache
    def count(name: str) -> int:
        return (name == program.entry) + sum(n * count(by) for by, n in callers[name])

    return {name: count(name) for name in callers}, unknown


def fused(program: Program) -> set[str]:
    """Returns the computations within fusions and reductions, whose values are in registers."""
    inside: set[str] = set()
    waiting = [
        callee
        for lines in program.computations.values()
        for line in lines.values()
        if line.opcode == "fusion" or "to_apply" in line.called
        for callee in line.callees
        if line.opcode != "call"
    ]
    while waiting:
        name = waiting.pop()
        if name not in inside and name in program.computations:
            inside.add(name)
            for line in program.computations[name].values():
                waiting += line.callees
    return inside
