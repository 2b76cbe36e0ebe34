"""Real processes, joined over the loopback: the same run as one, and what becomes of it when one
of them is asked to stop, dies or hangs."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest
from test_without_tensorflow import WITHOUT

from xclip_jax import checkpoint

STEPS, BATCH = 50, 8
KILLS = int(os.environ.get("XCLIP_JAX_KILLS", "1"))  # as of test_resume.py
COUNTS = [2] if KILLS == 1 else [2, 4]  # four of them take two cores a minute more
SAVE_EVERY = STEPS if KILLS == 1 else 10
# Of reading ahead: a batch, or twice the threads, waits and each thread holds an example.
AHEAD = 48
PEER_TIMEOUT = 20
# Devices of one process add gradients up in another order than those of several. Where a gradient
# is nothing but rounding, as that of the keys' biases, Adam makes a whole step of it: at the
# config's 1e-3 losses drift apart by 4e-4 in these 50 steps, at this rate by 1e-6.
RATE = 1e-4

# What a process does: `xclip-jax train`, writing down each record that it reads. TensorBoard's
# lines are not looked at, and TensorFlow takes as long to import as all else.
PROGRAM = (
    WITHOUT
    + """
import os, sys
from xclip_jax import cli, records
read = records.Shards.__getitem__
log = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def logged(shards, i):
    os.write(log, f"{shards.split} {i}\\n".encode())
    return read(shards, i)
records.Shards.__getitem__ = logged
cli.main(sys.argv[2:])
"""
)


class Group:
    """The processes of a run, `devices` each; leaving kills what is left of them.

    One process is joined, with nobody, only where `joined` says so.
    """

    def __init__(self, config_file, workdir, processes: int, devices: int, joined: bool = False):
        flags = re.sub(r"(device_count)=\d+", rf"\1={devices}", os.environ["XLA_FLAGS"])
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.logs = [workdir.with_name(f"{workdir.name}-reads-{i}") for i in range(processes)]
        command = (
            f"train --config {config_file} --workdir {workdir} --config.data.twin_split="
            f" --config.epochs={(STEPS + 0.5) / 15} --config.save_every_steps={SAVE_EVERY}"
            " --config.report_every_steps=1 --config.model.head=meanP --config.data.max_frames=3"
            " --config.model.image_size=32 --config.data.max_words=16"
            f" --config.optimizer.learning_rate={RATE}"
        ).split()
        self.members = []
        for i, log in enumerate(self.logs):
            place = (
                f"--coordinator 127.0.0.1:{port} --processes {processes} --process {i}"
                f" --peer-timeout {PEER_TIMEOUT}"
            ).split() * (joined or processes > 1)
            self.members.append(
                subprocess.Popen(
                    [sys.executable, "-c", PROGRAM, log, *command, *place],
                    env=os.environ | {"XLA_FLAGS": flags},
                    stdout=subprocess.PIPE if i == 0 else subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for member in self.members:
            member.kill()
            member.wait()
            member.stderr.close()
        self.members[0].stdout.close()

    def until(self, step: int) -> None:
        """Returns when process 0 has told of a step."""
        for line in self.members[0].stdout:
            if (told := re.match(rf"step (\d+)/{STEPS} ", line)) and int(told[1]) >= step:
                return
        pytest.fail(f"ended before step {step}: {[m.stderr.read() for m in self.members]}")

    def end(self) -> tuple[list[int], str, list[str]]:
        """Returns the exit statuses, process 0's stdout and all stderrs once all have ended."""
        said = self.members[0].stdout.read()
        complaints = [member.stderr.read() for member in self.members]
        return [member.wait() for member in self.members], said, complaints


def outcome(workdir) -> tuple[list[np.ndarray], list[float], dict]:
    """Returns the final parameters, the loss of each step, and the final metrics."""
    params, step = checkpoint.load_params(workdir)
    finished = json.loads((workdir / "finished").read_text())
    assert step == finished["step"] == STEPS
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    losses = [line["train/loss"] for line in lines if "train/loss" in line]
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    return leaves, losses, finished["metrics"]


@pytest.fixture(scope="module")
def config_file(tiny_config_text, tmp_path_factory):
    file = tmp_path_factory.mktemp("config") / "tiny.py"
    file.write_text(tiny_config_text)
    return file


@pytest.fixture(scope="module")
def whole(config_file, tmp_path_factory):
    """Runs that nothing disturbed, by the number of processes that share four devices."""
    folder = tmp_path_factory.mktemp("whole")
    groups = {}
    for processes in (1, *COUNTS):
        with Group(config_file, folder / str(processes), processes, 4 // processes) as group:
            statuses, said, complaints = group.end()
        assert statuses == [0] * processes, complaints
        assert processes == 1 or f"on 4 cpu device(s) of {processes} processes; starts" in said
        groups[processes] = (folder / str(processes), group.logs)
    return groups


@pytest.mark.parametrize("processes", COUNTS)
def test_several_processes_train_and_score_as_one_does(whole, processes):
    _, losses, scores = outcome(whole[processes][0])
    _, expected, expected_scores = outcome(whole[1][0])

    assert len(losses) == STEPS
    np.testing.assert_allclose(losses, expected, rtol=0, atol=1e-5)
    assert scores == pytest.approx(expected_scores)


@pytest.mark.parametrize("processes", COUNTS)
def test_each_process_reads_its_share_of_the_records(whole, processes):
    reads = [log.read_text().splitlines() for log in whole[processes][1]]
    tested = [sorted(int(line.split()[1]) for line in r if line.startswith("test")) for r in reads]
    trained = [sum(line.startswith("train") for line in lines) for lines in reads]

    share = BATCH // processes  # of the one batch that the six test videos make
    assert tested == [list(range(6))[i * share : (i + 1) * share] for i in range(processes)]
    assert all(STEPS * share <= count <= STEPS * share + AHEAD for count in trained)


# How many processes, of how many devices, and whether they are joined.
STOPPED = {"joined": (1, 1, True), "plain": (1, 1, False), "two": (2, 2, True)}


@pytest.mark.parametrize("kind", ["joined"] if KILLS == 1 else STOPPED)
def test_a_run_that_gets_sigterm_saves_ends_and_goes_on_to_the_same_bits(
    request, config_file, tmp_path, kind
):
    run, undisturbed = tmp_path / "run", tmp_path / "undisturbed"
    if kind == "two":
        undisturbed = request.getfixturevalue("whole")[2][0]
    else:  # on one device a joined process has the bits of one that is not
        with Group(config_file, undisturbed, 1, 1) as group:
            assert group.end()[0] == [0]
    with Group(config_file, run, *STOPPED[kind]) as group:
        group.until(4)
        group.members[-1].send_signal(signal.SIGTERM)
        statuses, said, complaints = group.end()
    [stopped] = re.findall(r"^xclip-jax: preempted at step (\d+); saved; run the", said, re.M)
    assert set(statuses) == {0} and "xclip-jax" not in "".join(complaints)
    assert 4 <= int(stopped) <= STEPS and not (run / "finished").exists()

    with Group(config_file, run, *STOPPED[kind]) as group:
        statuses, said, _ = group.end()

    assert set(statuses) == {0} and f"goes on at step {stopped}" in said
    params, losses, scores = outcome(run)
    expected_params, expected_losses, expected_scores = outcome(undisturbed)
    for one, other in zip(params, expected_params, strict=True):
        np.testing.assert_array_equal(one, other)
    assert losses == expected_losses and scores == expected_scores


def test_sigterm_ends_a_process_that_waits_for_the_others_of_its_run(config_file, tmp_path):
    # They never come, and what says so after minutes must not be waited for.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        coordinator = f"127.0.0.1:{silent.getsockname()[1]}"
        place = f"--coordinator {coordinator} --processes 2 --process 1 --peer-timeout 4".split()
        command = f"train --config {config_file} --workdir {tmp_path / 'run'}".split()
        with subprocess.Popen(
            [sys.executable, "-m", "xclip_jax", *command, *place],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGTERM)
            said = process.stdout.read()
        connection.close()

    assert process.returncode == 0
    assert said == (
        "xclip-jax: asked to stop before the processes were joined; run the same command again to"
        " go on.\n"
    )


@pytest.mark.skipif(KILLS == 1, reason="takes a minute: set XCLIP_JAX_KILLS=5")
def test_a_run_that_is_asked_to_stop_and_then_loses_a_process_ends_with_the_same_bits(
    whole, config_file, tmp_path
):
    run = tmp_path / "run"
    with Group(config_file, run, 2, 2) as group:
        group.until(12)
        group.members[1].send_signal(signal.SIGTERM)
        statuses, said, complaints = group.end()
    [stopped] = re.findall(r"^xclip-jax: preempted at step (\d+); saved; run the", said, re.M)
    assert statuses == [0, 0] and "xclip-jax" not in "".join(complaints) and int(stopped) > 12
    assert not (run / "finished").exists()

    for victim, step in ((0, 24), (1, 36))[:KILLS]:
        with Group(config_file, run, 2, 2) as group:
            group.until(step)
            group.members[victim].kill()
            statuses, said, complaints = group.end()
        survivor = 1 - victim
        assert statuses[survivor] == 3 and statuses[victim] == -signal.SIGKILL
        assert re.fullmatch(
            r"xclip-jax: another process of this run has died .*\n", complaints[survivor]
        )

    with Group(config_file, run, 2, 2) as group:
        statuses, said, _ = group.end()

    assert statuses == [0, 0]
    assert int(re.search(r"goes on at step (\d+)", said)[1]) >= 20
    params, losses, scores = outcome(run)
    expected_params, expected_losses, expected_scores = outcome(whole[2][0])
    for one, other in zip(params, expected_params, strict=True):
        np.testing.assert_array_equal(one, other)
    assert losses == expected_losses and scores == expected_scores


HANGING = """
import sys, threading
from xclip_jax.processes import distributed, watch
port, process = sys.argv[1:]
distributed.start(distributed.Place(f"127.0.0.1:{port}", 2, int(process)), peer_timeout=20)
watching = watch.Watch(timeout=3)
if process == "0":  # the other one never gets on
    watching.moved("at step 7")
threading.Event().wait()
"""


@pytest.mark.skipif(KILLS == 1, reason="hangs on time: set XCLIP_JAX_KILLS=5")
def test_a_process_that_hangs_is_told_apart_and_the_run_ends():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pair = [
        subprocess.Popen(
            [sys.executable, "-c", HANGING, str(port), str(i)], stderr=subprocess.PIPE, text=True
        )
        for i in range(2)
    ]
    try:
        _, complaint = pair[1].communicate(timeout=60)
    finally:
        for process in pair:
            process.kill()
            process.communicate()

    assert pair[1].returncode == 3
    assert re.search(
        r"xclip-jax: no movement for [3-9] s while starting; furthest behind: process 1 of 2",
        complaint,
    )
