"""Which failures pass and are tried again, and how one that lasts ends a command."""

import errno
import socket
import urllib.error

import pytest

from xclip_jax import one_line, retry
from xclip_jax.processes import distributed

# As TensorStore 0.1.86 and LanceDB 0.40 have them.
TENSORSTORE = (
    "ABORTED: All 3 retry attempts failed: Service Unavailable [http_response_code='503']"
    " [http_response_body='']"
)
UNREACHED = (
    "ABORTED: All 3 retry attempts failed: CURL error Could not connect to server [curl_code='7']"
)
LANCEDB = (
    "lance error: LanceError(IO): Generic S3 error: Error performing PUT http://b/i in 1.4s, after"
    " 3 retries - Server returned non-2xx status code: 503 Service Unavailable: busy"
)
FORBIDDEN = "PERMISSION_DENIED: Forbidden [http_response_code='403'] [http_response_body='']"


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def of_gcsfs(status: int) -> Exception:
    gcsfs = pytest.importorskip("gcsfs.retry")
    return gcsfs.HttpError({"code": status, "message": "said the server"})


def of_s3fs(status: int) -> Exception:
    """Returns what s3fs makes of an answer of S3: an OSError with botocore's as its cause."""
    botocore = pytest.importorskip("botocore.exceptions")
    answer = {"Error": {"Code": str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return caused(OSError(errno.EBUSY, "busy"), botocore.ClientError(answer, "PutObject"))


def of_aiohttp() -> Exception:
    return pytest.importorskip("aiohttp").ServerDisconnectedError()


@pytest.mark.parametrize(
    ("make", "passes", "storage"),
    [
        (lambda: of_gcsfs(503), True, True),
        (lambda: of_gcsfs(429), True, True),
        (lambda: of_gcsfs(401), False, False),
        (lambda: of_s3fs(500), True, True),
        (lambda: of_s3fs(403), False, False),
        (of_aiohttp, True, True),
        (lambda: ValueError(TENSORSTORE), True, True),
        (lambda: ValueError(UNREACHED), True, True),
        (lambda: ValueError(FORBIDDEN), False, False),
        (lambda: RuntimeError(LANCEDB), True, True),
        (lambda: caused(ValueError("a save failed"), of_gcsfs(502)), True, True),
        # Of these nobody can tell whether a bucket's or another process's connection has failed.
        (lambda: ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), True, False),
        (lambda: TimeoutError("The read operation timed out"), True, False),
        (lambda: urllib.error.URLError(socket.gaierror(-3, "name resolution")), True, False),
        (lambda: urllib.error.HTTPError("http://x", 503, "busy", None, None), True, False),
        (lambda: urllib.error.HTTPError("http://x", 404, "gone", None, None), False, False),
        (lambda: FileNotFoundError("no such bucket"), False, False),
        (lambda: PermissionError("Forbidden"), False, False),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), False, False),
        (lambda: ValueError("the 503 videos of the split"), False, False),
        (
            lambda: RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 503 bytes"),
            False,
            False,
        ),
    ],
)
def test_failures_that_pass_are_told_from_those_that_stay(make, passes, storage):
    error = make()

    assert (retry.is_transient(error), retry.is_storage(error)) == (passes, storage)


@pytest.mark.parametrize(
    ("make", "lost"),
    [
        (of_aiohttp, False),
        (lambda: ValueError(TENSORSTORE), False),
        (lambda: ValueError("UNAVAILABLE: [http_response_code='503']"), False),
        (lambda: retry.StorageUnavailable("gs://b: Connection reset by peer"), False),
        (lambda: RuntimeError("UNAVAILABLE: coordination service: Connection refused"), True),
        (lambda: ValueError("UNKNOWN: Gloo AllReduce: Connection reset by peer"), True),
    ],
)
def test_a_bucket_is_not_taken_for_a_dead_process_nor_one_for_the_other(make, lost):
    error = make()

    assert distributed.lost_peer(error) is lost
    assert retry.is_storage(error) is not lost


def test_what_fails_in_passing_is_done_again_until_it_is_done(monkeypatch):
    slept, left = [], [TimeoutError(), ConnectionResetError(), of_gcsfs(503)]
    monkeypatch.setattr(retry.time, "sleep", slept.append)

    def act():
        if left:
            raise left.pop()
        return "done"

    assert retry.call(act, "gs://b/x", seconds=60) == "done"
    assert [0.5 * p <= s <= p for s, p in zip(slept, [0.5, 1, 2], strict=True)] == [True] * 3


def test_what_goes_on_failing_is_given_up_in_time_and_says_so(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(retry.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(retry.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))

    def act():
        now[0] += 3  # as long as a library tries by itself
        raise TimeoutError("no answer")

    with pytest.raises(retry.StorageUnavailable, match=r"gs://b/x .*TimeoutError: no answer.*tri"):
        retry.call(act, "gs://b/x", seconds=60)
    assert 30 < now[0] - 100 <= 63


def test_pauses_grow_to_half_a_minute_and_fit_into_the_time():
    assert list(retry.delays(100)) == [0.5, 1, 2, 4, 8, 16, 30, 30]
    assert list(retry.delays(0.4)) == []
    assert list(retry.delays(100, key="a")) == list(retry.delays(100, key="a"))
    assert list(retry.delays(100, key="a")) != list(retry.delays(100, key="b"))


@pytest.mark.parametrize("error", [ValueError("no"), FileNotFoundError("no"), KeyError("no")])
def test_a_mistake_is_not_tried_again(error):
    tried = []

    def act():
        tried.append(1)
        raise error

    with pytest.raises(type(error)):
        retry.call(act, "gs://b/x")
    assert tried == [1]


@pytest.mark.parametrize(
    ("make", "status"),
    [
        (lambda: retry.StorageUnavailable("gs://b/x cannot be reached: HttpError: 503"), 75),
        (lambda: of_gcsfs(503), 75),
        (lambda: ValueError(TENSORSTORE), 75),
        (lambda: ValueError("gs://b/x: OSError: Forbidden"), 2),
        (lambda: FileNotFoundError("No gs://b/x."), 2),
        (lambda: OSError(errno.ENOSPC, "No space left on device"), 2),
    ],
)
def test_the_exit_status_tells_what_passes_from_what_has_to_be_mended(make, status, capsys):
    assert one_line.answer(make()) == status

    said = capsys.readouterr().err
    assert said.startswith("xclip-jax: ") and said.count("\n") == 1
    assert ("run the same command again" in said) is (status == 75 or "No space" in said)
