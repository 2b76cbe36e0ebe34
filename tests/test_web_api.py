"""The JSON API: it answers what the index and the model answer when they are called directly."""

import io
import os
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
import rendered
import served
from PIL import Image

from xclip_jax import library, moments, video
from xclip_jax.explain import breakdown
from xclip_jax.index import making, query, spans, store, update
from xclip_jax.web import playing

QUERY = "a red circle moves right"


@pytest.fixture(scope="module")
def searcher(shapes, run, tmp_path_factory):
    return served.index_of(shapes, run, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def serving(searcher):
    made = served.serving(searcher, results=20)
    made.model.pool.submit(made.answers.warm, lambda line: None).result()
    yield made
    made.close()


@pytest.fixture(scope="module")
def client(serving):
    return served.client(serving)


@pytest.fixture(scope="module")
def rows(searcher):
    return {
        row["path"].rpartition("/")[2]: row
        for row in searcher.index.videos.search().limit(99).to_list()
    }


def of(hits) -> list[tuple]:
    return [(hit.sha256, hit.score, hit.metadata) for hit in hits]


def given(answer) -> list[tuple]:
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [row["rank"] for row in results] == list(range(1, len(results) + 1))
    return [(row["id"], row["score"], row["metadata"]) for row in results]


def test_the_index_is_described(client, searcher):
    facts = client.get("/api/index").json()

    assert facts["videos"] == served.CLIPS + 1 and facts["moments"] is True
    assert facts["fingerprint"] == searcher.index.facts["model"]
    assert facts["scores"] == ["video_sentence", "video_word", "sentence_frame", "frame_word"]
    assert facts["limits"]["results"] == 20


@pytest.mark.parametrize("options", [{}, {"exact": True}, {"where": "duration < 99 AND size > 0"}])
def test_a_text_finds_what_the_index_finds(client, searcher, options):
    [expected] = query.texts(searcher, [QUERY], k=4, **options)

    answer = client.get("/api/search", params={"q": f"  {QUERY} ", "k": 4} | options)

    assert given(answer) == of(expected.hits) and len(expected.hits) == 4
    assert answer.json()["query"] == QUERY


def test_a_filter_on_metadata_leaves_the_others_out(client):
    params = {"q": QUERY, "where": "json_get_int(metadata, 'number') IN (1, 3)"}

    found = given(client.get("/api/search", params=params))

    listed = client.get("/api/videos", params={"where": params["where"]}).json()
    assert {metadata["number"] for _, _, metadata in found} == {1, 3}
    assert {row["metadata"]["number"] for row in listed["videos"]} == {1, 3}
    assert listed["total"] == 2


def test_the_videos_like_one_are_the_nearest_without_itself_and_its_copy(client, searcher, rows):
    row = rows["twin.mp4"]
    [expected] = query.like(searcher, np.array([row["video"]], np.float32), k=99)

    place = f"/api/videos/{row['sha256']}/like"
    answer = client.get(place, params={"k": 3})
    filtered = client.get(place, params={"where": "json_get_int(metadata, 'number') = 4"})

    assert given(answer) == of([h for h in expected.hits if h.sha256 != row["sha256"]][:3])
    assert [metadata for _, _, metadata in given(filtered)] == [{"number": 4}]


def test_an_uploaded_clip_finds_what_its_vector_finds(client, serving, searcher, rows):
    path = rows["test-00003.mp4"]["path"]
    vector = making.vector(searcher.trained, searcher.encoders, path)
    [expected] = query.like(searcher, vector, k=3)

    with open(path, "rb") as file:
        answer = client.post("/api/search/video?k=3", files={"video": ("a/b.mp4", file)})

    assert given(answer) == of(expected.hits) and answer.json()["query"] == "b.mp4"
    assert expected.hits[0].path == path and serving.uploads == 0


def test_moments_are_those_of_the_stored_frames(client, searcher, rows):
    row = rows["test-00002.mp4"]
    where = "json_get_int(metadata, 'number') = 2"
    [expected] = spans.find(searcher, [QUERY], k=2, where=where)

    answer = client.get(f"/api/videos/{row['sha256']}/moments", params={"q": QUERY, "k": 2}).json()

    found = [(part["start"], part["end"], part["score"]) for part in answer["moments"]]
    assert found == [(part.start, part.end, part.score) for part in expected]
    assert answer["duration"] == pytest.approx(row["duration"])


def test_an_explanation_is_the_librarys_without_padding(client, searcher, rows):
    row, trained = rows["test-00004.mp4"], searcher.trained
    table = searcher.index.videos.search().where(f"path = {store.quoted(row['path'])}").to_arrow()
    features = store.features(searcher.index, table, update.feature_type(trained))
    text = query.encode(searcher, [QUERY])
    pair = [jax.tree.map(lambda x: x[0], one) for one in (text, features)]
    expected = breakdown.explain(trained.graphdef, trained.params, *pair)
    [score] = library.few_shapes.score(
        searcher.encoders, trained.params, text, features, progress=False
    )

    answer = client.get(f"/api/videos/{row['sha256']}/explain", params={"q": QUERY}).json()

    part, shape = expected.parts["frame_word"], (len(answer["words"]), len(row["times"]))
    assert answer["words"][0] == "[start]" and answer["words"][-1] == "[end]"
    assert np.shape(answer["attention"]) == np.shape(answer["similarities"]) == shape
    np.testing.assert_allclose(answer["attention"], part.attention[: shape[0], : shape[1]])
    assert answer["parts"] == pytest.approx(expected.points())
    assert sum(answer["parts"].values()) == pytest.approx(answer["score"])
    assert answer["score"] == pytest.approx(float(score[0]), abs=1e-3)
    assert answer["times"] == row["times"]


def test_videos_are_listed_a_page_at_a_time(client, rows):
    pages = [client.get("/api/videos", params={"offset": i, "limit": 4}).json() for i in (0, 4)]

    listed = [row for page in pages for row in page["videos"]]
    assert {row["name"]: row["id"] for row in listed} == {n: r["sha256"] for n, r in rows.items()}
    assert [page["total"] for page in pages] == [len(rows)] * 2


def test_a_video_is_described_and_played(client, rows):
    row = rows["test-00000.mp4"]
    content = Path(row["path"]).read_bytes()
    place = f"/api/videos/{row['sha256']}"

    about, whole = client.get(place).json(), client.get(f"{place}/file")
    part = client.get(f"{place}/file", headers={"Range": "bytes=5-11"})
    tail = client.get(f"{place}/file", headers={"Range": "bytes=-3"})
    stale = client.get(f"{place}/file", headers={"Range": "bytes=5-11", "If-Range": '"old"'})

    assert about["name"] == "test-00000.mp4" and about["playable"] is True
    assert about["times"] == row["times"] and "path" not in about
    assert whole.content == stale.content == content and whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-type"] == "video/mp4"
    assert (part.status_code, part.content) == (206, content[5:12])
    assert part.headers["content-range"] == f"bytes 5-11/{len(content)}"
    assert tail.content == content[-3:]


def test_pictures_are_of_the_second_asked_for(client, rows):
    row = rows["test-00001.mp4"]
    frames = list(video.every_frame(row["path"]))
    at = len(frames) // 2
    expected = np.asarray(frames[at][0].to_image().resize((64, 64)), float)
    place = f"/api/videos/{row['sha256']}"

    frame = client.get(f"{place}/frame", params={"t": frames[at][1] + 0.001, "height": 64})
    late = client.get(f"{place}/frame", params={"t": 9999})
    preview = Image.open(io.BytesIO(client.get(f"{place}/preview").content))

    image = Image.open(io.BytesIO(frame.content))
    assert image.size == (64, 64) and "immutable" in frame.headers["cache-control"]
    assert np.abs(np.asarray(image, float) - expected).mean() < 8  # JPEG, and another resize
    assert late.status_code == 200
    assert preview.height == 144 and preview.width == 1440


def test_what_browsers_cannot_play_is_copied_for_them(tmp_path):
    source, target = tmp_path / "a.avi", tmp_path / "b.mp4"
    rendered.render(source, 30, fps=10, size=(64, 50), codec="mpeg4", pix_fmt="yuv420p")

    wrong = playing.copy((str(source), str(target)), 2.0)
    shown = list(video.every_frame(target))

    assert wrong == "" and len(shown) == 21  # of the first two seconds
    assert [round(time, 3) for _, time in shown] == [i / 10 for i in range(21)]
    assert [rendered.number(frame.to_image()) for frame, _ in shown] == list(range(21))
    assert playing.copy((str(tmp_path / "none"), str(target)), 2.0) == "missing"
    copied = target.read_bytes()
    assert copied.index(b"moov") < copied.index(b"mdat")  # it plays before all of it is there


def test_a_copy_is_kept_and_served_in_parts(client, serving, rows):
    place = f"/api/videos/{rows['test-00000.mp4']['sha256']}/play.mp4"

    whole = client.get(place)
    part = client.get(place, headers={"Range": "bytes=4-7"})

    assert whole.headers["content-type"] == "video/mp4" and part.content == b"ftyp"
    assert part.status_code == 206 and len(serving.copies._held) == 1


def test_texts_that_wait_are_encoded_together_and_alike(serving, searcher):
    asked = [f"a green square number {i}" for i in range(8)]
    for each in asked:
        serving.answers.expect(each)

    found = [serving.answers.text(each) for each in asked]
    alone = [query.encode(searcher, [each]) for each in asked]

    assert not serving.answers._expected
    for one, other in zip(found, alone, strict=True):
        for x, y in zip(one, other, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)  # other sizes of matrix products


def test_a_file_that_changed_is_gone_and_a_copy_stands_in(shapes, run, searcher, rows, tmp_path):
    own = served.index_of(shapes, run, tmp_path)
    changed = tmp_path / "clips" / "test-00001.mp4"
    made = served.serving(own)
    try:
        client = served.client(made)
        place = f"/api/videos/{rows['twin.mp4']['sha256']}"
        os.utime(changed, ns=(5, 5))
        stands_in = client.get(f"{place}/file").status_code
        (tmp_path / "clips" / "twin.mp4").unlink()
        os.mkfifo(tmp_path / "clips" / "twin.mp4")
        gone = [client.get(f"{place}/{what}") for what in ("file", "frame", "preview")]
    finally:
        made.close()

    assert stands_in == 200
    assert {answer.status_code for answer in gone} == {410}
    assert "index it again" in gone[0].json()["error"] and str(tmp_path) not in gone[0].text


def test_what_another_process_indexes_is_found(serving, client, searcher, shapes, rows):
    row = rows["test-00000.mp4"]
    # The same features under another name, as an update would add them.
    table = searcher.index.videos.search().where(f"path = {store.quoted(row['path'])}").to_arrow()
    new = table.set_column(0, "path", [["/elsewhere/new.mp4"]]).set_column(
        1, "sha256", [["f" * 64]]
    )
    store.open_index(searcher.index.place).videos.add(new.cast(searcher.index.videos.schema))

    for held in (serving.rows, serving.answers.rows):
        held._checked -= 2  # a second later
    found = given(client.get("/api/search", params={"q": QUERY, "k": 20}))

    assert ("f" * 64) in [sha256 for sha256, *_ in found]
    assert client.get(f"/api/videos/{'f' * 64}").json()["name"] == "new.mp4"
    assert client.get(f"/api/videos/{'f' * 64}/file").status_code == 410
    searcher.index.videos.delete("path = '/elsewhere/new.mp4'")


def test_an_index_that_is_made_anew_is_told_of(tmp_path, searcher):
    place = shutil.copytree(searcher.index.place, tmp_path / "copy")
    made = served.serving(searcher._replace(index=store.open_index(place)))
    try:
        client = served.client(made)
        before = client.get("/api/index").status_code
        store.create(place, searcher.index.facts | {"model": "another"}, {"video": ((3,), "f")})
        made.rows._checked -= 2  # a second later
        after = client.get("/api/index")
    finally:
        made.close()

    assert before == 200 and after.status_code == 503
    assert "made anew" in after.json()["error"]


def test_an_index_without_moment_frames_says_so(shapes, run, tmp_path, searcher, rows):
    place = shutil.copytree(searcher.index.place, tmp_path / "copy")
    opened = store.open_index(place)
    opened = opened._replace(facts=opened.facts | {"moment_frames": 0})
    made = served.serving(searcher._replace(index=opened))
    try:
        answer = served.client(made).get(
            f"/api/videos/{rows['twin.mp4']['sha256']}/moments", params={"q": QUERY}
        )
    finally:
        made.close()

    assert answer.status_code == 409 and "--moment-frames" in answer.json()["error"]


def test_the_page_the_description_and_its_page_need_no_network(client):
    page, docs, described = (client.get(path) for path in ("/", "/docs", "/openapi.json"))

    assert (
        page.status_code == docs.status_code == 200 and "text/html" in page.headers["content-type"]
    )
    assert "http" not in docs.text.replace("http-equiv", "")
    assert client.get("/docs/files/swagger-ui-bundle.js").status_code == 200
    for path, methods in described.json()["paths"].items():
        for operation in methods.values():
            assert "HTTPValidationError" not in str(operation), path
            assert {"400", "401", "403", "422", "429", "503"} <= set(operation["responses"])


def test_windows_come_in_every_size_that_is_warmed_up():
    from xclip_jax import few_shapes
    from xclip_jax.web import answers

    for most in (1, 6, 64):
        warmed = {few_shapes.rounded(len(moments.windows(n))) for n in answers._counts(most)}
        needed = {few_shapes.rounded(len(moments.windows(n))) for n in range(1, most + 1)}
        assert warmed == needed
