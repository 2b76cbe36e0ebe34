"""How much one request may send, for how long, and how many requests an address may make."""

import asyncio
import time
from collections import OrderedDict

from starlette.datastructures import Headers

from xclip_jax.web.limits import Limits
from xclip_jax.web.refusals import Refused, answer

ADDRESSES = 10_000  # of which requests are counted
BURST = 5.0  # seconds' worth of requests that may come at once


class Bounds:
    """An ASGI application in front of another, which reads the body through it.

    Paths in `uploads` take bodies of `limits.upload_bytes`, all others `limits.body_bytes`.
    """

    def __init__(self, app, *, limits: Limits, uploads: set[str]):
        self.app, self.limits, self.uploads = app, limits, uploads
        self._seen: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        limits = self.limits
        most = limits.upload_bytes if scope["path"] in self.uploads else limits.body_bytes
        refused = self._too_many(scope) or _declared(scope, most)
        if refused:
            await answer(refused)(scope, receive, send)
            return
        received, deadline = 0, time.monotonic() + limits.body_seconds
        whole = scope["method"] in ("GET", "HEAD")  # whose bodies nobody reads

        async def receive_bounded():
            nonlocal received, whole
            if whole:  # what comes now is the end of the connection, which may take its time
                return await receive()
            left = deadline - time.monotonic()
            try:
                message = await asyncio.wait_for(receive(), min(limits.idle_seconds, max(left, 0)))
            except TimeoutError:
                raise Refused(
                    408,
                    f"the request's body took more than {limits.body_seconds:g} s, or paused for"
                    f" {limits.idle_seconds:g} s.",
                    {"Connection": "close"},
                ) from None
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if received > most:
                    raise _too_large(most)
            return message

        await self.app(scope, receive_bounded, send)

    def _too_many(self, scope) -> Refused | None:
        """Counts a request of its address: a bucket that fills at the rate."""
        rate = self.limits.rate
        if rate is None:
            return None
        address, now = (scope.get("client") or ("", 0))[0], time.monotonic()
        most = max(rate * BURST, 1.0)
        left, then = self._seen.pop(address, (most, now))
        left = min(left + (now - then) * rate, most)
        self._seen[address] = (max(left - 1, 0.0) if left >= 1 else left), now
        while len(self._seen) > ADDRESSES:
            self._seen.popitem(last=False)
        if left >= 1:
            return None
        return Refused(
            429,
            f"more than {rate:g} requests a second from one address: wait a little.",
            {"Retry-After": str(max(1, round((1 - left) / rate)))},
        )


def _declared(scope, most: int) -> Refused | None:
    length = Headers(scope=scope).get("content-length", "0")
    return _too_large(most) if length.isdigit() and int(length) > most else None


def _too_large(most: int) -> Refused:
    return Refused(413, f"the request's body is too large: {most:,} bytes at most.")
