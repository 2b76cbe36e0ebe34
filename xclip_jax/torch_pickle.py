"""Reads the pickles that torch writes, without making an object or calling a function of theirs.

A pickle is a program for a stack machine. This machine knows the instructions that put plain
values together and stops, by name, at every class or function that weights do not need. What
PyTorch calls to rebuild a tensor becomes a description: where the numbers lie and how.
"""

import dataclasses
import io
import pickletools
from typing import NamedTuple

LIMIT = 64 * 2**20  # bytes of a pickle; that of a CLIP takes 200 KB, its tensors lie elsewhere

# Number types by torch's name for a storage of them; NumPy has no bfloat16.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
}


class Name(NamedTuple):
    """A class or function that a pickle mentions; it is known here by its name alone."""

    module: str
    name: str


class Storage(NamedTuple):
    """A block of `count` numbers of a type, which lies under `key`."""

    dtype: str
    key: str
    count: int


class Tensor(NamedTuple):
    """A view of a storage; offset and strides count numbers."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Record:
    """An object of a TorchScript archive: its attributes, nothing of its class."""

    attributes: dict


def load(stream: io.BytesIO):
    """Returns the value that the next pickle of a stream describes, as plain Python values.

    Raises ValueError where it asks for a class or function that is not needed for weights, or is
    damaged.
    """
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except (LookupError, TypeError, AttributeError, UnicodeError, RecursionError) as error:
        raise ValueError(f"the pickle is damaged ({type(error).__name__}: {error})") from None
    raise ValueError("the pickle ends too early")


class _Machine:
    """The stack, the marks in it and the memo of a pickle that is being read."""

    def __init__(self):
        self.stack: list = []
        self.marks: list[int] = []
        self.memo: dict = {}

    def step(self, name: str, argument) -> None:
        """Carries out one instruction."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case _ if name in _LITERALS:
                stack.append(argument)
            case _ if name in _EMPTY:
                stack.append(_EMPTY[name]())
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                self.memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                self.memo[len(self.memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(self.memo[int(argument)])
            case "GLOBAL" | "INST":
                stack.append(_allowed(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                attribute = stack.pop()
                stack.append(_allowed(stack.pop(), attribute))
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "LIST":
                stack.append(self.since_mark())
            case "DICT":
                items = self.since_mark()
                stack.append(_put({}, items[::2], items[1::2]))
            case "APPEND":
                value = stack.pop()
                _expect(stack[-1], list).append(value)
            case "APPENDS":
                values = self.since_mark()
                _expect(stack[-1], list).extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _put(stack[-1], [key], [value])
            case "SETITEMS":
                items = self.since_mark()
                _put(stack[-1], items[::2], items[1::2])
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_rebuild(stack.pop(), _expect(arguments, tuple)))
            case "NEWOBJ":
                stack.pop()
                if not _expect(stack.pop(), Name).module.startswith("__torch__"):
                    raise ValueError("the pickle makes an object where weights have none")
                stack.append(Record({}))
            case "BUILD":
                state = stack.pop()
                if isinstance(stack[-1], Record):
                    stack[-1].attributes = state if isinstance(state, dict) else {}
                else:
                    _expect(stack[-1], dict)  # a state dict's notes on versions: not needed
            case _:
                raise ValueError(f"the pickle has the instruction {name}, which weights never need")

    def since_mark(self) -> list:
        """Takes all that was put on the stack after the latest mark."""
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values


_LITERALS = {
    *("BININT", "BININT1", "BININT2", "LONG1", "INT", "LONG", "BINFLOAT", "FLOAT"),
    *("BINUNICODE", "SHORT_BINUNICODE", "UNICODE", "BINSTRING", "SHORT_BINSTRING", "STRING"),
}
_EMPTY = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple}
_FUNCTIONS = {
    Name("collections", "OrderedDict"),
    Name("torch._utils", "_rebuild_tensor_v2"),
    Name("torch._utils", "_rebuild_parameter"),
    Name("torch", "Size"),
}


def _allowed(module: str, name: str) -> Name:
    """Returns the name of what a pickle asks for, if weights may need it."""
    asked = Name(module, name)
    storage = module == "torch" and name in STORAGES
    # A TorchScript archive names its modules' own classes, of which only the attributes count.
    if asked in _FUNCTIONS or storage or module.split(".")[0] == "__torch__":
        return asked
    if module == "torch.jit._pickle" and name.startswith("build_"):  # of a list, which it types
        return asked
    raise ValueError(
        f"the pickle asks for {module}.{name}, which weights never need: nothing of it was run."
        " Where you trust the file, load it with PyTorch and save model.state_dict()"
    )


def _storage(identity) -> Storage:
    """Returns what a persistent id ("storage", type, key, device, count, ...) stands for."""
    kind, dtype, key, _, count, *_ = _expect(identity, tuple)
    if kind != "storage" or _expect(dtype, Name).name not in STORAGES:
        raise ValueError(f"the pickle refers to a {kind!r} of {dtype}, not to a block of numbers")
    return Storage(STORAGES[dtype.name], str(key), _expect(count, int))


def _rebuild(function, arguments: tuple):
    """Returns what a call of an allowed function describes."""
    match function:
        case Name("collections", "OrderedDict"):
            pairs = [_expect(pair, list) for pair in arguments[0]] if arguments else []
            return _put({}, [key for key, _ in pairs], [value for _, value in pairs])
        case Name("torch._utils", "_rebuild_tensor_v2"):
            storage, offset, shape, strides, *_ = arguments
            return _tensor(_expect(storage, Storage), offset, shape, strides)
        case Name("torch._utils", "_rebuild_parameter"):
            return _expect(arguments[0], Tensor)
        case Name("torch", "Size"):
            return tuple(arguments[0])
        case Name("torch.jit._pickle", _):
            return arguments[0]
    raise ValueError(f"the pickle calls {function}")


def _tensor(storage: Storage, offset, shape, strides) -> Tensor:
    """Returns a view that lies within its storage and is no larger than it."""
    numbers = [offset, *shape, *strides]
    if len(shape) != len(strides) or any(type(n) is not int or n < 0 for n in numbers):
        raise ValueError(f"a tensor of shape {shape} has offset {offset} and strides {strides}")
    size = 1
    for n in shape:
        size *= n
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    if size and (size > storage.count or last >= storage.count):
        raise ValueError(f"a tensor of shape {shape} reaches beyond its {storage.count} numbers")
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _put(into, keys: list, values: list) -> dict:
    """Puts items into a dict; keys are plain, since to hash a deep tuple can end the process."""
    for key, value in zip(keys, values, strict=True):
        if type(key) not in (str, int, float, bool, type(None)):
            raise ValueError(f"the pickle has a {type(key).__name__} for a name")
        _expect(into, dict)[key] = value
    return _expect(into, dict)


def _expect(value, kind: type):
    if type(value) is not kind:
        raise ValueError(f"the pickle has a {type(value).__name__} where a {kind.__name__} belongs")
    return value
