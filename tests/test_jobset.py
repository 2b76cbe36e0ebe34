"""`launch_tpu.sh jobset`: what it asks GKE for, and its container's script, run for real."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tpu_cloud
import yaml
from tpu_cloud import wait_for

WORDS = ["--from-clip", 'it\'s "$HOME".pt', "--config.batch_size=2048"]
TRAINING = """#!/bin/sh
for word; do echo "$word" >>words; done
echo "$LIBTPU_INIT_ARGS" >flags
case $TRAINING in
  finish) touch finished ;;
  wait)
    trap 'echo saved >saved; exit 0' TERM
    touch started
    while :; do sleep 0.05; done ;;
  *) exit "$TRAINING" ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
    yield from tpu_cloud.opened(tmp_path)


def jobset(cloud, *words: str, **variables: str) -> dict:
    """Returns the JobSet that is printed; gcloud is not needed for it."""
    variables = {"IMAGE": "eu-docker.pkg.dev/p/x/xclip:1", "GCLOUD": "none"} | variables
    printed = cloud.launch("jobset", *words, **variables)
    assert (printed.returncode, printed.stderr) == (0, ""), printed
    assert not cloud.calls()
    return yaml.safe_load(printed.stdout)


def pod_of(document: dict) -> dict:
    [job] = document["spec"]["replicatedJobs"]
    return job["template"]["spec"]["template"]["spec"]


@pytest.mark.parametrize(
    ("variables", "hosts", "chips", "selector"),
    [
        # 4 chips a host; tpu7x, v5p and v4 are named by cores, two a chip.
        ({"TPU_TYPE": "tpu7x-128"}, 16, 4, ("tpu7x", "4x4x4")),
        ({"TPU_TYPE": "tpu7x-8"}, 1, 4, ("tpu7x", "2x2x1")),
        ({"TPU_TYPE": "v6e-1"}, 1, 1, ("tpu-v6e-slice", "1x1")),
        ({"TPU_TYPE": "v6e-64", "TPU_SLICES": "3"}, 16, 4, ("tpu-v6e-slice", "8x8")),
        ({"TPU_TYPE": "v5litepod-8"}, 2, 4, ("tpu-v5-lite-podslice", "2x4")),
        ({"TPU_TYPE": "v4-16"}, 2, 4, ("tpu-v4-podslice", "2x2x2")),
        (
            {"TPU_TYPE": "v5p-384", "TPU_TOPOLOGY": "4x4x12", "TPU_CREATE": "queued-spot"},
            *(48, 4, ("tpu-v5p-slice", "4x4x12")),
        ),
    ],
    ids=lambda value: value.get("TPU_TYPE") if isinstance(value, dict) else "",
)
def test_a_jobset_asks_for_every_host_of_the_slices(cloud, variables, hosts, chips, selector):
    document = jobset(cloud, **variables)

    assert (document["apiVersion"], document["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    [job] = document["spec"]["replicatedJobs"]
    assert job["replicas"] == int(variables.get("TPU_SLICES", "1"))
    spec = job["template"]["spec"]
    assert (spec["completions"], spec["parallelism"]) == (hosts, hosts)
    assert spec["completionMode"] == "Indexed"
    pod = pod_of(document)
    labels = ("gke-tpu-accelerator", "gke-tpu-topology")
    assert tuple(pod["nodeSelector"][f"cloud.google.com/{label}"] for label in labels) == selector
    [container] = pod["containers"]
    assert container["resources"]["limits"] == {"google.com/tpu": chips}
    spot = pod["nodeSelector"].get("cloud.google.com/gke-spot") == "true"
    assert spot == bool(pod.get("tolerations")) == ("spot" in variables.get("TPU_CREATE", ""))


def test_all_start_again_when_one_ends_except_after_wrong_settings(cloud):
    document = jobset(cloud, TPU_TYPE="v6e-16", WATCH_TRIES="7", SERVICE_ACCOUNT="trainer")

    policy = document["spec"]["failurePolicy"]
    assert (policy["maxRestarts"], policy["restartStrategy"]) == (7, "BlockingRecreate")
    [rule] = policy["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    [job] = document["spec"]["replicatedJobs"]
    spec, pod = job["template"]["spec"], pod_of(document)
    assert (spec["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert pod["serviceAccountName"] == "trainer"
    [failure] = spec["podFailurePolicy"]["rules"]
    assert (failure["action"], failure["onExitCodes"]) == (
        "FailJob",
        {"containerName": pod["containers"][0]["name"], "operator": "In", "values": [2]},
    )


@pytest.fixture
def container(cloud, tmp_path):
    """Starts the script of a JobSet's container in a folder of its own, a bucket's place taken by
    that folder."""
    folder = tmp_path / "container"
    folder.mkdir()
    for name, text in {
        "xclip-jax": TRAINING,
        "python3": f'#!/bin/sh\nexec {sys.executable} "$@"\n',
    }.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)

    def start(training: str, **variables: str) -> tuple[subprocess.Popen, Path]:
        [job] = pod_of(jobset(cloud, *WORDS, **variables))["containers"]
        [script] = job["args"]
        script = script.replace("gs://b/runs/one/finished", str(folder / "finished"))
        path = {"PATH": f"{folder}:{os.environ['PATH']}", "TRAINING": training}
        return subprocess.Popen([*job["command"], script], cwd=folder, env=path), folder

    return start


@pytest.mark.parametrize(
    ("training", "setup", "status"),
    [
        ("finish", "touch prepared", 0),
        ("0", "true", 75),
        ("3", "true", 3),
        ("2", "true", 2),
        ("finish", "false", 75),
    ],
    ids=["finished", "stopped", "lost", "settings", "setup"],
)
def test_the_container_succeeds_only_when_the_run_is_finished(container, training, setup, status):
    environment = "LIBTPU_INIT_ARGS='--one --two'"
    process, folder = container(training, SETUP_COMMAND=setup, ENVIRONMENT=environment)

    assert process.wait(30) == status
    assert (folder / "prepared").exists() == setup.startswith("touch")
    if setup != "false":
        words = (folder / "words").read_text().splitlines()
        assert words == [
            *("train", "--distributed", "--config", "msrvtt:arch=vit_b16"),
            *("--workdir", "gs://b/runs/one", "--config.data.dir=gs://b/shards/msrvtt"),
            *WORDS,
        ]
        assert (folder / "flags").read_text() == "--one --two\n"


def test_a_container_that_is_told_to_stop_lets_the_run_save_and_asks_to_be_started_again(container):
    process, folder = container("wait")
    wait_for((folder / "started").exists)

    process.send_signal(signal.SIGTERM)

    assert process.wait(30) == 75
    assert (folder / "saved").exists()


@pytest.mark.parametrize(
    ("variables", "named"),
    [({"IMAGE": ""}, "IMAGE"), ({"IMAGE": "x y"}, "IMAGE"), ({"WORKDIR": ""}, "WORKDIR")],
)
def test_what_a_jobset_lacks_is_one_line(cloud, variables, named):
    refused = cloud.launch("jobset", **({"IMAGE": "x"} | variables))

    [line] = refused.stderr.splitlines()
    assert refused.returncode == 2 and line.startswith(f"launch_tpu.sh: {named}")
