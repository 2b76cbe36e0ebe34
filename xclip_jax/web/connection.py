"""One connection: how many there are, and how long one may take to say what it wants.

uvicorn bounds neither: a client that sends a header a minute holds a connection for ever.
"""

import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from xclip_jax.web.limits import Limits


def protocol(limits: Limits) -> type[H11Protocol]:
    """Returns uvicorn's protocol with these limits."""

    class Connection(H11Protocol):
        timer = None

        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                self._refuse("503 Service Unavailable", "too many connections: try again later.")
            else:
                self._time(limits.header_seconds, self._late)

        def data_received(self, data: bytes) -> None:
            if self.timer is None and self._between():
                self._time(limits.header_seconds, self._late)
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.SEND_BODY:
                self._time(limits.linger_seconds, self.transport.close)

        def connection_lost(self, exc) -> None:
            self._stop()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            self._refuse("400 Bad Request", "this is no HTTP request.")

        def _between(self) -> bool:
            return self.cycle is None or (
                self.cycle.response_complete and self.conn.their_state is not h11.SEND_BODY
            )

        def _late(self) -> None:
            seconds = limits.header_seconds
            self._refuse(
                "408 Request Timeout", f"no request within {seconds:g} s of the connection."
            )

        def _time(self, seconds: float, then) -> None:
            self._stop()
            self.timer = self.loop.call_later(seconds, then)

        def _stop(self) -> None:
            if self.timer is not None:
                self.timer.cancel()
                self.timer = None

        def _refuse(self, status: str, line: str) -> None:
            self._stop()
            if self.transport.is_closing():
                return
            body = json.dumps({"error": line})
            head = "Content-Type: application/json\r\nConnection: close\r\nRetry-After: 5"
            self.transport.write(
                f"HTTP/1.1 {status}\r\n{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            self.transport.close()

    return Connection
