"""launch_tpu.sh asks `xclip-jax plan` before it rents, for this slice and these settings."""

import shlex
from pathlib import Path

import pytest
import tpu_cloud

WORDS = [
    *("--config.batch_size=2048", "--from-clip", "my weights.pt", "--profile", "100:110"),
    *("--config.model.dtype=bfloat16", "--peer-timeout", "90"),
]
CHECKED = [
    *("plan", "--check", "--config", "msrvtt:arch=vit_b16", "--topology", "v5e:8x8"),
    *("--config.batch_size=2048", "--from-clip", "my weights.pt"),
    "--config.model.dtype=bfloat16",
]
PLANNER = """#!/bin/sh
printf '%s\\n' "$@" >>"$STAND_IN/planned"
echo '  memory: 17 of 16 GiB'
exit "${PLAN_STATUS:-0}"
"""
RENTING = {"TPU_TYPE": "v5litepod-64", "PLAN": "check"}


@pytest.fixture
def cloud(tmp_path):
    yield from tpu_cloud.opened(tmp_path)


@pytest.fixture
def planner(cloud) -> Path:
    """A stand-in for `xclip-jax` on this machine; returns where it writes its arguments."""
    program = Path(cloud.path.partition(":")[0]) / "xclip-jax"
    program.write_text(PLANNER)
    program.chmod(0o755)
    return cloud.folder / "planned"


@pytest.mark.parametrize("command", ["create", "watch"])
def test_what_plan_refuses_is_not_rented(cloud, planner, command):
    refused = cloud.launch(command, *WORDS, **RENTING, PLAN_STATUS="2")

    assert refused.returncode == 1
    assert "memory: 17 of 16 GiB" in refused.stderr  # why, and stdout is left alone
    assert "nothing was rented" in refused.stderr.splitlines()[-1]
    assert planner.read_text().splitlines() == CHECKED
    assert not cloud.verbs()

    assert cloud.launch("create", *WORDS, PLAN="skip", PLAN_STATUS="2").returncode == 0
    assert cloud.verbs() == ["create"]


def test_a_run_that_fits_is_checked_once_and_a_slice_that_is_there_not_at_all(cloud, planner):
    cloud.play(preempt=1, runs=["wait", "finish"])

    watched = cloud.launch("watch", *WORDS, **RENTING)

    assert watched.returncode == 0, watched.stderr
    assert cloud.verbs().count("create") == 2
    assert planner.read_text().splitlines() == CHECKED
    (cloud.folder / "bucket" / "b" / "runs" / "one" / "finished").unlink()
    assert cloud.launch("watch", **RENTING, PLAN_STATUS="2").returncode == 0
    assert planner.read_text().splitlines() == CHECKED


def test_a_dry_run_prints_the_check_that_the_real_run_makes(cloud, planner):
    said = cloud.launch(
        "--dry-run", "watch", *WORDS, **RENTING, TPU_SLICES="2", TPU_CREATE="queued"
    )

    [line] = [line for line in said.stdout.splitlines() if " plan --check " in line]
    assert shlex.split(line)[1:] == [word.replace("v5e:8x8", "v5e:8x8:2") for word in CHECKED]
    assert not planner.exists()


def test_without_the_planner_one_line_says_what_to_install_or_how_to_go_on(cloud):
    folders = [f for f in cloud.path.split(":") if not (Path(f) / "xclip-jax").exists()]
    cloud = cloud._replace(path=":".join(folders))

    refused = cloud.launch("create", **RENTING)

    assert refused.returncode == 1 and not cloud.verbs()
    [line] = refused.stderr.splitlines()
    assert "pip install '.[plan]'" in line and "PLAN=skip" in line


@pytest.mark.parametrize(
    ("kind", "expected"),
    [  # as docs.cloud.google.com/tpu/docs has them, the pages on v4, v5e, v5p and v6e
        ("v5litepod-1", "v5e:1x1"),
        ("v5litepod-4", "v5e:2x2"),
        ("v5litepod-8", "v5e:2x4"),
        ("v5litepod-32", "v5e:4x8"),
        ("v5litepod-128", "v5e:8x16"),
        ("v5litepod-256", "v5e:16x16"),
        ("v6e-16", "v6e:4x4"),
        ("v4-8", "v4:2x2x1"),
        ("v4-16", "v4:2x2x2"),
        ("v4-32", "v4:2x2x4"),
        ("v5p-64", "v5p:2x4x4"),
        ("v5p-128", "v5p:4x4x4"),
        ("v5p-256", "v5p:4x4x8"),
        ("v5p-512", "v5p:4x8x8"),
    ],
)
def test_the_shape_of_a_type_is_the_one_that_google_gives_it(cloud, kind, expected):
    said = cloud.launch("--dry-run", "create", TPU_TYPE=kind, PLAN="check")

    assert f"--topology {expected}\n" in said.stdout
