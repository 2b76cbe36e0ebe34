"""Who may ask: a token where others can reach the server, and no page of another site anywhere.

A server on the loopback address is reached by every page that the user's browser has open. Its
requests name another host (DNS rebinding) or another origin, and are refused by that.
"""

import hmac
import http.cookies
import ipaddress
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse

from xclip_jax.web.refusals import Refused, answer

COOKIE = "xclip_jax"
PUBLIC = "/static/"  # the page, which tells nothing; it asks for the token where it has none
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
OWN = {"same-origin", "none"}  # of Sec-Fetch-Site
POLICY = "default-src 'self'; img-src 'self' blob:; media-src 'self' blob:"
CLOSED = "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; object-src 'none'"
# Swagger UI sets styles in its elements and has pictures in its style sheet.
DOCS_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


def is_loopback(host: str) -> bool:
    """Returns whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Access:
    """An ASGI application in front of another: refuses, and adds the headers of security.

    `token` is what clients must show, None for no such thing; with `local` they must name a
    loopback address as the host, which no page of another site can.
    """

    def __init__(self, app, *, token: str | None, local: bool):
        self.app, self.local = app, local
        self.token = None if token is None else token.encode()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        policy = DOCS_POLICY if scope["path"].startswith("/docs") else POLICY

        async def send_safely(message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS | {"Content-Security-Policy": f"{policy}; {CLOSED}"})
                files = scope["path"].startswith((PUBLIC, "/docs"))
                headers.setdefault("Cache-Control", "no-cache" if files else "no-store")
            await send(message)

        headers = Headers(scope=scope)
        refused = self._site(scope, headers)
        response = answer(refused) if refused else self._token(scope, headers)
        await (response or self.app)(scope, receive, send_safely)

    def _site(self, scope, headers: Headers) -> Refused | None:
        """Returns why a request may come from another site's page, None if it does not."""
        host = headers.get("host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if self.local and not is_loopback(name.lower().strip("[]")):
            return Refused(
                403,
                f"host {host[:100]!r}: this server answers to localhost and 127.0.0.1 only; start"
                " it with --host to be reached by another name.",
            )
        if scope["method"] in SAFE_METHODS:
            return None
        origin, fetched = headers.get("origin"), headers.get("sec-fetch-site", "none")
        if fetched not in OWN or (origin and origin.partition("://")[2] != host):
            return Refused(403, "a page of another site may not ask this server for anything.")
        return None

    def _token(self, scope, headers: Headers):
        """Returns the response to a request without the token, or with the one of the address,
        None to let it through."""
        if self.token is None or scope["path"].startswith(PUBLIC):
            return None
        asked = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        if scope["path"] == "/" and scope["method"] == "GET" and "token" in asked:
            if not self._right(asked.pop("token")[0]):
                return _stranger()
            # Out of the address, where history and other pages would see it.
            rest = urlencode(asked, doseq=True)
            response = RedirectResponse("/" + (f"?{rest}" if rest else ""), status_code=303)
            response.set_cookie(
                COOKIE, self.token.decode(), httponly=True, samesite="strict", path="/"
            )
            return response
        if scope["path"] == "/":
            return None
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._right(shown.strip()):
            return None
        cookies: http.cookies.SimpleCookie = http.cookies.SimpleCookie()
        try:
            cookies.load(headers.get("cookie", ""))
        except http.cookies.CookieError:
            return _stranger()
        if COOKIE in cookies and self._right(cookies[COOKIE].value):
            return None
        return _stranger()

    def _right(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(errors="replace"), self.token)


def _stranger():
    return answer(
        Refused(
            401,
            "no token, or not the right one: open /?token=TOKEN in a browser, or send the header"
            " 'Authorization: Bearer TOKEN'; the server printed it when it started.",
            {"WWW-Authenticate": "Bearer"},
        )
    )
