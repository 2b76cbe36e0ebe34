"""The page of `xclip-jax serve` in a real browser, on a real server.

The same steps run on an index made here and, where XCLIP_JAX_PAGE_INDEX names one, on that. The
pictures taken go to a folder of pytest's, or to XCLIP_JAX_SCREENSHOTS.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest
import rendered

pytest.importorskip("playwright", reason="needs xclip_jax[webtest]")
pytest.importorskip("fastapi", reason="needs xclip_jax[web]")

from playwright import sync_api

from xclip_jax import evaluate, workdir
from xclip_jax.index import listing, making, store, update
from xclip_jax.web import access

expect = sync_api.expect
BROWSERS = ("chromium", "google-chrome", "chromium-browser")
SIZES = {
    "light": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
}
HOSTILE = """"'><img src=x onerror=alert(1)>&amp; \u200f\u05d0\u202egpj.mp4"""
SHOWN = HOSTILE.replace("\u202e", "\ufffd")  # what would turn the order of the letters after it
TOKEN = "a-token-of-two-dozen-signs"
LOADED = (
    "[...document.images].every(image =>"
    " image.complete || image.getBoundingClientRect().top > innerHeight)"
)
LONG = "<script>alert(2)</script>" + 300 * "W"


class Site(NamedTuple):
    """A running server that wants TOKEN.

    Attributes:
        paths: the files of its index by their ids.
        video: the id of one that browsers play, and `text` describes it.
    """

    address: str
    paths: dict[str, str]
    video: str
    text: str

    def api(self, path: str, **parameters):
        """Returns the JSON that the server answers."""
        address = f"{self.address}api/{path}?{urllib.parse.urlencode(parameters)}"
        request = urllib.request.Request(address, headers={"Authorization": f"Bearer {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


def make_index(shapes, run, folder: Path) -> Path:
    """Makes an index of five clips: rendered ones, a long one, one with a name that attacks, and
    one that browsers do not play."""
    (folder / "clips").mkdir()
    clips = folder / "clips"
    captions = {"test-00000.mp4": "a red circle moves right", "test-00001.mp4": LONG}
    for name in captions:
        shutil.copy(shapes / "rendered" / "videos" / name, clips)
    rendered.render(clips / "long.mp4", 120, fps=10)
    rendered.render(clips / HOSTILE, 30, fps=10)
    rendered.render(clips / "old.avi", 40, fps=10, codec="mpeg4")
    captions |= {"long.mp4": "a grey square that grows bright", HOSTILE: "<b>bold</b>"}
    lines = [
        json.dumps({"video": f"clips/{name}", "caption": captions.get(name, "an old one")})
        for name in sorted(path.name for path in clips.iterdir())
    ]
    (folder / "clips.jsonl").write_text("\n".join(lines))
    trained = workdir.load(run)
    encoders = evaluate.make_encoders(trained.graphdef)
    index = making.open_or_make(folder / "index", trained, encoders, run, moment_frames=12)
    update.update(index, trained, encoders, listing.read(folder / "clips.jsonl"), progress=False)
    return folder / "index"


@pytest.fixture(scope="module", params=["made", "given"])
def site(request, tmp_path_factory):
    if request.param == "given":
        if "XCLIP_JAX_PAGE_INDEX" not in os.environ:
            pytest.skip("XCLIP_JAX_PAGE_INDEX names no index of real videos")
        place = os.environ["XCLIP_JAX_PAGE_INDEX"]
    else:
        shapes, run = (request.getfixturevalue(name) for name in ("shapes", "run"))
        place = make_index(shapes, run, tmp_path_factory.mktemp("page"))
    rows = store.open_index(place).videos.search().limit(999).to_list()
    process = subprocess.Popen(
        [sys.executable, "-m", "xclip_jax", "serve", place, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"XCLIP_JAX_TOKEN": TOKEN},
    )
    try:
        address = process.stdout.readline().split()[-1].partition("?")[0]
        paths = {row["sha256"]: row["path"] for row in rows}
        plain = Site(address, paths, "", "")
        long = sorted(rows, key=lambda row: -row["duration"] * (row["duration"] < 60))
        video = next(r for r in long if plain.api(f"videos/{r['sha256']}")["playable"])
        text = json.loads(video["metadata"])["caption"]
        yield plain._replace(video=video["sha256"], text=text)
    finally:
        process.terminate()
        process.wait(timeout=20)


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"needs a browser: none of {', '.join(BROWSERS)} is here")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser, site):
    """Opens the page in a window of one of SIZES; at the end nothing may have been complained of,
    by the page or by its policy, but errors that a test has put into `expected`."""
    said, contexts = [], []

    def visit(query="", size="light", expected=(), signed_in=True):
        context = browser.new_context(**SIZES[size])
        if signed_in:
            cookie = {"name": access.COOKIE, "value": TOKEN, "url": site.address}
            context.add_cookies([cookie])
        context.set_default_timeout(20_000)
        page = context.new_page()
        contexts.append(context)
        page.on("console", lambda m: said.append(m.text) if m.type in ("error", "warning") else 0)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("dialog", lambda dialog: said.append(dialog.message) or dialog.dismiss())
        page.goto(site.address + query)
        if signed_in:
            settle(page)
        context.expected = expected
        return page

    yield visit
    allowed = [part for context in contexts for part in context.expected]
    for context in contexts:
        context.close()
    assert not [line for line in said if not any(part in line for part in allowed)]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, site):
    """The folder for pictures, one for each index."""
    where = os.environ.get("XCLIP_JAX_SCREENSHOTS") or tmp_path_factory.mktemp("pictures")
    made = any(path.endswith(HOSTILE) for path in site.paths.values())
    folder = Path(where) / ("made" if made else "given")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def search(page, text):
    page.keyboard.press("/")
    page.keyboard.type(text)
    page.keyboard.press("Enter")
    settle(page)


def settle(page):
    """Waits until the videos asked for are shown."""
    page.wait_for_selector("#results[aria-busy=false] a.open")


def open_video(visit, site):
    return visit(f"?{urllib.parse.urlencode({'q': site.text, 'v': site.video})}")


def until(page, script):
    """Waits until a script is true; the page's policy forbids Playwright's own way of doing so."""
    for _ in range(1000):
        if page.evaluate(script):
            return
        page.wait_for_timeout(20)
    raise AssertionError(f"never true: {script}")


def ids(page):
    return page.locator("a.open").evaluate_all("links => links.map(link => link.dataset.id)")


def number(text):
    return float(text.replace("−", "-").replace("+", ""))


def test_a_text_that_is_typed_shows_what_the_api_answers(visit, site):
    page = visit()
    every = ids(page)

    search(page, site.text)

    expected = site.api("search", q=site.text)["results"]
    assert ids(page) == [row["id"] for row in expected] and set(every) <= set(site.paths)
    shown = page.locator(".score").evaluate_all("parts => parts.map(part => part.lastChild.data)")
    assert [number(text) for text in shown] == pytest.approx(
        [row["score"] for row in expected], abs=0.0051
    )
    expect(page.locator("#status")).to_contain_text(f"{len(expected)} videos in")
    assert urllib.parse.parse_qs(page.url.partition("?")[2]) == {"q": [site.text]}
    page.go_back()
    expect(page.locator(".score")).to_have_count(0)
    settle(page)
    assert ids(page) == every
    page.go_forward()
    expect(page.locator("#q")).to_have_value(site.text)


def test_keys_alone_open_a_video_and_come_back(visit, site):
    page = visit()
    search(page, site.text)
    columns = page.locator("a.open").evaluate_all(
        "links => links.filter(link => link.offsetTop === links[0].offsetTop"
        " && link.getBoundingClientRect().top === links[0].getBoundingClientRect().top).length"
    )

    for key in ("ArrowDown", "ArrowRight", "ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"):
        page.keyboard.press(key)
    focused = page.evaluate("document.activeElement.dataset.id")
    page.keyboard.press("Enter")

    expect(page.locator("#viewer")).to_be_visible()
    assert columns > 1 and focused == ids(page)[1] and f"v={focused}" in page.url
    page.keyboard.press("Escape")
    expect(page.locator("#viewer")).to_be_hidden()
    assert page.evaluate("document.activeElement.dataset.id") == focused and "v=" not in page.url
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()


def test_a_moment_that_is_clicked_moves_the_player_there_and_plays(visit, site):
    expected = site.api(f"videos/{site.video}/moments", q=site.text, k=5)["moments"]
    page = open_video(visit, site)
    until(page, "document.querySelector('video')?.readyState >= 1")

    buttons = page.locator(".span")
    expect(buttons).to_have_count(len(expected))
    place = max(range(len(expected)), key=lambda i: expected[i]["start"])
    buttons.nth(place).click()

    start = expected[place]["start"]
    until(page, "!document.querySelector('video').seeking")
    assert start > 0
    assert page.evaluate("document.querySelector('video').currentTime") == pytest.approx(
        start, abs=0.6
    )
    until(page, f"document.querySelector('video').currentTime > {start} + 0.1")
    scores = [
        number(text)
        for text in buttons.locator(".points").evaluate_all(
            "parts => parts.map(part => part.lastChild.data)"
        )
    ]
    assert scores == pytest.approx([moment["score"] for moment in expected], abs=0.0051)


def test_the_points_shown_add_up_to_the_score_and_the_cells_are_the_similarities(visit, site):
    expected = site.api(f"videos/{site.video}/explain", q=site.text)
    page = open_video(visit, site)
    page.wait_for_selector(".heat")

    *points, score = [number(text) for text in page.locator(".parts td.points").all_inner_texts()]
    cells = page.locator(".heat tbody td")
    cells.nth(0).focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")

    assert points == pytest.approx(list(expected["parts"].values()), abs=0.0051)
    assert sum(points) == pytest.approx(score, abs=0.005 * (len(points) + 1))
    assert score == pytest.approx(expected["score"], abs=0.0051)
    shown = [number(re.split(", weight ", text)[0]) for text in cells.all_text_contents()]
    flat = [value for line in expected["similarities"] for value in line]
    assert shown == pytest.approx(flat, abs=0.0051)
    expect(page.locator(".inspector")).to_contain_text(
        f"similarity {expected['similarities'][1][1]:.3f}".replace("-", "−")
    )
    column = min(2, len(expected["times"]) - 1)
    page.locator(".heat thead button").nth(column).click()
    until(page, "!document.querySelector('video').seeking")
    time = page.evaluate("document.querySelector('video').currentTime")
    assert time == pytest.approx(expected["times"][column], abs=0.6)


def test_a_clip_that_is_uploaded_finds_itself(visit, site):
    page = visit()
    search(page, site.text)

    page.set_input_files("#file", site.paths[site.video])
    expect(page.locator(".chip")).to_contain_text(Path(site.paths[site.video]).name)
    page.wait_for_selector(".score")

    assert ids(page)[0] == site.video
    page.go_back()
    expect(page.locator("#q")).to_have_value(site.text)


def test_more_like_this_asks_for_videos_like_it(visit, site):
    page = visit(f"?{urllib.parse.urlencode({'q': site.text})}")
    first = ids(page)[0]

    page.locator("a.open").first.focus()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(".chip")
    page.wait_for_selector(".score")

    assert ids(page) == [row["id"] for row in site.api(f"videos/{first}/like", k=24)["results"]]


def test_a_wrong_filter_shows_the_servers_line_and_keeps_what_was_typed(visit, site):
    page = visit(expected=["422"])
    search(page, site.text)

    page.click("#filter summary")
    page.fill("#where", "nonsense > 3")
    page.keyboard.press("Enter")

    expect(page.locator(".notice.error")).to_contain_text("nonsense")
    expect(page.locator("#where")).to_have_value("nonsense > 3")
    expect(page.locator("#q")).to_have_value(site.text)
    page.fill("#where", "duration > 1e9")
    page.keyboard.press("Enter")
    page.click("text=Remove the filter")
    page.wait_for_selector(".score")


def test_a_server_that_is_gone_is_told_and_tried_again(visit, site):
    page = visit(expected=["ERR_FAILED"])
    page.route("**/api/search*", lambda route: route.abort())
    page.fill("#q", site.text)
    page.keyboard.press("Enter")
    expect(page.locator(".notice.error")).to_contain_text("does not answer")

    page.unroute("**/api/search*")
    page.click("text=Try again")

    page.wait_for_selector(".score")
    expect(page.locator("#q")).to_have_value(site.text)


def test_names_and_metadata_that_attack_are_shown_as_text(visit, site):
    attack = [key for key, path in site.paths.items() if path.endswith(HOSTILE)]
    if not attack:
        pytest.skip("only the index made here has such a name")
    page = visit(f"?v={attack[0]}")

    expect(page.locator("#viewer-name")).to_have_text(SHOWN)
    expect(page.locator(".facts")).to_contain_text("<b>bold</b>")
    assert SHOWN in page.locator(".name").all_text_contents()
    expect(page.locator("#results .about").filter(has_text="<script>alert(2)")).to_have_count(1)
    assert page.locator("img[src=x]").count() == page.locator("main script").count() == 0


def open_old(visit, site, *, expected=()):
    """Opens the first video that browsers do not play; returns the page and its last moment."""
    old = next(key for key, path in site.paths.items() if Path(path).suffix == ".avi")
    query = urllib.parse.urlencode({"q": site.text, "v": old})
    return (
        visit(f"?{query}", expected=expected),
        site.api(f"videos/{old}/moments", q=site.text, k=5)["moments"][-1],
    )


def test_a_copy_stands_in_for_a_video_that_browsers_do_not_play(visit, site):
    page, moment = open_old(visit, site)

    page.locator(".span").last.click()

    expect(page.locator(".stage")).to_contain_text("a copy of it")
    until(page, "document.querySelector('video')?.readyState >= 2")
    until(page, f"document.querySelector('video').currentTime >= {moment['start'] - 0.1}")


def test_frames_stand_in_where_there_is_no_copy_either(visit, site):
    page, moment = open_old(visit, site, expected=["ERR_FAILED"])
    page.context.route("**/play.mp4", lambda route: route.abort())
    page.reload()

    expect(page.locator(".stage")).to_contain_text("here are its frames")
    page.locator(".span").last.click()

    t = re.compile(re.escape(f"t={moment['start']:.2f}"))
    expect(page.locator(".still img")).to_have_attribute("src", t)
    until(page, "document.querySelector('.still img').naturalWidth > 0")


def test_a_server_with_a_token_asks_for_it_and_keeps_what_was_asked(visit, site):
    page = visit(f"?{urllib.parse.urlencode({'q': site.text})}", expected=["401"], signed_in=False)

    page.fill("#token", "not the right one")
    page.keyboard.press("Enter")
    expect(page.locator(".notice")).to_contain_text("not this server's token")
    page.fill("#token", TOKEN)
    page.keyboard.press("Enter")
    settle(page)

    assert urllib.parse.parse_qs(page.url.partition("?")[2]) == {"q": [site.text]}
    expect(page.locator("#q")).to_have_value(site.text)


@pytest.mark.parametrize("size", SIZES)
def test_the_page_fits_the_window_and_its_picture_is_taken(visit, site, pictures, size):
    page = visit(f"?{urllib.parse.urlencode({'q': site.text})}", size)
    page.wait_for_timeout(20)  # until what is in the window has been asked for
    until(page, LOADED)
    page.screenshot(path=pictures / f"{size}-results.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")

    page.locator("a.open").first.click()
    page.wait_for_selector(".heat")
    until(page, LOADED)
    page.screenshot(path=pictures / f"{size}-open.png")
    page.locator(".heat").scroll_into_view_if_needed()
    page.locator(".heat tbody td").first.hover()
    page.screenshot(path=pictures / f"{size}-why.png")

    viewer = page.locator("#viewer")
    assert viewer.evaluate("node => node.scrollWidth <= node.clientWidth")
    if size == "phone":
        page.set_viewport_size({"width": 360, "height": 640})
        assert viewer.evaluate("node => node.scrollWidth <= node.clientWidth")
        assert page.evaluate("document.documentElement.scrollWidth <= 360")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 22)"
    assert dark == (size == "dark")


def test_the_theme_that_was_chosen_stays(visit, site):
    page = visit()
    page.click("#theme")
    page.click("#theme")

    page.reload()

    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
