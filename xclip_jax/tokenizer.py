"""CLIP's tokeniser: captions to token ids, by Hugging Face's Rust BPE set up as OpenAI's.

The vocabulary is a file of merges: OpenAI's `bpe_simple_vocab_16e6.txt.gz`, a `merges.txt`, or a
Hugging Face `tokenizer.json`. It is told by its content, found by `find_vocab`, never committed.
"""

import functools
import hashlib
import html
import http.client
import json
import os
import time
import urllib.request
import zlib
from pathlib import Path

import ftfy
import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers

from xclip_jax import retry

START, END = "<|startoftext|>", "<|endoftext|>"
# CLIP's pattern; of its alternatives only the contractions have a case to ignore.
PIECES = (
    r"<\|startoftext\|>|<\|endoftext\|>|(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
)
OPENAI_MERGES = 48_894  # OpenAI's file goes on after them, but the model knows no more
OPENAI_NAME = "bpe_simple_vocab_16e6.txt.gz"
OPENAI_URL = f"https://github.com/openai/CLIP/raw/main/clip/{OPENAI_NAME}"
OPENAI_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
NAMES = ("merges.txt", "tokenizer.json", OPENAI_NAME)  # looked for in a folder, in this order
VARIABLE = "XCLIP_JAX_VOCAB"
RETRIED = 10.0  # seconds, for a machine may have no network at all
LIMIT = 16 * 2**20  # bytes of a vocabulary, unpacked; OpenAI's has 3.2 million
EXPECTED = f"expected {OPENAI_NAME}, a merges.txt or a CLIP tokenizer.json"


class Tokenizer:
    """Turns captions into ids and masks of fixed width, as CLIP does."""

    def __init__(self, merges: list[tuple[str, str]]):
        vocab = _vocabulary(merges)
        self.vocab_size = len(merges) + 514  # CLIP's ids count repeated symbols too
        self._names = {index: symbol for symbol, index in vocab.items()}
        self._special = {START: vocab[START], END: vocab[END]}
        self._bpe = tokenizers.Tokenizer(
            models.BPE(vocab=vocab, merges=merges, end_of_word_suffix="</w>")
        )
        self._bpe.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(tokenizers.Regex(PIECES), "removed", invert=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )

    def __call__(self, texts: list[str], max_words: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns ids int32 [B, W] and a mask bool [B, W], True at tokens and both markers.

        Longer captions are cut before the end marker; the rest of a row is 0.
        """
        if isinstance(texts, str):
            raise ValueError(f"one text given, {texts[:40]!r}; expected a list of texts.")
        if max_words < 2:
            raise ValueError(f"max_words={max_words} leaves no room for the two markers; use >= 2.")
        cleaned = [clean(text) for text in texts]
        ids = np.zeros((len(texts), max_words), np.int32)
        lengths = np.zeros(len(texts), np.int64)
        for i, encoding in enumerate(self._bpe.encode_batch_fast(cleaned)):
            tokens = encoding.ids
            if START in cleaned[i] or END in cleaned[i]:
                tokens = self._encode_by_piece(cleaned[i])
            row = [self._special[START], *tokens[: max_words - 2], self._special[END]]
            ids[i, : len(row)] = row
            lengths[i] = len(row)
        return ids, np.arange(max_words) < lengths[:, None]

    def decode_words(self, ids: np.ndarray) -> list[str]:
        """Returns what each id of one row stands for, for showing; pass `ids[mask]`."""
        return [_show(self._names[int(index)]) for index in ids]

    def _encode_by_piece(self, text: str) -> list[int]:
        """Returns the ids of a text that spells a marker out, which becomes the marker itself.

        A marker counts only where CLIP's pattern finds it: "a<|endoftext|>" has one, while in
        "!<|endoftext|>" the punctuation before it swallows its first characters.
        """
        ids = []
        for piece, _ in self._bpe.pre_tokenizer.pre_tokenize_str(text):
            if piece in self._special:
                ids.append(self._special[piece])
            else:
                ids += [token.id for token in self._bpe.model.tokenize(piece)]
        return ids


def clean(text: str) -> str:
    """Returns a caption repaired, unescaped, with single spaces and in lower case, as CLIP does."""
    # ftfy leaves plain ASCII alone but for entities, and takes ten times as long as all the rest.
    if "&" in text or not (text.isascii() and text.isprintable()):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


@functools.cache
def _byte_symbols() -> dict[int, str]:
    """Returns a printable character for each byte, in the order of CLIP's ids."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}


def _vocabulary(merges: list[tuple[str, str]]) -> dict[str, int]:
    symbols = list(_byte_symbols().values())
    symbols += [symbol + "</w>" for symbol in symbols]
    symbols += [left + right for left, right in merges]
    return {symbol: index for index, symbol in enumerate([*symbols, START, END])}


def _show(symbol: str) -> str:
    if symbol in (START, END):
        return symbol
    byte_of = {character: byte for byte, character in _byte_symbols().items()}
    data = bytes(byte_of[character] for character in symbol.removesuffix("</w>"))
    return data.decode("utf-8", errors="replace")


def load(path: str | Path) -> Tokenizer:
    """Returns the tokeniser of a vocabulary file."""
    path = Path(path)
    try:
        text = _unpack(_read(path)).decode("utf-8").removeprefix("\ufeff")
        merges = _from_json(text) if text.lstrip().startswith("{") else _from_lines(text)
        _check(merges)
    except (ValueError, TypeError, zlib.error, RecursionError) as error:
        reason = f"{error}".splitlines()[0]
        raise ValueError(f"{path} is not a CLIP vocabulary ({reason}); {EXPECTED}.") from None
    return Tokenizer(merges)


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"no vocabulary file at {path}; {EXPECTED}.")
    with path.open("rb") as file:
        return file.read(LIMIT + 1)


def _unpack(data: bytes) -> bytes:
    """Returns the data, unpacked if it is gzip, never more than LIMIT bytes of it."""
    if data[:2] == b"\x1f\x8b":
        unpacker = zlib.decompressobj(wbits=31)
        data = unpacker.decompress(data, LIMIT + 1)
        if len(data) <= LIMIT and not unpacker.eof:
            raise ValueError("the gzip data end too early")
    if len(data) > LIMIT:
        raise ValueError(f"it holds more than {LIMIT} bytes")
    return data


def _from_lines(text: str) -> list[tuple[str, str]]:
    header, *lines = text.rstrip("\n").split("\n")
    if "#version" not in header:
        raise ValueError(f"the first line is {header[:40]!r}, not a #version header")
    if "bpe_simple_vocab_16e6" in header:
        lines = lines[:OPENAI_MERGES]
    return [tuple(line.split()) for line in lines]


def _from_json(text: str) -> list[tuple[str, str]]:
    model = json.loads(text).get("model")
    if not isinstance(model, dict) or model.get("end_of_word_suffix") != "</w>":
        raise ValueError('its "model" is no BPE with </w> at the ends of words')
    pairs = [pair.split() if isinstance(pair, str) else pair for pair in model.get("merges", [])]
    merges = [tuple(map(str, pair)) for pair in pairs]
    _check(merges)
    if model.get("vocab") != _vocabulary(merges):
        raise ValueError("its ids are not in CLIP's order")
    return merges


def _check(merges: list[tuple[str, str]]) -> None:
    known = set(_vocabulary([])) - {START, END}
    for rank, pair in enumerate(merges):
        if len(pair) != 2:
            raise ValueError(f"merge {rank + 1} has {len(pair)} parts, not 2")
        if not known.issuperset(pair):
            raise ValueError(f"merge {rank + 1}, {pair}, joins a symbol that nothing before made")
        known.add("".join(pair))


def find_vocab(given: str | Path | None = None, beside: str | Path | None = None) -> Path:
    """Returns the vocabulary file to use: the first there is of the places below.

    They are: `given`, a file; the folder `beside`, where shards bring their own; the file that
    XCLIP_JAX_VOCAB names; the cache ~/.cache/xclip_jax; a download of OpenAI's into that cache.
    """
    if given:
        return _named(given, "config.data.vocab")
    if beside and (found := _in_folder(Path(beside))):
        return found
    if os.environ.get(VARIABLE):
        return _named(os.environ[VARIABLE], VARIABLE)
    cache = Path.home() / ".cache" / "xclip_jax"
    if found := _in_folder(cache):
        return found
    try:
        return retry.call(
            lambda: _download(OPENAI_URL, cache / OPENAI_NAME, OPENAI_SHA256),
            OPENAI_URL,
            seconds=min(RETRIED, retry.patience()),
        )
    except (
        OSError,
        http.client.HTTPException,
        retry.StorageUnavailable,
    ) as error:  # no network, no room, no right
        raise FileNotFoundError(
            f"no vocabulary found, and {OPENAI_URL} could not be fetched ({error}): put that file"
            f" at {cache / OPENAI_NAME}, or name it by config.data.vocab or {VARIABLE}."
        ) from None


def _named(path: str | Path, source: str) -> Path:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{source} names {path}, which is no file; {EXPECTED}.")
    return Path(path)


def _in_folder(folder: Path) -> Path | None:
    return next((folder / name for name in NAMES if (folder / name).is_file()), None)


def _download(url: str, target: Path, sha256: str, *, seconds: float = 60) -> Path:
    """Fetches a file of at most LIMIT bytes within `seconds`; it appears whole or not at all."""
    deadline = time.monotonic() + seconds
    data = bytearray()
    with urllib.request.urlopen(url, timeout=10) as answer:
        while block := answer.read1(2**16):
            data += block
            if len(data) > LIMIT or time.monotonic() > deadline:
                raise OSError(f"stopped after {len(data)} bytes; it is too long or too slow")
    if hashlib.sha256(data).hexdigest() != sha256:
        raise OSError(f"what came has another sha256 than {sha256}")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    partial.write_bytes(data)
    os.replace(partial, target)
    return target
