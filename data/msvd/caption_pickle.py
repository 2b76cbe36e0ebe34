"""Reads `raw-captions.pkl` without making an object or calling a function: plain values only.

A pickle is a program for a stack machine. This machine knows no instruction but those that put
texts, lists and dicts together, and stops by name at every class or function.
"""

import io
import pickletools

LIMIT = 64 * 2**20  # bytes; MSVD's has 4 to 9 MB


def load(data: bytes, where: object) -> dict[str, list[str]]:
    """Returns id -> captions of a pickled dict of lists of texts or of lists of words.

    Raises ValueError where it is something else, is damaged, or asks for a class or function.
    """
    if len(data) > LIMIT:
        raise ValueError(
            f"{where} has more than {LIMIT >> 20} MiB: no list of captions is so large."
        )
    try:
        value = _run(data)
    except _Refused as error:
        raise ValueError(
            f"{where} is no list of captions: {error}. Nothing of it was run."
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(
            f"{where} is no pickle, or damaged ({error}): download it again."
        ) from None
    return _captions(value, where)


class _Refused(Exception):
    """A pickle that asks for more than plain values."""


def _run(data: bytes):
    """Returns the value that the first pickle in the data describes."""
    stack, marks, memo = [], [], {}

    def since_mark() -> list:
        start = marks.pop()
        values = stack[start:]
        del stack[start:]
        return values

    for opcode, argument, _ in pickletools.genops(io.BytesIO(data)):
        match opcode.name:
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "UNICODE":
                stack.append(argument)
            case "SHORT_BINSTRING" | "BINSTRING" | "STRING":  # bytes, as Python 2 wrote texts
                stack.append(argument.encode("latin-1").decode("utf-8"))
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST" | "TUPLE":
                stack.append(since_mark())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [stack[-count:]]
            case "EMPTY_TUPLE":
                stack.append([])
            case "DICT":
                items = since_mark()
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                values = since_mark()
                stack[-1].extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                items = since_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "GLOBAL" | "INST":
                raise _Refused(f"it asks for {argument.replace(' ', '.')}")
            case "STACK_GLOBAL":
                names = [text for text in stack[-2:] if type(text) is str]
                raise _Refused(f"it asks for {'.'.join(names):.200}")
            case name:
                raise _Refused(f"it has the instruction {name}, which captions never need")
    raise ValueError("it ends too early")


def _captions(value, where: object) -> dict[str, list[str]]:
    """Returns the dict with each caption's words joined by one space."""
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where} holds no dict of captions, but {type(value).__name__}.")
    captions, size = {}, 0
    for video_id, texts in value.items():
        if type(video_id) is not str or type(texts) is not list:
            raise ValueError(
                f"{where} is no dict from ids to lists of captions at {video_id!r:.99}."
            )
        captions[video_id] = []
        for text in texts:
            words = text if type(text) is list else [text]
            if not all(type(word) is str for word in words):
                raise ValueError(f"{where} has a caption of {video_id!r:.99} that is no text.")
            size += sum(map(len, words)) + len(words)
            if size > LIMIT:  # a pickle may name one long text a million times
                raise ValueError(f"{where} unpacks to more than {LIMIT >> 20} MiB of captions.")
            captions[video_id].append(" ".join(words))
    return captions
