"""A run whose shards and checkpoints lie in a bucket that fails: short failures are not felt, a
lasting one ends it with 75, and started again, as a launcher does, it ends as if nothing had been.

XCLIP_JAX_BUCKET_RUNS=20 does so twenty times and prints the counts; one keeps the suite quick.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import pytest
import stand_in_bucket
from stand_in_bucket import RESET
from test_without_tensorflow import WITHOUT

from xclip_jax import checkpoint, remote

RUNS = int(os.environ.get("XCLIP_JAX_BUCKET_RUNS", "1"))
STEPS, SAVE_EVERY = 12, 3
STARTS = 8  # of one run at most
FAULTS = (503, 429, 500, 502, 504, RESET)
# `xclip-jax train`, with the pauses of the libraries cut to what a test can wait for.
PROGRAM = (
    WITHOUT
    + """
import asyncio, types
import gcsfs.retry
from google.cloud.storage import retry as google
from xclip_jax import cli, retry
slept = asyncio.sleep
gcsfs.retry.asyncio = types.SimpleNamespace(sleep=lambda seconds: slept(seconds / 100))
google.DEFAULT_RETRY._timeout = 1.0
retry.FIRST = 0.02
cli.main(sys.argv[1:])
"""
)


class Outcome(NamedTuple):
    """What a run leaves behind, and how it came to that.

    Attributes:
      params: the final parameters, leaf by leaf.
      lines: of metrics.jsonl, without times and rates.
      statuses: the exit status of each start.
      failed: the requests that a fault answered.
    """

    params: list[np.ndarray]
    lines: list[dict]
    statuses: list[int]
    failed: int


@pytest.fixture(scope="module")
def bucket(shapes):
    pytest.importorskip("gcp_storage_emulator")
    pytest.importorskip("gcsfs")
    with stand_in_bucket.gs() as bucket, pytest.MonkeyPatch.context() as patch:
        for name, value in bucket.environment.items():
            patch.setenv(name, value)
        for path in (shapes / "shards").iterdir():
            (remote.place(f"{bucket.address}/shards") / path.name).store(path)
        yield bucket


@pytest.fixture(scope="module")
def config_file(tiny_config_text, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "tiny.py"
    file.write_text(tiny_config_text)
    return file


def run(bucket, config_file, shapes, name: str, between: Callable[[int], None]) -> Outcome:
    """Starts a run again until it is finished; `between(start)` sets the faults of each start."""
    workdir = f"{bucket.address}/{name}"
    flags = re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"])
    command = (
        f"train --config {config_file} --workdir {workdir}"
        f" --config.data.dir={bucket.address}/shards"
        f" --config.data.vocab={shapes}/shards/merges.txt --config.data.twin_split="
        f" --config.epochs={(STEPS + 0.5) / 15} --config.save_every_steps={SAVE_EVERY}"
        " --config.eval_every_steps=12 --config.report_every_steps=1 --config.model.head=meanP"
        " --config.data.max_frames=3 --config.model.image_size=32 --config.data.max_words=16"
        " --config.keep_checkpoints=2 --config.select_on=test"
    ).split()
    statuses, failed = [], bucket.failed
    for start in range(STARTS):
        between(start)
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, *command],
            env=os.environ | {"XLA_FLAGS": flags, "XCLIP_JAX_RETRY_SECONDS": "0.5"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        bucket.heal()
        statuses.append(ended.returncode)
        if ended.returncode == 0:
            break
        # Anything else would have the launcher stop, or a person look.
        assert ended.returncode == 75, (ended.returncode, ended.stderr[-3000:])
        assert "Traceback" not in ended.stderr, ended.stderr[-3000:]
        assert ended.stderr.count("xclip-jax: ") == 1, ended.stderr[-3000:]
        assert "run the same command again" in ended.stderr, ended.stderr[-3000:]
    folder = remote.place(workdir)
    assert json.loads((folder / "finished").read_text())["step"] == STEPS
    params, step = checkpoint.load_params(workdir)
    assert step == STEPS
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    lines = [
        {key: value for key, value in line.items() if key in ("step", "train/loss") or "/r" in key}
        for line in lines
    ]
    # What ends after its last save evaluates the last step once more, to the same scores.
    lines = [line for i, line in enumerate(lines) if line not in lines[:i]]
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return Outcome(leaves, lines, statuses, bucket.failed - failed)


def faults(bucket, rng, requests: int) -> Callable[[str], int | None]:
    """Returns a rule: some bursts of one or two failures, and mostly one outage that lasts."""
    bursts = {int(at): int(rng.integers(1, 3)) for at in rng.integers(0, requests, 12)}
    outage = int(rng.integers(requests)) if rng.uniform() < 0.75 else None
    asked, left, fault = 0, 0, 503

    def rule(request: str) -> int | None:
        nonlocal asked, left, fault
        asked += 1
        if outage is not None and asked > outage:
            return fault
        if asked in bursts:
            left, fault = bursts[asked], int(rng.choice(FAULTS))
        left -= 1
        return fault if left >= 0 else None

    return rule


def test_nothing_is_lost_to_a_bucket_that_fails(bucket, config_file, shapes, capsys):
    bucket.asked.clear()
    whole = run(bucket, config_file, shapes, "whole", lambda start: None)
    requests = len(bucket.asked)
    assert whole.statuses == [0] and whole.failed == 0

    outcomes = []
    for seed in range(RUNS):
        rng = np.random.default_rng([24, seed])

        def between(start: int, seed=seed, rng=rng) -> None:
            if start == 0 and seed == 0:  # in the midst of a save, after one that is whole
                bucket.fail(503, when=f"run-0%2Fcheckpoints%2F{2 * SAVE_EVERY}%2Fstate")
            elif start < 2:
                bucket.rule(faults(bucket, rng, requests))

        outcome = run(bucket, config_file, shapes, f"run-{seed}", between)
        for leaf, expected in zip(outcome.params, whole.params, strict=True):
            np.testing.assert_array_equal(leaf, expected)
        assert outcome.lines == whole.lines
        outcomes.append(outcome)
        with capsys.disabled():
            if RUNS > 1:
                print(f"\nrun {seed}: {outcome.failed} faults, statuses {outcome.statuses}", end="")

    again = sum(len(outcome.statuses) - 1 for outcome in outcomes)
    failed = sum(outcome.failed for outcome in outcomes)
    with capsys.disabled():
        if RUNS > 1:
            print(
                f"\n{RUNS} runs of {requests} requests: {failed} faults, {again} exits with 75 and"
                " as many restarts, 0 lost"
            )
    assert all(outcome.failed for outcome in outcomes) and again >= max(1, RUNS // 2)
