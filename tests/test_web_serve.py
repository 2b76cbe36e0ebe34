"""The command `xclip-jax serve`: a real server, and mistakes told in one line."""

import os
import signal
import socket
import subprocess
import sys

import httpx
import pytest
import served

from xclip_jax import cli, cli_serve


@pytest.fixture(scope="module")
def place(shapes, run, tmp_path_factory):
    return served.index_of(shapes, run, tmp_path_factory.mktemp("served")).index.place


def started(place, *options, **environment):
    """Starts the command; returns the process and the address that it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", "xclip_jax", "serve", place, "--port", "0", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    line = process.stdout.readline()
    assert line.startswith("open http://"), process.stderr.read()
    return process, line.split()[1]


def test_it_serves_with_a_token_and_stops_when_told_to(place):
    process, address = started(place, "--token-file", _token(place))
    try:
        with httpx.Client(base_url=address.partition("?")[0], timeout=20) as client:
            stranger = client.get("/api/index")
            page = client.get("/?" + address.partition("?")[2], follow_redirects=True)
            found = client.get("/api/search", params={"q": "a red circle", "k": 2})
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
    finally:
        process.kill()

    assert stranger.status_code == 401 and page.status_code == 200
    assert len(found.json()["results"]) == 2
    assert process.returncode == 0 and said.rstrip().endswith("stopped")
    assert "compiling search" in said and "Traceback" not in said
    assert "token" not in said


def _token(place):
    path = os.path.join(os.path.dirname(place), "token")
    with open(path, "w") as file:
        file.write("a-token-of-two-dozen-signs\n")
    return path


def refusal(capsys, *arguments) -> str:
    """Returns the one line that the command ends with."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", *arguments])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_an_index_that_is_not_there_is_one_line(capsys, tmp_path):
    assert "no index there" in refusal(capsys, str(tmp_path / "none"))


def test_a_port_in_use_is_one_line(capsys, place):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        line = refusal(capsys, place, "--port", str(port))

    assert "in use" in line and "another --port" in line


def test_a_host_that_is_not_here_is_one_line(capsys, place):
    assert "--host 203.0.113.1" in refusal(capsys, place, "--host", "203.0.113.1", "--port", "0")


def test_mistakes_are_told_together(capsys, place):
    options = ["--port", "70000", "--rate", "-1", "--upload-mb", "0", "--token-file", "/none"]

    line = refusal(capsys, place, *options)

    assert all(word in line for word in ("--port 70000", "--rate -1", "--upload-mb 0", "/none"))


def test_a_weak_token_is_one_line(capsys, place, monkeypatch):
    monkeypatch.setenv(cli_serve.TOKEN, "short")

    assert f"${cli_serve.TOKEN}: expected a token of 16" in refusal(capsys, place)


def test_without_the_extra_one_line_says_what_to_install(capsys, place, monkeypatch):
    monkeypatch.setattr(cli_serve, "PACKAGES", ("fastapi", "no_such_package"))

    assert "no_such_package: pip install 'xclip_jax[index,web]'" in refusal(capsys, place)


def test_others_than_this_machine_need_a_token_that_is_made():
    from xclip_jax.web import access, run

    tokens = {run.random_token() for _ in range(3)}

    assert len(tokens) == 3 and all(run.checked_token(token, "") == token for token in tokens)
    assert [access.is_loopback(h) for h in ("127.0.0.1", "::1", "localhost")] == [True] * 3
    assert not any(access.is_loopback(host) for host in ("0.0.0.0", "::", "10.0.0.1", "a.example"))
