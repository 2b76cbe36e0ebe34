"""The tokeniser gives CLIP's ids: SPEC 10.1's golden values, and a plain Python BPE as oracle."""

import csv
import gzip
import hashlib
import http.server
import itertools
import json
import random
import threading
import unicodedata

import ftfy
import numpy as np
import pytest

from xclip_jax import tokenizer

MERGES = [
    ("t", "h"),
    ("a", "n</w>"),
    ("th", "e</w>"),
    ("r", "e"),
    ("re", "d</w>"),
    ("a", "a"),
    ("aa", "a</w>"),
    ("'", "s</w>"),
    ("!", "!</w>"),
    ("Ã", "©</w>"),  # the two bytes of é
    ("c", "a"),
    ("ca", "f"),
    ("caf", "Ã©</w>"),
]
START, END = 512 + len(MERGES), 513 + len(MERGES)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> tokenizer.Tokenizer:
    return tokenizer.load(write_merges(tmp_path_factory.mktemp("vocab") / "merges.txt"))


@pytest.fixture(scope="module")
def openai(shared) -> tokenizer.Tokenizer:
    return tokenizer.load(shared / "data/reference/bpe_simple_vocab_16e6.txt.gz")


def write_merges(path):
    path.write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in MERGES), encoding="utf-8")
    return path


def is_symbol(character: str) -> bool:
    return character != " " and unicodedata.category(character)[0] not in "LN"


def oracle_pieces(text: str) -> list[str]:
    """CLIP's alternatives tried in their order at each position, without a pattern."""
    pieces, i = [], 0
    fixed = ["<|startoftext|>", "<|endoftext|>", "'s", "'t", "'re", "'ve", "'m", "'ll", "'d"]
    while i < len(text):
        j = i
        found = next((literal for literal in fixed if text.startswith(literal, i)), "")
        if found:
            j = i + len(found)
        elif unicodedata.category(text[i])[0] == "N":
            j = i + 1
        else:
            for belongs in (str.isalpha, is_symbol):
                while j < len(text) and belongs(text[j]):
                    j += 1
                if j > i:
                    break
        if j > i:
            pieces.append(text[i:j])
        i = max(j, i + 1)
    return pieces


def oracle_ids(text: str) -> list[int]:
    """Greedy merges of lowest rank, all occurrences a round, with ids looked up in one list."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    alphabet = [chr(byte) for byte in kept] + [chr(256 + i) for i in range(len(moved))]
    symbol_of = dict(zip(kept + moved, alphabet, strict=True))
    symbols = alphabet + [s + "</w>" for s in alphabet] + [a + b for a, b in MERGES]
    symbols += ["<|startoftext|>", "<|endoftext|>"]
    ids = []
    for piece in oracle_pieces(text):
        if piece in symbols[-2:]:
            ids.append(symbols.index(piece))
            continue
        word = [symbol_of[byte] for byte in piece.encode()]
        word[-1] += "</w>"
        while pairs := [p for p in itertools.pairwise(word) if p in MERGES]:
            best = min(pairs, key=MERGES.index)
            merged, i = [], 0
            while i < len(word):
                step = 2 if tuple(word[i : i + 2]) == best else 1
                merged.append("".join(word[i : i + step]))
                i += step
            word = merged
        ids += [symbols.index(symbol) for symbol in word]
    return ids


def row(vocabulary, text, max_words=32) -> list[int]:
    ids, mask = vocabulary([text], max_words)
    assert not ids[0, mask[0].sum() :].any()
    return ids[0, mask[0]].tolist()


def test_the_thousand_captions_of_msrvtt_hash_to_the_golden_value(openai, shared):
    path = shared / "data/annotations/msrvtt-annotations/MSRVTT_JSFUSION_test.csv"
    with path.open(encoding="utf-8") as file:
        sentences = [line["sentence"] for line in csv.DictReader(file)]

    ids, _ = openai(sentences, 32)

    digest = hashlib.sha256(ids.astype("<i4").tobytes()).hexdigest()
    assert ids.shape == (1000, 32)
    assert digest == "cceec600cfde78fdf791674575043db7607cd277f8661651891a4c31845231ab"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a person is connecting something to system", [320, 2533, 533, 41429, 2006, 531, 2422]),
        (
            "A man's dog -- isn't it?  Café &amp; 12 eggs!!",
            [320, 786, 568, 1929, 2432, 2923, 713, 585, 286, 15304, 261, 272, 273, 7099, 748],
        ),
        ("“quoted” text… it’s 3d", [257, 27706, 257, 4160, 959, 585, 568, 274, 323]),
        ("", []),
        ("<|endoftext|> x", [49407, 343]),
        ("! a", [256, 320]),
    ],
)
def test_openais_vocabulary_gives_the_golden_sequences(openai, text, expected):
    assert row(openai, text) == [49406, *expected, 49407]
    assert openai.vocab_size == 49408


@pytest.mark.parametrize(
    "text",
    [
        "the red cafés aaaa aaaaa!!! than",
        "it's we're they've i'm you'll he'd don't rock'n'roll ''s 'sa",
        "12 ½ ² ٣ 3d x2y",
        "日本語 émoji🙂🙂 naïve café a\u0301\u0328x",
        "<|endoftext|>",
        "red<|startoftext|>an<|endoftext|><|endoftext|>!",
        "!<|endoftext|> the <|endoftext| >",
        "_under_score-dash/slash",
    ],
)
def test_ids_match_a_plain_greedy_bpe(small, text):
    assert row(small, text, 200) == [START, *oracle_ids(tokenizer.clean(text)), END]


def test_ids_match_a_plain_greedy_bpe_on_random_texts(small):
    rng = random.Random(0)
    parts = [*"aaatheredcafé's!!!12 ½  <|>_\n\t", "<|endoftext|>", "<|startoftext|>", "'RE", "’LL"]
    texts = ["".join(rng.choices(parts, k=rng.randrange(15))) for _ in range(500)]

    ids, mask = small(texts, 200)

    for i, text in enumerate(texts):
        assert ids[i, mask[i]].tolist() == [START, *oracle_ids(tokenizer.clean(text)), END], text


def test_upper_case_and_contractions_are_folded(small):
    assert row(small, "THE RED'S CAFÉ") == row(small, "the red's café")
    assert small.decode_words(row(small, "THE RED'S")) == [
        "<|startoftext|>",
        "the",
        "red",
        "'s",
        "<|endoftext|>",
    ]


def test_captions_are_cut_before_the_end_marker(small):
    ids, mask = small(["the red an the", "red", ""], 4)

    the, red = 512 + MERGES.index(("th", "e</w>")), 512 + MERGES.index(("re", "d</w>"))
    assert ids.dtype == np.int32 and mask.dtype == bool
    assert ids.tolist() == [[START, the, red, END], [START, red, END, 0], [START, END, 0, 0]]
    assert mask.tolist() == [[True] * 4, [True, True, True, False], [True, True, False, False]]


@pytest.mark.parametrize("words", [5_000, 30_000])
def test_a_caption_far_too_long_is_cut_like_any(small, words):
    ids, mask = small(["the red " * (words // 2), "e" * words, "the red the red the red"], 6)

    assert ids[0].tolist() == ids[2].tolist() and ids[1, 0] == START and ids[1, -1] == END
    assert mask.all()


def test_cleaning_of_plain_ascii_agrees_with_ftfy():
    rng = random.Random(0)
    printable = [chr(code) for code in range(32, 127)]
    texts = ["".join(rng.choices(printable, k=20)) for _ in range(500)] + ["<b>a < b</b>", "a\x0bb"]

    for text in texts:
        if "&" not in text:
            assert tokenizer.clean(text) == " ".join(ftfy.fix_text(text).split()).lower()


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("  Two\n\tspaces\u00a0HERE ", "two spaces here"),
        ("&amp;amp;lt;b&gt;", "<b>"),
        ("caf\u00c3\u00a9", "café"),  # UTF-8 read as Latin-1, which ftfy repairs
        ("lone \ud800 surrogate", "lone \ufffd surrogate"),
    ],
)
def test_cleaning_repairs_unescapes_and_collapses(text, cleaned):
    assert tokenizer.clean(text) == cleaned


def test_one_text_instead_of_a_list_and_too_few_words_are_errors(small):
    with pytest.raises(ValueError, match="expected a list"):
        small("red", 8)
    with pytest.raises(ValueError, match="max_words=1"):
        small(["red"], 1)


def test_every_kind_of_file_gives_the_same_ids(small, tmp_path):
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(write_merges(tmp_path / "m.txt").read_bytes()))
    alphabet = small.decode_words(range(94))  # only to see that ids start at "!"
    model = {"type": "BPE", "end_of_word_suffix": "</w>", "vocab": small._bpe.get_vocab()}
    for name, merges in (("pairs", MERGES), ("lines", [" ".join(pair) for pair in MERGES])):
        text = json.dumps({"model": model | {"merges": merges}})
        (tmp_path / name).write_text(text, encoding="utf-8")

    rows = [
        row(tokenizer.load(tmp_path / name), "The red café's!!")
        for name in ("a.gz", "m.txt", "pairs", "lines")
    ]

    assert rows == [row(small, "the red café's!!")] * 4
    assert "".join(alphabet[:3]) == '!"#'


def test_openais_surplus_merges_are_left_out(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer, "OPENAI_MERGES", 3)
    path = write_merges(tmp_path / "merges.txt")
    header = '"bpe_simple_vocab_16e6.txt#version: 0.2\n'
    (tmp_path / "openai").write_text(header + path.read_text("utf-8").split("\n", 1)[1], "utf-8")

    assert tokenizer.load(path).vocab_size == 514 + len(MERGES)
    assert tokenizer.load(tmp_path / "openai").vocab_size == 514 + 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a #version header"),
        (b"a b\nc d\n", "the first line is 'a b'"),
        (b"#version: 0.2\na b c\n", "merge 1 has 3 parts"),
        (b"#version: 0.2\na b\n\nc d\n", "merge 2 has 0 parts"),
        (b"#version: 0.2\nth e\n", "a symbol that nothing before made"),
        (b"\xff\xfe\x00\x01", "utf-8"),
        (b"\x1f\x8b\x08\x00broken", "is not a CLIP vocabulary"),
        (gzip.compress(b"#version: 0.2\na b\n" * 99, mtime=0)[:-9], "end too early"),
        (gzip.compress(b"#version" + b"a" * tokenizer.LIMIT, mtime=0), "more than"),
        (b'{"model": {"type": "WordPiece", "vocab": {}}}', "no BPE with </w>"),
        (b'{"model": {"end_of_word_suffix": "</w>", "merges": 5}}', "is not a CLIP vocabulary"),
        (b'{"model": {"end_of_word_suffix": "</w>", "merges": [], "vocab": {}}}', "CLIP's order"),
        (b'{"model": ' + b"[" * 100_000, "is not a CLIP vocabulary"),
        (b'{"model": 1', "is not a CLIP vocabulary"),
    ],
)
def test_a_wrong_file_is_named_in_one_clear_line(tmp_path, content, reason):
    path = tmp_path / "wrong"
    path.write_bytes(content)

    with pytest.raises(ValueError, match="expected bpe_simple_vocab") as caught:
        tokenizer.load(path)

    assert reason in str(caught.value)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no vocabulary file at .*nowhere"):
        tokenizer.load(tmp_path / "nowhere")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty home folder, no variable set, and no way to the network."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv(tokenizer.VARIABLE, raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    return tmp_path / "home"


def test_the_vocabulary_is_looked_for_in_the_documented_order(home, tmp_path, monkeypatch):
    places = {}
    for name in ("given/v", "beside/merges.txt", "named/v"):
        places[name] = tmp_path / name
        places[name].parent.mkdir()
        write_merges(places[name])
    cached = home / ".cache/xclip_jax/bpe_simple_vocab_16e6.txt.gz"
    cached.parent.mkdir(parents=True)
    write_merges(cached)
    assert tokenizer.find_vocab(beside=tmp_path) == cached

    monkeypatch.setenv(tokenizer.VARIABLE, str(places["named/v"]))

    assert tokenizer.find_vocab() == places["named/v"]
    assert tokenizer.find_vocab(beside=tmp_path / "beside") == places["beside/merges.txt"]
    assert tokenizer.find_vocab(places["given/v"], tmp_path / "beside") == places["given/v"]


def test_a_vocabulary_that_was_named_but_is_missing_is_an_error(home, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"config\.data\.vocab names .*none"):
        tokenizer.find_vocab(tmp_path / "none")

    monkeypatch.setenv(tokenizer.VARIABLE, str(tmp_path / "nil"))

    with pytest.raises(FileNotFoundError, match=r"XCLIP_JAX_VOCAB names .*nil"):
        tokenizer.find_vocab()


def test_without_network_the_error_says_where_to_put_the_file(home):
    with pytest.raises(FileNotFoundError) as caught:
        tokenizer.find_vocab()

    message = str(caught.value)
    assert str(home / ".cache/xclip_jax/bpe_simple_vocab_16e6.txt.gz") in message
    assert (
        tokenizer.OPENAI_URL in message and "config.data.vocab" in message and "\n" not in message
    )


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A web server on this machine with one file, `v`."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "v").write_bytes(b"vocabulary")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_a_download_is_checked_and_appears_whole(server, tmp_path):
    target = tmp_path / "deep" / "v"

    got = tokenizer._download(f"{server}/v", target, hashlib.sha256(b"vocabulary").hexdigest())

    assert got == target and target.read_bytes() == b"vocabulary"
    assert [path.name for path in target.parent.iterdir()] == ["v"]


def test_a_bad_download_leaves_nothing(server, tmp_path, monkeypatch):
    with pytest.raises(OSError, match="another sha256"):
        tokenizer._download(f"{server}/v", tmp_path / "v", "0" * 64)
    with pytest.raises(OSError, match="404"):
        tokenizer._download(f"{server}/absent", tmp_path / "v", "0" * 64)
    with pytest.raises(OSError, match="too slow"):
        tokenizer._download(f"{server}/v", tmp_path / "v", "0" * 64, seconds=-1)
    monkeypatch.setattr(tokenizer, "LIMIT", 5)
    with pytest.raises(OSError, match="too long"):
        tokenizer._download(f"{server}/v", tmp_path / "v", "0" * 64)

    assert not list(tmp_path.iterdir())
