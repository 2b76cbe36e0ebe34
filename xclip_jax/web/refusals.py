"""Every answer that is an error: {"error": one line}, with the status that fits."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

SHOWN = 5  # of several problems
LETTERS = 300  # of what was given, repeated to the one who gave it


class Refused(Exception):
    """A request that is answered with a status and one line; `headers` go with it."""

    def __init__(self, status: int, line: str, headers: dict[str, str] | None = None):
        super().__init__(line)
        self.status, self.line, self.headers = status, line, headers or {}


def busy(line: str, seconds: int = 2) -> Refused:
    """Returns the refusal of a request that may be made again soon."""
    return Refused(503, line, {"Retry-After": str(seconds)})


def answer(error: Refused) -> JSONResponse:
    """Returns the refusal as a response."""
    return JSONResponse({"error": error.line}, error.status, headers=error.headers)


def add(app: FastAPI) -> None:
    """Makes an app answer all its errors so."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused):
        return answer(error)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect):
        return answer(Refused(400, "the connection ended before the request did."))

    @app.exception_handler(HTTPException)
    async def of_the_framework(request: Request, error: HTTPException):
        line = str(error.detail)
        if error.status_code == 404:
            line = f"nothing is at {request.url.path[:LETTERS]}: /docs lists what there is."
        if error.status_code == 405:
            line = f"{request.method} is not possible at {request.url.path[:LETTERS]}: see /docs."
        return answer(Refused(error.status_code, line, dict(error.headers or {})))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError):
        if any(problem["loc"][0] == "path" for problem in error.errors()):
            return answer(Refused(404, "no video has this id: expected 64 hexadecimal digits."))
        lines = [_line(problem) for problem in error.errors()]
        more = f"; and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
        return answer(Refused(422, "; ".join(lines[:SHOWN]) + more + "."))

    @app.exception_handler(Exception)
    async def ours(_: Request, error: Exception):
        return answer(Refused(500, f"a fault of the server ({type(error).__name__}): see its log."))


def _line(problem: dict) -> str:
    name = ".".join(str(part) for part in problem["loc"][1:]) or str(problem["loc"][0])
    if problem["type"] == "missing":
        return f"{name} is missing"
    given = str(problem.get("input"))
    given = given if len(given) < 60 else f"{given[:50]}... ({len(given)} characters)"
    said = " ".join(problem["msg"].split())
    return f"{name}={given!r}: {said[:1].lower()}{said[1:]}"
