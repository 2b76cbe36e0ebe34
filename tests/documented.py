"""The commands that README.md, docs/, data/ and the configs show, as a shell would run them.

Every line that trains, plans or launches is run by a shell, in which `xclip-jax`, gcloud, kubectl,
srun, mpirun and the like are stand-ins: what reaches `xclip-jax` in the end is written down, with
the number of devices that the line is about.
"""

import json
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import tpu_cloud
import yaml

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`(xclip-jax (?:train|plan) --config [^`\n]+)`")
MARK = re.compile(r"xclip-jax (?:train|plan) |\./launch_tpu\.sh ")
MACHINE = 8  # devices of one machine where a command names none: it must run on eight GPUs
POD = 64  # devices that find each other by --distributed alone: a v5litepod-64
# A stand-in notes what it was asked; those that start other programs do so, once.
NOTES = f"""#!/bin/sh
exec {sys.executable} -S -c '
import json, os, sys
with open(os.environ["NOTED"], "a") as file: file.write(json.dumps(sys.argv[1:]) + "\\n")
' "$@"
"""
STARTS = '#!/bin/sh\nwhile [ "$1" != xclip-jax ]; do shift; done\nexec "$@"\n'
APPLIES = f"""#!/bin/sh
[ "$1" = apply ] || exit 0
exec {sys.executable} -c '
import subprocess, sys, yaml
[job] = yaml.safe_load(sys.stdin)["spec"]["replicatedJobs"]
[container] = job["template"]["spec"]["template"]["spec"]["containers"]
subprocess.run([*container["command"], *container["args"]])
'
"""


class Line(NamedTuple):
    """A command as it stands in a document.

    Attributes:
      where: the document, relative to the repository.
      text: what a shell gets, one line or a script.
      exports: the `export` lines above it.
      devices: how many the command is for.
    """

    where: str
    text: str
    exports: str
    devices: int

    @property
    def shown(self) -> str:
        """The command in one line, for a table."""
        lines = [line for line in self.text.replace("\\\n", " ").splitlines() if MARK.search(line)]
        return re.sub(r"\s+", " ", lines[0]).strip()


def lines() -> list[Line]:
    """Returns all of them, in the order of the documents."""
    found = []
    for path in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]:
        found += _of_document(path)
    for path in sorted(ROOT.glob("data/*/README.md")) + sorted(ROOT.glob("configs/*.py")):
        for text in re.findall(r"^xclip-jax train .*$", path.read_text("utf-8"), re.MULTILINE):
            text = re.split(r" \.\.\.|  #", text)[0]  # what follows is meant to be filled in
            text += "" if "--workdir" in text else " --workdir runs/one"
            found.append(Line(str(path.relative_to(ROOT)), text, "", MACHINE))
    return found


def _of_document(path: Path) -> list[Line]:
    where, text, exports, found = str(path.relative_to(ROOT)), path.read_text("utf-8"), "", []
    for language, block in FENCE.findall(text):
        if language == "yaml" and "run: |" in block:
            document = yaml.safe_load(block)
            chips = int(document["resources"]["accelerators"].rpartition("-")[2])
            found.append(Line(where, document["run"], "", chips))
        elif language == "bash" and MARK.search(block):  # a script
            found.append(Line(where, block, "", devices(block, "")))
        elif not language:
            for line in block.replace("\\\n", " ").splitlines():
                exports += f"{line}\n" if line.startswith("export ") else ""
                if MARK.search(line) and not line.startswith(("export ", "pip ")):
                    found.append(Line(where, line, exports, devices(line, exports)))
    prose = FENCE.sub("", text)
    found += [Line(where, span, "", devices(span, "")) for span in SPAN.findall(prose)]
    return [line for line in found if "..." not in line.text]  # those are patterns, not commands


def devices(text: str, exports: str) -> int:
    """Returns how many devices a command is for, by what it says itself."""
    if "launch_tpu.sh" in text:
        kind, number = re.findall(r"TPU_TYPE=([a-z0-9]+)-(\d+)", exports + text)[-1]
        return int(number) // (2 if kind in ("v4", "v5p") else 1)  # two cores are one device there
    if nodes := re.search(r"--nodes=(\d+)", text):
        return int(nodes[1]) * int(re.search(r"--gpus-per-node=(\d+)", text)[1])
    if given := re.search(r"mpirun -np (\d+)", text):
        return int(given[1])
    if given := re.search(r"--processes (\d+)", text):
        return int(given[1]) * MACHINE
    if given := re.search(r"--topology (\S+)", text):
        return max(map(planned, given[1].split(",")))
    return POD if "--distributed" in text else MACHINE


def planned(topology: str) -> int:
    """Returns the devices of a topology as `plan` names it: v5e:8x8:2 is two slices."""
    kind, _, shape = topology.partition(":")
    return math.prod(map(int, re.findall(r"\d+", shape))) * (2 if kind == "tpu7x" else 1)


def words_of(line: Line, folder: Path) -> list[list[str]]:
    """Returns the words of every `xclip-jax train` and `plan` that a line comes to.

    Raises AssertionError with what the line said where it failed.
    """
    if line.text.startswith("xclip-jax "):  # nothing that a shell would make of it
        return [shlex.split(line.text, comments=True)[1:]]
    [cloud] = _clouds(folder)
    noted = folder / "noted"
    environment = {"PATH": cloud.path, "STAND_IN": str(cloud.folder), "HOME": str(folder)}
    environment |= {"NOTED": str(noted), "POLL_SECONDS": "0"}
    needs_slice = re.search(r"launch_tpu\.sh (train|eval|stop|delete)", line.text)
    before = (
        "(export PLAN=skip; ./launch_tpu.sh create && ./launch_tpu.sh setup)\n"
        if needs_slice
        else ""
    )
    # The loop of several machines ends where its run is finished, which it never is here.
    text = re.sub(r"^until .*; do$", "for once in 1; do", line.text, flags=re.MULTILINE)
    text = re.sub(r"^gcloud storage ls .*/finished .*$", "", text, flags=re.MULTILINE)
    done = subprocess.run(
        ["sh", "-c", f"{line.exports}{before}{text}"],
        cwd=cloud.script.parent,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, f"{line.where}: {line.shown}: {done.stderr}"
    if re.search(r"launch_tpu\.sh (train|watch)", text) and "--dry-run" not in text:
        tpu_cloud.wait_for(cloud.runs)
    asked = noted.read_text().splitlines() if noted.exists() else []
    started = [next(iter(cloud.runs().values()))] if cloud.runs() else []  # on the first worker
    return [each for each in [*map(json.loads, asked), *started] if each[0] in ("train", "plan")]


def _clouds(folder: Path):
    """Yields a clone to launch from, with all the stand-ins."""
    for cloud in tpu_cloud.opened(folder):
        path, clone = Path(cloud.path.partition(":")[0]), cloud.script.parent
        cloud.play(runs=["finish"])
        programs = {"xclip-jax": NOTES, "mpirun": STARTS, "srun": STARTS, "kubectl": APPLIES}
        programs |= dict.fromkeys(("scontrol", "sleep"), "#!/bin/sh\n")
        (clone / ".venv/bin").mkdir(parents=True)
        for file in [*(path / name for name in programs), clone / ".venv/bin/xclip-jax"]:
            file.write_text(programs[file.name])
            file.chmod(0o755)
        (clone / "shards/msrvtt").mkdir(parents=True)
        (clone / "shards/msrvtt/manifest.json").write_text("{}")
        yield cloud
