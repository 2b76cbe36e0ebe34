"""Buckets on this machine: the emulators from PyPI behind a proxy that fails when it is told to.

`gs()` and `s3()` yield a Bucket: its address, the environment in which every library finds it, and
`fail`. What is stored comes from the emulators alone; the proxy only answers in their place.
"""

import contextlib
import http.client
import logging
import os
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

RESET = 0  # in the place of a status: the connection is reset
BUSY = b'<?xml version="1.0"?><Error><Code>ServiceUnavailable</Code><Message>busy</Message></Error>'


class Bucket:
    """A bucket of an emulator, and the faults in front of it.

    Attributes:
      address: gs://NAME or s3://NAME.
      environment: the variables by which libraries find it.
      asked: "METHOD path" of each request so far.
      failed: how many of them were answered by a fault.
    """

    def __init__(self, address: str, port: int):
        self.address, self.environment = address, {}
        self.asked, self.failed = [], 0
        self._rule: Callable[[str], int | None] = lambda request: None
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", 0), _handler(self, port))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.05], daemon=True)
        self._thread.start()

    def rule(self, rule: Callable[[str], int | None]) -> None:
        """Lets `rule` answer from now on: a status, RESET, or None to pass a request on."""
        with self._lock:
            self._rule = rule

    def fail(self, status: int, *, times: float = float("inf"), when: str = "") -> None:
        """Answers with `status` so many requests whose "METHOD path" has the pattern `when`."""
        left = [times]

        def rule(request: str) -> int | None:
            if left[0] <= 0 or not re.search(when, request):
                return None
            left[0] -= 1
            return status

        self.rule(rule)

    def heal(self) -> None:
        self.rule(lambda request: None)

    def answer(self, request: str) -> int | None:
        with self._lock:
            self.asked.append(request)
            status = self._rule(request)
            self.failed += status is not None
            return status

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_) -> None:
        """Says nothing of clients that go before they are answered."""


def _handler(bucket: Bucket, port: int) -> type:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def pass_on(self) -> None:
            body = self._body()
            status = bucket.answer(f"{self.command} {self.path}")
            if status is None:
                self._forward(body)
            elif status == RESET:
                # With this option closing sends a reset, as a machine does that has gone.
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                os.close(self.connection.detach())
                self.close_connection = True
            else:
                self._send(status, [("Content-Type", "application/xml")], BUSY)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = do_PATCH = pass_on

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding", "") == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _forward(self, body: bytes) -> None:
            headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
            headers["Content-Length"] = str(len(body))
            headers["Connection"] = "close"
            upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            with contextlib.closing(upstream):
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                content = answer.read()
                hop = {"connection", "content-length", "transfer-encoding", "date", "server"}
                kept = [(k, v) for k, v in answer.getheaders() if k.lower() not in hop]
                length = answer.getheader("Content-Length")
                self._send(answer.status, kept, content, length)

        def _send(self, status, headers, content: bytes, length: str | None = None) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            head = self.command == "HEAD"
            self.send_header("Content-Length", length if head and length else str(len(content)))
            self.end_headers()
            if not head:
                self.wfile.write(content)

        def log_message(self, *_) -> None:
            pass

    return Handler


@contextlib.contextmanager
def gs(name: str = "bucket") -> Iterator[Bucket]:
    """Yields an empty gs:// bucket."""
    from gcp_storage_emulator.server import create_server

    logging.getLogger("gcp_storage_emulator").setLevel(logging.CRITICAL)
    port = _free_port()
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=name)
    server.start()
    bucket = Bucket(f"gs://{name}", port)
    bucket.environment = {
        "STORAGE_EMULATOR_HOST": bucket.url,  # gcsfs and google-cloud-storage
        "TENSORSTORE_GCS_HTTP_URL": bucket.url,
        "GOOGLE_CLOUD_PROJECT": "none",
        "NO_GCE_CHECK": "true",  # nobody to ask for a login
    }
    try:
        yield bucket
    finally:
        bucket.close()
        server.stop()


@contextlib.contextmanager
def s3(name: str = "bucket") -> Iterator[Bucket]:
    """Yields an empty s3:// bucket."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
    port = _free_port()
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    bucket = Bucket(f"s3://{name}", port)
    bucket.environment = {
        "AWS_ENDPOINT_URL": bucket.url,
        "AWS_ENDPOINT": bucket.url,  # as LanceDB reads it
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",  # botocore pauses for seconds, so it is our own tries that count
    }
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", "/moto-api/reset")
    connection.getresponse().read()
    connection.request("PUT", f"/{name}")
    assert connection.getresponse().status == 200
    connection.close()
    try:
        yield bucket
    finally:
        bucket.close()
        server.stop()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
