"""Hostile requests: each gets a 4xx of one line, and the server answers afterwards."""

import asyncio
import json
import multiprocessing
import os
import socket
import struct
import threading
import time

import pytest
import rendered
import served
import uvicorn

from xclip_jax.web import access, apart, bounds, connection, files, filters, run
from xclip_jax.web.limits import Limits
from xclip_jax.web.refusals import Refused
from xclip_jax.web.work import Work

TOKEN = "a-token-of-two-dozen-signs"
SMALL = {
    "upload_bytes": 300_000,
    "upload_seconds": 60.0,
    "query_characters": 100,
    "idle_seconds": 0.2,
    "header_seconds": 0.2,
    "linger_seconds": 0.2,
    "connections": 8,
}


@pytest.fixture(scope="module")
def serving(shapes, run, tmp_path_factory):
    searcher = served.index_of(shapes, run, tmp_path_factory.mktemp("served"))
    made = served.serving(searcher, **SMALL)
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(serving):
    return served.client(serving)


@pytest.fixture(scope="module")
def sha256(client):
    return client.get("/api/videos").json()["videos"][0]["id"]


@pytest.fixture(scope="module")
def port(serving):
    """A real server over sockets, in a thread."""
    config = uvicorn.Config(
        run.guarded(serving, token=None, local=True),
        http=connection.protocol(serving.limits),
        lifespan="off",
        log_level="critical",
    )
    server, opened = uvicorn.Server(config), run.bound_socket("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[opened])))
    thread.start()
    yield opened.getsockname()[1]
    server.should_exit = True
    thread.join()


def assert_refused(answer, status):
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["error"] and "\n" not in answer.json()["error"]
    assert "Traceback" not in answer.text and "/tmp" not in answer.text


def talk(port, *pieces, pause=0.0):
    """Sends pieces of bytes, with pauses; returns all that comes back until the end."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as opened:
        try:
            for piece in pieces:
                opened.sendall(piece)
                time.sleep(pause)
        except OSError:  # closed already: what was answered is still there
            pass
        found = b""
        try:
            while piece := opened.recv(65536):
                found += piece
        except ConnectionResetError:
            pass
        return found


def ask(path="/api/index", method="GET", **headers):
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def assert_alive(port):
    for _ in range(50):
        answer = talk(port, ask(Connection="close"))
        if not answer.startswith(b"HTTP/1.1 503"):  # connections of before may still be closing
            break
        time.sleep(0.1)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "what", ["", "/file", "/frame", "/preview", "/like", "/moments", "/explain"]
)
@pytest.mark.parametrize(
    "name",
    ["..%2f..%2fetc%2fpasswd", "%2e%2e/%2e%2e/etc/passwd", "..\\..\\x", "%00", "f" * 64, "'"],
)
def test_no_path_leads_out_of_the_index(client, name, what):
    assert_refused(client.get(f"/api/videos/{name}{what}?q=a"), 404)


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "%2e%2e%2fapp.py", "/etc/passwd"])
@pytest.mark.parametrize("folder", ["/static/", "/docs/files/"])
def test_no_path_leads_out_of_the_page(client, folder, name):
    assert_refused(client.get(folder + name), 404)


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/api/search", 422, "q is missing"),
        ("/api/search?q=%20%09", 422, "q is empty"),
        ("/api/search?q=" + "a" * 40_000, 422, "at most 100 characters"),
        ("/api/search?q=a&k=0", 422, "k='0'"),
        ("/api/search?q=a&k=many", 422, "k='many'"),
        ("/api/search?q=a&k=1e9", 422, "k='1e9'"),
        ("/api/search?q=a&exact=maybe", 422, "exact='maybe'"),
        ("/api/search?q=a&where=duration", 422, "where"),
        ("/api/search?q=a&where=duration<'x'", 422, "where"),
        ("/api/search?q=a&where=path LIKE '/home/%25'", 422, "path is not known"),
        ("/api/search?q=a&where=" + "1" * 2000, 422, "at most 1000 characters"),
        ("/api/videos?offset=-1&limit=x", 422, "offset='-1'"),
        ("/api/videos/ID/frame?t=nan", 422, "t='nan'"),
        ("/api/videos/ID/frame?t=-1", 422, "t='-1'"),
        ("/api/videos/ID/frame?height=99999", 422, "height='99999'"),
        ("/api/videos/ID/moments?q=a&k=1000000", 422, "k='1000000'"),
        ("/api/videos?where=sha256='x'", 422, "sha256 is not known"),
        ("/api/videos?where=duration", 422, "where"),
        ("/api/videos/ID/like?where=duration", 422, "where"),
        ("/nothing", 404, "/docs"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_is_wrong_with_a_request_is_one_line(client, sha256, path, status, said):
    answer = client.get(path.replace("ID", sha256))

    assert_refused(answer, status)
    assert said in answer.json()["error"]


def test_a_method_that_is_not_there_is_refused(client):
    assert_refused(client.delete("/api/index"), 405)


@pytest.mark.parametrize(
    "where",
    [
        "length(repeat('a', 2000000000)) > 1",
        "array_length(range(0, 10000000000)) > 1",
        "regexp_like(path, '(a+)+$')",
        "duration < (SELECT 1)",
        "sha256 = 'x'",
        "duration < 1; DROP TABLE videos",
        "duration < 1 -- and",
        'duration < "size"',
        "cast(duration as text) = 'x'",
        "not " * 30 + "true",
        "(" * 30 + "true" + ")" * 30,
    ],
    ids=lambda where: where[:20],
)
def test_a_filter_of_other_words_is_refused_before_it_is_run(where):
    with pytest.raises(Refused, match="where: "):
        filters.checked(where)


@pytest.mark.parametrize(
    "where", ["duration < 1.5e2 AND NOT size = 3", "lower('It''s') = 'x'", " "]
)
def test_a_filter_of_known_words_is_let_through(where):
    assert filters.checked(where) == (where.strip() or None)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("bytes=0-", (0, 10)),
        ("bytes=3-3", (3, 4)),
        ("bytes=4-99", (4, 10)),
        ("bytes=-4", (6, 10)),
        ("bytes=-99", (0, 10)),
        ("bytes=7-2", None),
        ("bytes=1-2,4-5", None),
        ("bytes=-", None),
        ("bytes=a-b", None),
        ("items=1-2", None),
        ("bytes=" + "9" * 5000 + "-", None),
        ("bytes=10-", 416),
        ("bytes=-0", 416),
        ("bytes=9999999999999999999-", 416),
    ],
    ids=lambda value: str(value)[:30],
)
def test_ranges_are_those_of_the_standard(asked, expected):
    if expected == 416:
        with pytest.raises(Refused) as refused:
            files.span(asked, 10)
        assert refused.value.headers == {"Content-Range": "bytes */10"}
    else:
        assert files.span(asked, 10) == expected


def test_a_range_outside_the_file_is_416(client, sha256):
    answer = client.get(f"/api/videos/{sha256}/file", headers={"Range": "bytes=999999999-"})

    assert_refused(answer, 416)
    assert answer.headers["content-range"].startswith("bytes */")


def test_uploads_that_are_no_clip_are_refused(client, serving, shapes, tmp_path):
    clip = (shapes / "rendered" / "videos" / "test-00000.mp4").read_bytes()
    long = bytearray(rendered.render(tmp_path / "a.avi", 9, codec="mpeg4").read_bytes())
    struct.pack_into("<I", long, long.index(b"strh") + 40, 10 * 3600 * 25)  # its number of frames

    for content, status in (
        (b"PK\x03\x04" + bytes(5000), 415),
        (b"", 415),
        (b"#EXTM3U\nfile:///etc/passwd\n", 415),
        (b"some text\n" * 50, 415),
        (clip[: len(clip) // 2], 415),
        (bytes(long), 422),
    ):
        answer = client.post("/api/search/video", files={"video": ("clip.mp4", content)})
        assert_refused(answer, status)

    assert "lasts 36000 s" in answer.json()["error"]  # from its header, and not decoded
    assert client.post("/api/search/video", files={"video": ("c.mp4", clip)}).status_code == 200
    assert serving.uploads == 0


@pytest.mark.parametrize(
    ("headers", "content", "status"),
    [
        ({"content-type": "multipart/form-data"}, b"xx", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"xx", 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"--x\r\n" + b"a" * 9999, 400),
        ({"content-type": "multipart/form-data; boundary=x"}, b"", 422),
        ({"content-type": "application/json"}, b"{'no': json", 415),
        ({"content-type": "application/x-www-form-urlencoded"}, b"video=x", 415),
        ({}, b"", 415),
    ],
)
def test_malformed_bodies_are_refused(client, headers, content, status):
    assert_refused(client.post("/api/search/video", headers=headers, content=content), status)


@pytest.mark.parametrize("field", ["vide", "video"])
def test_a_clip_in_another_field_or_as_text_is_refused(client, field):
    text = {"video": "text"} if field == "video" else {}

    answer = client.post("/api/search/video", data=text, files={"vide": ("a.mp4", b"x")})

    assert_refused(answer, 422)


def test_a_body_that_is_too_large_is_refused_by_its_header(port):
    answer = talk(
        port,
        ask("/api/search/video", "POST", Content_Length=2**30, Content_Type="multipart/form-data"),
        b"x",
    )

    # Had it waited for the rest of the body, this were a 408.
    assert answer.startswith(b"HTTP/1.1 413") and b'{"error":' in answer
    assert_alive(port)


def test_a_body_of_no_declared_size_is_cut_off(port):
    head = ask(
        "/api/search/video",
        "POST",
        Transfer_Encoding="chunked",
        Content_Type="multipart/form-data; boundary=x",
    )
    part = b'--x\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
    chunk = b"%x\r\n%s\r\n"
    pieces = [chunk % (100_000, bytes(100_000))] * 8

    answer = talk(port, head, chunk % (len(part), part), *pieces)

    assert answer.startswith(b"HTTP/1.1 413")
    assert_alive(port)


def test_a_slow_sender_is_cut_off(port, serving):
    head = ask(
        "/api/search/video",
        "POST",
        Content_Length=1000,
        Content_Type="multipart/form-data; boundary=x",
    )

    body, headers, nothing = talk(port, head, b"--x"), talk(port, head[:40]), talk(port)
    pieces = talk(port, *[bytes([byte]) for byte in head[:12]], pause=0.03)

    assert body.startswith(b"HTTP/1.1 408") and b'{"error":' in body
    assert all(answer.startswith(b"HTTP/1.1 408") for answer in (headers, nothing, pieces))
    assert_alive(port)
    assert serving.uploads == 0


def test_a_second_request_has_as_little_time(port):
    answer = talk(port, ask(), b"GET / HT", pause=0.1)

    assert answer.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in answer


def test_what_is_no_http_is_refused(port):
    for sent in (b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET /\r\n\r\n", b"G" * 100_000):
        answer = talk(port, sent)
        assert answer.startswith(b"HTTP/1.1 400") and json.loads(answer.partition(b"\r\n\r\n")[2])
    assert_alive(port)


def test_connections_are_bounded(port):
    held = [socket.create_connection(("127.0.0.1", port)) for _ in range(SMALL["connections"])]
    try:
        one_more = talk(port, ask(Connection="close"))
    finally:
        for each in held:
            each.close()

    assert one_more.startswith(b"HTTP/1.1 503") and b"Retry-After" in one_more
    assert_alive(port)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
)
def test_another_host_is_refused_on_the_loopback(client, host):
    assert_refused(client.get("/api/index", headers={"Host": host}), 403)


@pytest.mark.parametrize(
    "host", ["localhost:8000", "127.0.0.1", "[::1]:8000", "127.0.0.2:1", "LOCALHOST"]
)
def test_the_loopback_has_several_names(client, host):
    assert client.get("/api/index", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "http://127.0.0.1:8000", "Sec-Fetch-Site": "same-origin"}, 415),
    ],
)
def test_a_page_of_another_site_may_not_post(client, headers, status):
    assert_refused(client.post("/api/search/video", headers=headers), status)


def test_every_answer_has_the_headers_of_security(client):
    for path in ("/", "/api/index", "/nothing", "/static/index.html"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]


@pytest.mark.parametrize("path", ["/api/index", "/docs", "/openapi.json"])
def test_without_the_token_nothing_is_shown(serving, path):
    client = served.client(serving, token=TOKEN, local=False)

    for headers in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer ü"},
        {"Cookie": "xclip_jax=wrong"},
        {"Cookie": "xclip_jax"},
    ):
        coded = {name: value.encode("latin-1") for name, value in headers.items()}
        assert_refused(client.get(path, headers=coded), 401)
    assert_refused(client.get("/static/../api/index"), 401)
    assert_refused(client.get("/?token=wrong"), 401)
    assert_refused(client.get("/?token="), 401)
    assert client.get(path, headers={"Authorization": f"bearer {TOKEN}"}).status_code == 200


def test_the_token_of_the_address_becomes_a_cookie(serving):
    client = served.client(serving, token=TOKEN, local=False)

    first = client.get(f"/?token={TOKEN}&q=a+dog", headers={"Host": "machine.example"})
    then = client.get(first.headers["location"])

    assert served.client(serving, token=TOKEN).get("/").status_code == 200  # it asks for the token
    assert (first.status_code, first.headers["location"]) == (303, "/?q=a+dog")
    cookie = first.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=strict" in cookie
    assert then.status_code == client.get("/api/index").status_code == 200


@pytest.mark.parametrize(
    "token", ["short", "with a space in it, too long", "ü" * 20, "a;b" * 10, ""]
)
def test_a_weak_token_is_refused(token):
    with pytest.raises(ValueError, match="expected a token of 16"):
        run.checked_token(token, "--token-file t")


def test_an_address_that_asks_too_often_waits(serving):
    app = served.client(serving).app.app
    limited = bounds.Bounds(app.app, limits=serving.limits._replace(rate=0.5), uploads=set())
    client = served.TestClient(
        access.Access(limited, token=None, local=True), base_url=served.ADDRESS
    )

    answers = [client.get("/") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert_refused(answers[2], 429)
    assert int(answers[2].headers["retry-after"]) >= 1


def test_work_that_waits_is_bounded_and_what_takes_long_is_given_up():
    work, go_on = Work("the test", threads=1, waiting=1, seconds=0.2), threading.Event()

    async def three():
        return await asyncio.gather(*(work(go_on.wait) for _ in range(3)), return_exceptions=True)

    found = asyncio.run(three())
    go_on.set()
    work.pool.shutdown()

    assert [error.status for error in found] == [503] * 3
    assert sorted(error.line.split()[1] for error in found) == ["requests", "test", "test"]
    assert all(int(error.headers["Retry-After"]) for error in found) and work.count == 0


def test_work_on_files_of_strangers_is_ended_where_it_takes_long_or_breaks():
    before = {process.pid for process in multiprocessing.active_children()}
    sleeping, leaving = apart.Apart(time.sleep, seconds=0.2), apart.Apart(os._exit, seconds=9)
    try:
        sleeping.start()
        with pytest.raises(apart.Late):
            sleeping(60)
        again = sleeping(0)
        with pytest.raises(apart.Died):
            leaving(1)
    finally:
        sleeping.close()
        leaving.close()

    assert again is None
    assert {process.pid for process in multiprocessing.active_children()} <= before


def test_limits_say_what_they_are_of():
    documented = Limits.__doc__
    assert all(f"{name}" in documented for name in Limits._fields)
