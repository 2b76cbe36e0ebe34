"""Every documented command is run to its first step, on as many fake devices as it is for.

    pytest -n 0 -rP tests/test_commands.py

prints the list of commands with their verdicts. The model is tiny and the data and CLIP's weights
are stand-ins; config, dtype, flags and devices are the command's own, and the batch leaves the same
remainder on them. Of commands that come to one program the first is run; the others are taken to
where their first step would begin, and those in data/ and configs/ to where their data are open.
With XCLIP_JAX_COMMANDS=all, which takes ten minutes, each is run with its own batch, and plans are
made for all that they name.
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import documented
import pytest
from test_without_tensorflow import WITHOUT

from xclip_jax import cli, config_loader, protocol
from xclip_jax.data.benchmark import Benchmark
from xclip_jax.data.build import build_benchmark
from xclip_jax.data.jsonl.jsonl_dataset_builder import read_clips

ALL = os.environ.get("XCLIP_JAX_COMMANDS") == "all"
CLIP = Path(__file__).parent / "golden" / "clip_scripted.pt"  # sizes and vocabulary are its own
MERGES = "#version: 0.2\na n\nan d</w>\nt h\n"
TINY = [
    *("--config.model.arch=custom", "--config.model.embed_dim=64", "--config.model.image_size=12"),
    *("--config.model.patch_size=4", "--config.model.vision_width=64"),
    *("--config.model.vision_layers=1", "--config.model.text_width=64"),
    *("--config.model.text_layers=1", "--config.model.context_length=11"),
    *("--config.model.vocab_size=517", "--config.model.temporal_layers=1"),
    *("--config.data.max_words=7", "--config.data.max_frames=3", "--config.epochs=1e-9"),
]
FETCHED = ("ViT-B-32.pt", "ViT-B-16.pt")  # by `xclip-jax download`, as the lines before say
DOCUMENTS = ("README.md", "docs/")
PAIRS = 2100  # of a training split: more than the largest batch that is trained with
STEP = r"^step 1/1 "
JOINING = {"--coordinator": 2, "--processes": 2, "--process": 2, "--distributed": 1}


@pytest.fixture(scope="module")
def stand_ins(shapes, tmp_path_factory) -> Path:
    """A folder with `1fps` and `5fps`, shards of all splits that the configs name, and weights."""
    folder = tmp_path_factory.mktemp("stand-ins")
    (folder / "merges.txt").write_text(MERGES)
    clips = read_clips(shapes / "rendered" / "captions.jsonl")
    videos = {s: [clip.video_id for clip in clips if clip.split == s] for s in ("train", "test")}
    each = -(-PAIRS // len(videos["train"]))
    train = {v: [f"{v} and th {i}" for i in range(each)] for v in videos["train"]}
    test = {v: [f"an {v}"] for v in videos["test"]}
    splits = dict.fromkeys(("train", "train_9k", "train_7k", "train_full"), train)
    names = ("val", "test", "twins", "test_1ka", "val_full", "test_full", "test_random")
    splits |= dict.fromkeys(names, test)
    for name, policy in {"1fps": "clip4clip_1fps", "5fps": "native_5fps"}.items():
        build_benchmark(
            Benchmark("stand_in", splits, {}),
            shapes / "rendered" / "videos",
            folder / name,
            policy=policy,
            short_side=12,
            workers=1,
            vocab=folder / "merges.txt",
        )
    return folder


def built() -> set[str]:
    """Returns the folders of shards that the documented `build` commands write."""
    texts = [path.read_text("utf-8") for path in documented.ROOT.glob("**/*.md")]
    texts += [path.read_text("utf-8") for path in documented.ROOT.glob("configs/*.py")]
    found = set(re.findall(r"build .*--out (shards/\w+)", "\n".join(texts)))
    return found | {f"{name}_5fps" for name in found} | {"shards/real"}  # 77 clips of our own


def runnable(words: list[str], stand_ins: Path, devices: int) -> list[str]:
    """Returns a command's words with tiny sizes, stand-ins for what it reads, and fake devices."""
    kept, rest = [], list(words)
    while rest:
        word = rest.pop(0)
        if word in JOINING:  # one process has all devices here
            rest = rest[JOINING[word] - 1 :]
        elif word in ("--workdir", "--json"):
            kept += [word, str(stand_ins / f"written{word}")]
            rest.pop(0)
        elif word == "--from-clip":
            assert Path(rest.pop(0)).name in FETCHED
            kept += [word, str(CLIP)]
        elif word == "--topology":
            names = rest.pop(0).split(",")[: None if ALL else 1]
            kept += [word, ",".join(f"cpu:{documented.planned(name)}" for name in names)]
        elif word == "--batch-size":
            kept += [word, ",".join(rest.pop(0).split(",")[: None if ALL else 1])]
        elif word.startswith("--config.data.held_out="):
            kept.append("--config.data.held_out=2")
        else:
            kept.append(word)
    if words[0] == "plan":
        return [*kept, *TINY, *(["--plot", str(stand_ins / "plot.png")] * ("--sweep" in words))]
    config = settings(words)
    data, batch = config.data, config.batch_size
    name = re.sub(r"^(gs://\w+/|/shared/)", "", data.dir)
    assert name in built(), f"no documented command builds {data.dir}"
    shards = "5fps" if data.frame_policy == "native_5fps" else "1fps"
    if not ALL and batch > 2 * devices:
        batch = devices + batch % devices
    data = [f"--config.data.dir={stand_ins / shards}", f"--config.batch_size={batch}"]
    return [*kept, *TINY, *data]


def settings(words: list[str]):
    """Returns the config that a command asks for."""
    overrides = [word for word in words if word.startswith("--config.")]
    return config_loader.load(words[words.index("--config") + 1], overrides)


def program(words: list[str], devices: int) -> tuple:
    """Returns what commands have in common whose first steps are much the same program."""
    config = settings(words)
    kind = (words[0], "--check" in words)
    return *kind, devices, config.model.name, config.batch_size % devices == 0


def verdicts(jobs: list[list[str]], devices: int, folder: Path) -> list[str]:
    """Returns run_commands' verdict on each job, from a process with so many fake devices."""
    file = folder / f"{devices}.json"
    file.write_text(json.dumps(jobs))
    flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "PYTHONPATH": str(Path(__file__).parent),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    code = f"{WITHOUT}\nimport run_commands\nrun_commands.main({str(file)!r})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=900)
    return json.loads(file.with_suffix(".verdicts").read_text())


def opened(words: list[str]) -> str:
    """Returns what is wrong with the settings and the data of a command, "" for nothing."""
    try:
        cli._parse(words)
        if words[0] == "train":
            protocol.open_data(settings(words))
    except (SystemExit, ValueError, FileNotFoundError) as error:
        return str(error)
    return ""


class Work(NamedTuple):
    """What is done about a command: a job of the process with so many devices, up to what it says
    last, or nothing but to open its data, with what is wrong there."""

    devices: int
    place: int
    done: str
    problem: str = ""


def test_every_documented_command_comes_to_its_first_step(stand_ins, tmp_path):
    rows, jobs, seen, known = [], defaultdict(list), set(), {}
    for number, line in enumerate(documented.lines()):
        reached = documented.words_of(line, tmp_path / str(number))
        if not reached:
            rows.append((line, Work(line.devices, -1, "done by stand-ins")))
        for words in reached:
            words = runnable(words, stand_ins, line.devices)
            key, same, job = (line.devices, *words), program(words, line.devices), None
            if key not in known and (ALL or same not in seen):
                job = ("", "compiled") if words[0] == "plan" else (STEP, "first step done")
            elif key not in known and words[0] == "train" and line.where.startswith(DOCUMENTS):
                ready = rf"parameters on {line.devices} cpu device\(s\); starts"
                job = (ready, "ready; such a step ran above")
            if job:
                seen.add(same)
                known[key] = Work(line.devices, len(jobs[line.devices]), job[1])
                jobs[line.devices].append([job[0], *words])
            known.setdefault(key, Work(line.devices, -1, "settings accepted", opened(words)))
            rows.append((line, known[key]))
    said = {devices: verdicts(each, devices, tmp_path) for devices, each in jobs.items()}

    print("where, devices, verdict, command")
    wrong = 0
    for line, work in rows:
        problem = work.problem or (said[work.devices][work.place] if work.place >= 0 else "")
        wrong += bool(problem)
        print(f"{line.where:<27}{line.devices:>4}  {problem or work.done}\n      {line.shown}")
    assert not wrong, f"{wrong} of {len(rows)}"
    assert len(rows) > 50


@pytest.mark.parametrize(
    ("text", "exports", "expected"),
    [
        ("xclip-jax train --config jsonl --workdir r", "", 8),
        ("xclip-jax train --config jsonl --distributed", "", 64),
        ("xclip-jax train --coordinator a:1 --processes 3 --process 0", "", 24),
        ("mpirun -np 6 xclip-jax train --distributed", "", 6),
        ("#SBATCH --nodes=3\n#SBATCH --gpus-per-node=4\nsrun xclip-jax train", "", 12),
        ("xclip-jax plan --topology v5e:2x4,v5p:4x4x4", "", 64),
        ("xclip-jax plan --topology v5e:2x4:3", "", 24),
        ("xclip-jax plan --topology tpu7x:2x2x2,h100:8", "", 16),
        ("./launch_tpu.sh watch", "export TPU_TYPE=v5p-16 A=b\n", 8),
        ("TPU_TYPE=v6e-4 ./launch_tpu.sh watch", "export TPU_TYPE=v5p-16\n", 4),
        ("./launch_tpu.sh jobset", "export TPU_TYPE=tpu7x-16\n", 16),
    ],
)
def test_the_devices_of_a_command_are_those_it_names(text, exports, expected):
    assert documented.devices(text, exports) == expected


def test_a_command_that_is_refused_or_fails_later_is_noticed(stand_ins, tmp_path):
    train = ["train", "--config", "jsonl", "--workdir", str(tmp_path / "run")]
    data = f"--config.data.dir={stand_ins / '1fps'}"
    jobs = [
        ["parameters on 3 cpu", *train, *TINY, data, "--config.fsdp=2"],
        ["parameters on 3 cpu", *train, *TINY, data, "--from-clip", "nowhere.pt"],
        ["parameters on 3 cpu", *train, *TINY, "--config.data.dir=nowhere"],
        ["parameters on 4 cpu", "plan", "--config", "jsonl", "--topology", "none"],
    ]

    found = verdicts(jobs, 3, tmp_path)

    assert [verdict.startswith("exit 2: xclip-jax: ") for verdict in found] == [True] * 4
    assert "fsdp=2 does not divide the 3 devices" in found[0]
    assert "nowhere.pt" in found[1] and "nowhere" in found[2] and "none" in found[3]
