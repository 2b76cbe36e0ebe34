"""The flags that join processes, and what is told of one that a signal ends."""

import re
import socket
import subprocess
import sys

import pytest

from xclip_jax.processes import distributed


def test_without_flags_a_process_is_a_run_of_its_own():
    assert distributed.place(False, None, None, None) is None


def test_a_process_is_placed_by_hand_or_by_the_cluster():
    by_hand = distributed.place(False, "10.0.0.1:1234", 3, 2)

    assert by_hand == ("10.0.0.1:1234", 3, 2)
    assert distributed.place(True, None, None, None) == (None, None, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((True, "h:1", None, None), "leave out --coordinator, or --distributed"),
        ((False, "h:1", 2, None), "--process missing beside the other two"),
        ((False, None, None, 1), "--coordinator, --processes missing beside the other two"),
        ((False, "h", 2, 0), "--coordinator h: expected HOST:PORT"),
        ((False, "h:1", 0, 0), "--processes 0: expected 1 or more"),
        ((False, "h:1", 2, 2), "--process 2: expected 0 to 1"),
        ((False, "h", 2, -1), "HOST:PORT of process 0; --process -1: expected 0 to 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_flags_that_do_not_go_together_are_refused(given, expected):
    with pytest.raises(ValueError, match=re.escape(expected)):
        distributed.place(*given)


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        (ValueError("UNKNOWN: Gloo AllGather failed: Connection closed by peer"), True),
        (RuntimeError("NCCL operation failed: remote error"), True),
        (ConnectionError("not all came"), True),
        (ValueError("config.fsdp=3 does not divide the 8 devices"), False),
        (FileNotFoundError("No shards/manifest.json"), False),
        (KeyError("gloo"), False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_errors_of_others_are_told_from_those_of_this_process(error, lost):
    assert distributed.lost_peer(error) is lost


CHILD = """
import os, signal, sys
from xclip_jax import one_line
from xclip_jax.processes import supervise
def work():
    {work}
supervise.run(work, one_line.answer, saves={saves})
"""
FATAL = (
    "F1122 00:00:00.0 1 client.h:80] Terminating process because the JAX distributed service"
    " detected fatal errors."
)


@pytest.mark.parametrize(
    ("work", "status", "said"),
    [
        ("print('done')", 0, ""),
        ("raise ValueError('seed: no')", 2, "xclip-jax: seed: no\n"),
        (
            "from xclip_jax import retry; raise retry.StorageUnavailable('gs://b: 503')",
            75,
            "xclip-jax: gs://b: 503. Nothing is lost beyond the last save: run the same command"
            " again to go on.\n",
        ),
        ("sys.exit(5)", 5, ""),
        ("os.abort()", 134, "xclip-jax: the process was ended by SIGABRT.\n"),
        (
            "os.kill(os.getpid(), signal.SIGKILL)",
            137,
            "xclip-jax: the process was ended by SIGKILL, often for want of memory.\n",
        ),
        (
            f"os.write(2, b'{FATAL}\\n  @ 0x7f\\n'); os.abort()",
            3,
            f"xclip-jax: {distributed.GONE}\n",
        ),
        ("print('W beware', file=sys.stderr)", 0, "W beware\n"),
    ],
    ids=["done", "error", "bucket", "exit", "abort", "killed", "peer", "warning"],
)
def test_the_end_of_a_supervised_process_is_told_in_one_line(work, status, said):
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(work=work, saves=True)], capture_output=True, text=True
    )

    assert (done.returncode, done.stderr) == (status, said)


@pytest.mark.parametrize(("saves", "status"), [(True, 0), (False, 143)])
def test_sigterm_is_no_success_of_work_that_cannot_be_gone_on_with(saves, status):
    code = CHILD.format(saves=saves, work="os.kill(os.getpid(), signal.SIGTERM)")

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == status
    assert ("run the same command again" in done.stdout) is saves
    assert ("ended by SIGTERM" in done.stderr) is not saves


REFUSING = """
import contextlib
from jax._src import distributed as runtime
from xclip_jax.processes import distributed
distributed.start(distributed.Place("127.0.0.1:{port}", 2, {process}), peer_timeout=20)
if {process}:  # comes to it a second later
    with contextlib.suppress(Exception):
        runtime.global_state.client.blocking_key_value_get("nothing", 1000)
raise ValueError("fsdp: no")
"""


def test_each_process_refuses_by_itself_what_all_of_them_refuse():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    pair = []
    for process in range(2):
        work = REFUSING.format(port=port, process=process).replace("\n", "\n    ")
        code = CHILD.format(work=work, saves=True)
        pair.append(
            subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True)
        )
    said = [process.communicate(timeout=100)[1] for process in pair]

    assert said == ["xclip-jax: fsdp: no\n"] * 2
    assert [process.returncode for process in pair] == [2, 2]


def test_nothing_outlives_a_supervisor_that_is_killed():
    code = CHILD.format(saves=True, work="print('up', flush=True); signal.pause()")
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout.readline() == "up\n"
        parent.kill()

        assert parent.stdout.read() == ""  # which ends when the child, who has it too, is gone
