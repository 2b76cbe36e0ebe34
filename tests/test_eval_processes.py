"""`xclip-jax eval` as several processes: one answer, that of a single process."""

import json
import os
import re
import socket
import subprocess
import sys

from test_without_tensorflow import WITHOUT

from xclip_jax import cli

PROGRAM = WITHOUT + "\nimport sys\nfrom xclip_jax import cli\ncli.main(sys.argv[1:])\n"


def test_two_processes_evaluate_as_one(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    command = ["eval", "--workdir", str(run), "--split", "test", "--ties", "reference"]
    cli.main(command)
    expected = json.loads(capsys.readouterr().out.splitlines()[-1])
    flags = re.sub(r"(device_count)=\d+", r"\1=3", os.environ["XLA_FLAGS"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    places = ["--coordinator", address, "--processes", "2", "--process"]

    pair = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *command, "--report", page, *places, str(i)],
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        said = [process.communicate(timeout=300) for process in pair]
    finally:
        for process in pair:
            process.kill()

    assert [process.returncode for process in pair] == [0, 0], said
    ours = [[line for line in out.splitlines() if not line.startswith("[Gloo]")] for out, _ in said]
    assert json.loads(ours[0][-1]) == expected
    assert ours[1] == [] and page.read_text().startswith("<!doctype html>")
