"""What the documents say is so: commands parse, keys and names exist, no quirk is missing."""

import ast
import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from xclip_jax import cli, config_loader
from xclip_jax.data.jsonl.jsonl_dataset_builder import read_clips

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/**/*.md", "benchmarks/*.md", "data/**/README.md", "tests/*/*.md")
    for path in ROOT.glob(pattern)
)
COMMANDS = (
    *("demo", "build", "doctor", "compress", "train", "eval", "index", "search", "serve"),
    *("explain", "convert", "embed", "export", "download", "plan"),
)
SPAN = re.compile(r"`([^`\n]+)`")
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
    """Returns the words of each `xclip-jax` command in code, without the command's path."""
    fenced = "\n".join(FENCE.findall(text)).replace("\\\n", " ")
    code = [*fenced.splitlines(), *SPAN.findall(FENCE.sub("", text))]
    lines = [re.sub(r"^(\.venv/bin/)", "", line.strip()) for line in code]
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("xclip-jax ")]


def parses(words: list[str]) -> str:
    """Returns what is wrong with a command; one that lacks what is required is a mere mention."""
    name, *options = words
    if name not in COMMANDS:
        return f"there is no command {name}"
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            arguments = cli._parse(words)
            if name == "train":
                config_loader.load(arguments.config, arguments.overrides)
        except SystemExit:
            if "the following arguments are required" not in said.getvalue():
                return said.getvalue()
            unknown = {word for word in options if word.startswith("-")} - set(options_of(name))
            return f"{name} has no {' '.join(unknown)}" if unknown else ""
        except (ValueError, FileNotFoundError) as error:
            return str(error)
    return ""


def options_of(name: str) -> list[str]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        cli._parse([name, "--help"])
    return re.findall(r"^ +(--?[\w-]+)", said.getvalue(), re.MULTILINE)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_is_one_that_the_parser_takes(path):
    wrong = {" ".join(words): parses(words) for words in commands(text_of(path))}

    assert not {command: problem for command, problem in wrong.items() if problem}


def test_the_examples_of_the_help_are_whole_commands():
    lines = [re.split(r"\s{3,}", line.strip())[0] for line in cli.EXAMPLES.splitlines()[1:]]

    assert len(lines) >= len(COMMANDS)
    for line in lines:
        arguments = cli._parse(shlex.split(line)[1:])
        if line.startswith("xclip-jax train"):
            config_loader.load(arguments.config, arguments.overrides)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["tain", "--config", "jsonl"], "no command"),
        (["eval", "--workdir", "runs/mine", "--splt", "test"], "--splt"),
        (["build", "msrvt", "--out", "shards"], "invalid choice"),
        (["train", "--config", "jsnl", "--workdir", "runs/mine"], "jsnl"),
        (["train", "--config", "jsonl", "--workdir", "r", "--config.batchsize=8"], "batchsize"),
        (["eval", "--splt", "test"], "--splt"),
    ],
)
def test_a_wrong_command_is_noticed(words, problem):
    assert problem in parses(words)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_config_key_is_one_that_a_config_takes(path):
    for override in re.findall(r"--config\.[a-z][\w.]*=[^\s`]+", text_of(path)):
        assert any(takes(model, override) for model in ("xclip", "clip4clip", "clip2video"))


def takes(model: str, override: str) -> bool:
    try:
        config_loader.load(f"jsonl:model={model}", [override])
    except ValueError:
        return False
    return True


def definitions(path: Path) -> set[str]:
    """Returns the names that a module defines, those in classes as `Class.name`."""

    def names(body, prefix=""):
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{prefix}{node.name}.")
            if isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (prefix + t.id for t in targets if isinstance(t, ast.Name))

    return set(names(ast.parse(text_of(path)).body))


def places(text: str) -> list[tuple[str, str]]:
    """Returns (file, name) of what follows a file: `a/b.py` `name`, `Class.name`."""
    found = []
    for file, names in re.findall(r"`([\w/]+\.py)`((?:,? `[\w.]+`)+)", text):
        found += [(file, name) for name in SPAN.findall(names) if not name.endswith(".py")]
    return found


def test_every_function_named_beside_its_file_is_defined_there():
    named = {path: places(text_of(path)) for path in DOCUMENTS}

    assert len(named[ROOT / "docs/parity.md"]) > 50
    for path, found in named.items():
        missing = [f"{file} {name}" for file, name in found if name not in definitions(ROOT / file)]
        assert not missing, f"{path.name}: {missing}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_and_link_in_the_tree_exists(path):
    text = text_of(path)
    links = re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", text)
    files = [span for span in SPAN.findall(text) if re.fullmatch(r"[\w./]+/[\w.]+\.(py|md)", span)]

    assert not [link for link in links if not (path.parent / link).exists()]
    assert not [file for file in files if not (ROOT / file).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_target_of_make_exists(path):
    wanted = re.findall(r"`?\bmake (?:[A-Z]+=\S+ )?([a-z]+)\b", "\n".join(code_of(text_of(path))))

    assert set(wanted) <= set(re.findall(r"^(\w+):", text_of(ROOT / "Makefile"), re.MULTILINE))


def code_of(text: str) -> list[str]:
    return [*FENCE.findall(text), *SPAN.findall(FENCE.sub("", text))]


def marked_places() -> set[tuple[str, str]]:
    """Returns (file, innermost definition) of each line of code with the word "parity"."""
    found = set()
    for folder in ("xclip_jax", "configs", "data"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            text = text_of(path)
            for number, line in enumerate(text.splitlines(), 1):
                if re.search(r"\bparity\b(?!\.md)", line, re.IGNORECASE):
                    found.add((str(path.relative_to(ROOT)), _around(ast.parse(text), number)))
    return found


def _around(tree: ast.Module, line: int) -> str:
    """Returns the name of the innermost class or function around a line, or of the constant."""
    name, body = "", tree.body
    while True:
        # A comment above a statement belongs to it.
        node = next((node for node in body if node.end_lineno >= line), None)
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name, body = f"{name}.{node.name}".lstrip("."), node.body
        elif isinstance(node, ast.Assign) and not name:
            return node.targets[0].id
        else:
            return name


def test_every_mark_of_parity_has_its_line_and_every_line_its_mark():
    _, _, table = text_of(ROOT / "docs/parity.md").partition('## Where the code says "parity"')

    documented = places(table)

    assert len(documented) == len(set(documented))
    assert set(documented) == marked_places()


def test_all_thirty_quirks_are_there_in_order_with_what_becomes_of_them():
    rows = re.findall(r"^\| (\d+) \|(.*)\|(.*)\|(.*)\|$", text_of(ROOT / "docs/parity.md"), re.M)

    assert [int(number) for number, *_ in rows] == list(range(1, 31))
    for number, references, ours, switch in rows:
        assert references.strip() and switch.strip(), number
        assert ours.strip() or "comes with" in switch, number


def test_every_option_of_a_benchmark_is_one_it_takes():
    for span in SPAN.findall(text_of(ROOT / "benchmarks/README.md")):
        script, *options = span.split()
        if script.endswith(".py") and options:
            source = text_of(ROOT / "benchmarks" / script)
            known = set(re.findall(r"add_argument\(\s*\"(--[\w-]+)\"", source))
            assert {word for word in options if word.startswith("--")} <= known, span


def test_the_list_of_clips_in_the_readme_is_one_that_build_reads(tmp_path):
    [block] = re.findall(r"```jsonl\n(.*?)```", text_of(ROOT / "README.md"), re.DOTALL)
    listed = tmp_path / "clips.jsonl"
    listed.write_text(block, encoding="utf-8")

    clips = read_clips(listed)

    assert len(clips) == len(block.splitlines())
    assert {clip.split for clip in clips} == {"train", "test"}
    assert any(clip.end for clip in clips)
    assert all(set(json.loads(line)) for line in block.splitlines())
