"""Weights are fetched once, resumed where they stopped, and never taken for what they are not."""

import hashlib
import http.server
import threading

import pytest

from xclip_jax import cli, download

CONTENT = bytes(range(256)) * 500
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves CONTENT, from where it is asked to; ends early where the path says so."""

    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        start = 0
        if "range" in self.path and self.headers.get("Range"):
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = 70_000 if "short" in self.path and not start else None
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fetch(server, path: str, target, sha256: str = SHA256):
    url = f"http://127.0.0.1:{server.server_address[1]}/{path}"
    return download.fetch_url(url, target, sha256, progress=False)


def test_a_file_is_fetched_once(server, tmp_path):
    target = tmp_path / "new" / "x.pt"

    for _ in range(2):
        assert fetch(server, "whole", target) == target

    assert target.read_bytes() == CONTENT
    assert server.asked == [("/whole", None)]
    assert list(target.parent.iterdir()) == [target]


def test_a_download_goes_on_where_it_stopped(server, tmp_path):
    target = tmp_path / "x.pt"

    with pytest.raises(FileNotFoundError, match=r"70000 of 128000 bytes.*run this again to go on"):
        fetch(server, "short-range", target)
    assert not target.exists()
    fetch(server, "short-range", target)

    assert target.read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=70000-"]


def test_a_server_that_cannot_resume_sends_all_of_it_again(server, tmp_path):
    (tmp_path / "x.pt.partial").write_bytes(CONTENT[:1000])

    assert fetch(server, "whole", tmp_path / "x.pt").read_bytes() == CONTENT


def test_a_whole_partial_file_is_taken(server, tmp_path):
    (tmp_path / "x.pt.partial").write_bytes(CONTENT)

    assert fetch(server, "range", tmp_path / "x.pt").read_bytes() == CONTENT


def test_what_comes_with_another_checksum_is_thrown_away(server, tmp_path):
    with pytest.raises(ValueError, match="expected 0000"):
        fetch(server, "whole", tmp_path / "x.pt", "0" * 64)

    assert not list(tmp_path.iterdir())


def test_another_file_in_its_place_is_kept_and_told(server, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"mine")

    with pytest.raises(ValueError, match="remove it first"):
        fetch(server, "whole", tmp_path / "x.pt")
    assert (tmp_path / "x.pt").read_bytes() == b"mine" and not server.asked


def test_without_a_network_it_says_where_to_put_the_file(tmp_path, monkeypatch, capsys):
    closed = "http://127.0.0.1:9/{sha256}/{name}"  # the discard port: nobody listens there
    monkeypatch.setattr(download, "OPENAI_URL", closed)

    with pytest.raises(SystemExit):
        cli.main(["download", "clip:ViT-B/32", "--out", str(tmp_path)])

    error = capsys.readouterr().err
    assert f"put it at {tmp_path / 'ViT-B-32.pt'}" in error
    assert (
        "http://127.0.0.1:9/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
        in (error)
    )


def test_only_released_models_have_an_address(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["download", "clip:RN50", "--out", str(tmp_path)])

    assert "expected one of clip:ViT-B/32, clip:ViT-B/16, clip:ViT-L/14" in capsys.readouterr().err
