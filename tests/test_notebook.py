"""The notebook in docs/: whole, small, and, on request, run from top to bottom in one process.

No Jupyter is needed: a code cell is Python, or a script of bash where its first line says so.
"""

import base64
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from xclip_jax import cli, config_loader

NOTEBOOK = Path(__file__).parents[1] / "docs" / "own_videos.ipynb"
BASH = "%%bash\n"
# Runs the cells in order, as Jupyter would, and then tells what they have shown.
DRIVER = """
import json, subprocess, sys
names, printed = {}, []
for cell in json.load(open(sys.argv[1], encoding="utf-8"))["cells"]:
    source = "".join(cell["source"])
    if cell["cell_type"] == "code" and source.startswith("%%bash"):
        script = source.partition("\\n")[2]
        done = subprocess.run(["bash", "-ec", script], stdout=subprocess.PIPE, text=True)
        done.check_returncode()
        printed.append(done.stdout)
    elif cell["cell_type"] == "code":
        exec(compile(source, "cell", "exec"), names)
facts = {"right": [int(row.argmax()) for row in names["scores"]], "truth": names["truth"]}
facts |= {"spans": names["spans"], "found": names["found"], "files": names["files"]}
facts |= {"printed": printed, "picture": names["picture"].shape, "figures": len(FIGURES)}
print("FACTS" + json.dumps(facts))
"""
COUNTED = """
import matplotlib
matplotlib.use("Agg")
from matplotlib import pyplot
FIGURES = []
pyplot.show = lambda: FIGURES.append(pyplot.get_fignums()) or pyplot.close("all")
"""


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def commands(cells: list[dict]) -> list[list[str]]:
    scripts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    scripts = [script.replace("\\\n", " ") for script in scripts if script.startswith(BASH)]
    return [shlex.split(line) for script in scripts for line in script.splitlines()[1:]]


def test_it_has_the_form_that_jupyter_reads(cells):
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))

    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        code = cell["cell_type"] == "code"
        assert set(cell) == {"cell_type", "id", "metadata", "source"} | (
            {"execution_count", "outputs"} if code else set()
        )
        assert code or cell["cell_type"] == "markdown"
        assert all(line.endswith("\n") for line in cell["source"][:-1])


def test_every_code_cell_is_python_or_commands_that_the_parser_takes(cells):
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "code" and not source.startswith(BASH):
            compile(source, cell["id"], "exec")
    found = commands(cells)

    assert {words[1] for words in found} == {"build", "train", "index", "search", "explain"}
    for program, *words in found:
        arguments = cli._parse(words)
        if words[0] == "train":
            config_loader.load(arguments.config, arguments.overrides)
        assert program == "xclip-jax"


def test_its_links_lead_somewhere(cells):
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")

    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)

    assert links
    assert not [link for link in links if not (NOTEBOOK.parent / link).exists()]


def test_what_it_shows_is_committed_small_and_without_an_error(cells):
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    pictures = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]

    assert NOTEBOOK.stat().st_size < 300_000
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert len(pictures) == 3
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)


@pytest.mark.skipif(
    "XCLIP_JAX_NOTEBOOK" not in os.environ, reason="trains for a minute: set XCLIP_JAX_NOTEBOOK=1"
)
def test_it_runs_from_top_to_bottom_and_finds_what_it_looks_for(tmp_path):
    # Compiled as users' programs are, unlike those of the other tests.
    inherited = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(COUNTED + DRIVER), str(NOTEBOOK)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=inherited | {"PATH": path, "TMPDIR": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    facts = json.loads(done.stdout.rpartition("FACTS")[2])

    # Sentences in new words find their clips; one of the twelve may miss on another machine.
    assert sum(i == j for i, j in enumerate(facts["right"])) >= 11
    assert [found[0][0] for found in facts["found"]] == facts["right"]
    for part, (start, end, _) in facts["spans"].items():
        first, last = facts["truth"][part]
        assert min(end, last) - max(start, first) > 0.5 * (end - start), part
    built, trained, _, searched, explained = facts["printed"]
    assert "train: 12 of 12 videos" in built and "text to video" in trained
    best = re.findall(r"^  1\. .*/([\w-]+)\.mp4$", searched, re.MULTILINE)
    assert best == ["yellow-triangle", "blue-square", "red-circle"]
    assert "the mean of 4 parts" in explained
    assert facts["figures"] == 3 and min(facts["picture"][:2]) > 400
