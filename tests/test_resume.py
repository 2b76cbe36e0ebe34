"""A run that is killed at random moments and started again ends as if nothing had happened.

XCLIP_JAX_KILLS=5 kills it five times; the default keeps the suite quick.
"""

import json
import os
import re
import subprocess
import sys
import time

import jax
import numpy as np

from xclip_jax import checkpoint

KILLS = int(os.environ.get("XCLIP_JAX_KILLS", "1"))
STEPS, SAVE_EVERY = 60, 5
# Each kill falls into the next of these parts of a process's life, at a random moment in it.
PHASES = ("saving", "training", "compiling", "starting")


def start(config_file, workdir) -> subprocess.Popen:
    flags = re.sub(r"(device_count)=\d+", r"\1=1", os.environ["XLA_FLAGS"])
    command = (
        f"-m xclip_jax train --config {config_file} --workdir {workdir} --config.epochs=4"
        f" --config.data.twin_split= --config.save_every_steps={SAVE_EVERY}"
        " --config.report_every_steps=1"
    )
    return subprocess.Popen(
        [sys.executable, *command.split()],
        env=os.environ | {"XLA_FLAGS": flags},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def follow(process):
    """Yields the step of each line that tells one: first where the run begins, then each step."""
    for line in process.stdout:
        if "parameters on" in line:
            yield int((re.search(r"goes on at step (\d+)", line) or [0, 0])[1])
        elif told := re.match(rf"step (\d+)/{STEPS} ", line):
            yield int(told[1])


def kill(process, kill_number: int, rng, *, startup: float, step: float) -> None:
    """Kills a run with SIGKILL at a random moment; later kills wait for later steps."""
    phase = PHASES[kill_number % len(PHASES)]
    # Late enough for a checkpoint to be whole: a save waits for the one before it.
    target = max(3 * SAVE_EVERY, int(STEPS * (kill_number + rng.uniform()) / KILLS))
    if phase == "saving":
        target += -target % SAVE_EVERY
    longest = {"saving": 3 * step, "training": step, "compiling": 1, "starting": startup}[phase]
    if phase != "starting":
        for reached in follow(process):
            if phase == "compiling" or reached >= target:
                break
    try:
        process.wait(timeout=rng.uniform(0, longest))
    except subprocess.TimeoutExpired:
        process.kill()
    assert process.wait() == -9, f"it ended before kill {kill_number}: {process.stdout.read()}"
    process.stdout.close()


def run_to_the_end(config_file, workdir) -> tuple[int, list[float]]:
    """Returns the step at which a run began and the seconds until each line it printed."""
    since = time.perf_counter()
    with start(config_file, workdir) as process:
        told = [(step, time.perf_counter() - since) for step in follow(process)]
    assert process.returncode == 0 and told[-1][0] == STEPS
    return told[0][0], [seconds for _, seconds in told]


def outcome(workdir) -> tuple[list[np.ndarray], list[tuple[int, float]]]:
    """Returns the final parameters, and the loss of each step as reported."""
    params, step = checkpoint.load_params(workdir)
    assert step == STEPS
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]
    return [np.asarray(leaf) for leaf in jax.tree.leaves(params)], losses


def test_a_run_killed_at_random_moments_ends_with_the_same_bits(tiny_config_file, tmp_path):
    rng = np.random.default_rng(3)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    _, seconds = run_to_the_end(tiny_config_file, whole)
    step = float(np.median(np.diff(seconds)))

    for i in range(KILLS):
        kill(start(tiny_config_file, killed), i, rng, startup=seconds[0], step=step)
    began, _ = run_to_the_end(tiny_config_file, killed)

    params, losses = outcome(killed)
    expected_params, expected_losses = outcome(whole)
    # The last of many kills may fall after the last save, while the end is evaluated.
    assert 0 < began <= STEPS and began % SAVE_EVERY == 0
    for one, other in zip(params, expected_params, strict=True):
        np.testing.assert_array_equal(one, other)
    assert losses == expected_losses and len(losses) == STEPS
