"""The service: answers as fusion/predict.py gives them, within limits, and nothing left behind."""

import base64
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bundled_project import Project
from small_project import run
from starlette.testclient import TestClient
from web_server import HERE, SECONDS, served

from configs import UserError
from fusion.serving.spans import spans
from fusion.web.answering import Answering
from fusion.web.app import make_app
from fusion.web.asked import Asked, Refused, Said
from fusion.web.jobs import Job, Jobs
from fusion.web.limits import Limits
from fusion.web.running import Place
from fusion.web.running import run as run_server
from fusion.web.uploads import PREFIX, Uploads

pytestmark = pytest.mark.xdist_group("predict")  # what is made for all of them is made once


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where uploads lie."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def client(answering: Answering, temporary: Path) -> Iterator[TestClient]:
    with TestClient(make_app(answering, Limits(seconds=10, megabytes=2)), HERE) as client:
        yield client
        left = list(temporary.glob(f"{PREFIX}*/[!.]*"))
        assert not left, "uploads stayed behind"


class Stub:
    """In the place of a bundle: answers once it may."""

    def __init__(self) -> None:
        self.may, self.began = threading.Event(), threading.Event()
        self.batches: list[int] = []

    def look(self, asked: Asked) -> None:
        pass

    def work(self, jobs: list[Job]) -> None:
        self.batches.append(len(jobs))
        self.began.set()
        assert self.may.wait(SECONDS)
        for job in jobs:
            job.future.set_result({"unit": job.asked.said.text})


def job(folder: Path, text: str = "a", session: str | None = None) -> Job:
    folder.mkdir(exist_ok=True)
    return Job(Asked(folder, Said(text=text)), session)


def test_an_answer_is_that_of_predict(client: TestClient, project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(project.root)
    text = "i am so happy today !"
    done = run(
        "fusion/predict",
        "clip.mp4",
        "--text",
        text,
        "--metadata",
        "topic=exams",
        "--bundle",
        str(project.bundle),
        "--json",
    )
    assert done.code == 0, done.err
    files = {"video": ("clip.mp4", (project.root / "clip.mp4").read_bytes())}
    said = {"text": text, "metadata": '{"topic": "exams"}'}
    answer = client.post("/predict", files=files, data=said).json()
    assert answer == json.loads(done.out)
    assert answer["missing"] == []
    alone = client.post("/predict", json={"text": text}).json()
    assert alone["heads"]["words"] | {"contribution": 0} == answer["heads"]["words"] | {"contribution": 0}
    assert {each["what"] for each in alone["missing"]} == {"audio", "video", "topic"}


def test_a_sound_of_its_own_is_heard_and_a_broken_one_beside_pictures_is_refused(client: TestClient, project: Project):
    clip = (project.root / "clip.mp4").read_bytes()
    seen = client.post("/predict", files={"video": ("no suffix", clip)}).json()
    assert {each["what"] for each in seen["missing"]} == {"text", "topic"}
    heard = client.post("/predict", files={"audio": ("a b.m4a", clip)}).json()
    assert heard["unit"] == "a b.m4a"
    assert heard["heads"]["crossed"]["prediction"] is None
    refused = client.post("/predict", files={"video": ("clip.mp4", clip), "audio": ("x.wav", clip[:500])})
    assert refused.status_code == 422
    assert refused.json()["error"].startswith("x.wav: not a clip that can be read: ")


def test_what_waits_together_gets_the_answers_of_each_alone(answering: Answering, project: Project, tmp_path: Path):
    def jobs(*texts: str) -> list[Job]:
        made = []
        for number, text in enumerate(texts):
            made.append(job(tmp_path / f"{number}", text))
            shutil.copy(project.root / ("clip.mp4", "long.mp4")[number % 2], tmp_path / f"{number}" / "video.mp4")
            made[-1].asked.files["video"] = tmp_path / f"{number}" / "video.mp4"
            made[-1].asked.names["video"] = f"{number}.mp4"
        return made

    together, alone = jobs("so sad", "happy", "angry"), jobs("so sad", "happy", "angry")
    answering.work(together)
    for one in alone:
        answering.work([one])
    for one, other in zip(together, alone, strict=True):
        for name, p in one.future.result()["probabilities"].items():
            assert other.future.result()["probabilities"][name] == pytest.approx(p, abs=1e-5)


def test_windows_are_answered_as_clips_of_their_own(
    client: TestClient, answering: Answering, project: Project, tmp_path: Path
):
    clip = project.root / "long.mp4"
    files = {"video": ("long.mp4", clip.read_bytes())}
    answer = client.post("/predict", files=files, data={"window": "1", "hop": "0.75", "text": "happy"}).json()
    parts = spans(answer["seconds"], 1, 0.75)
    assert [(each["start"], each["stop"]) for each in answer["timeline"]] == parts
    _, second, *_ = answering._cutter.windows(clip, clip, parts, tmp_path)
    assert second.audio is not None
    assert second.video is not None
    sent = {"video": ("w.mkv", second.video.read_bytes()), "audio": ("w.wav", second.audio.read_bytes())}
    alone = client.post("/predict", files=sent).json()
    for name, p in answer["timeline"][1]["probabilities"].items():
        assert alone["probabilities"][name] == pytest.approx(p, abs=1e-5)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(1.5, [(0, 1.5)]), (4, [(0, 2), (1, 3), (2, 4)]), (4.5, [(0, 2), (1, 3), (2, 4), (2.5, 4.5)])],
)
def test_windows_are_of_equal_length_and_leave_nothing_out(seconds: float, expected: list[tuple[float, float]]):
    assert spans(seconds, 2, 1) == expected


def test_windows_leave_no_gaps_and_are_not_too_many():
    for length, hop in ((1, 2), (1, 0.1)):
        with pytest.raises(UserError, match="a hop is"):
            spans(10, length, hop)
    with pytest.raises(UserError, match="take a longer one"):
        spans(600, 1, 0.5)


def test_what_carried_a_head_is_explained(client: TestClient, project: Project):
    files = {"video": ("<b>.mp4", (project.root / "long.mp4").read_bytes())}
    said = {"text": "i am not happy", "metadata": '{"topic": "work"}'}
    sound = client.post("/explain", files=files, data=said | {"head": "sound"}).json()
    assert dict(sound["carried"])["seconds"]
    assert "<b>.mp4" not in sound["html"]
    assert "/tmp" not in sound["html"]
    words = client.post("/explain", json={"text": "i am not happy", "head": "words"}).json()
    assert dict(words["carried"]).keys() == {"inputs", "words"}
    heads = client.post("/predict", json={"text": "i am not happy"}).json()["heads"]
    best = max((name for name in heads if heads[name]["prediction"]), key=lambda name: heads[name]["contribution"])
    assert client.post("/explain", json={"text": "i am not happy"}).json()["head"] == best
    nothing = client.post("/explain", json={"text": "so", "head": "sound"})
    assert (nothing.status_code, nothing.json()) == (
        422,
        {"error": "head sound finds nothing to read in this clip by itself"},
    )
    assert client.post("/explain", json={"text": "so", "head": "x"}).json()["error"].startswith("head: the bundle has")


JSON = {"content-type": "application/json"}
REFUSED: list[tuple[dict[str, Any], int, str]] = [
    ({"content": b"x"}, 415, "send multipart/form-data or application/json"),
    ({"content": b"{", "headers": JSON}, 422, "the body is not JSON"),
    ({"content": b"[" * 100_000, "headers": JSON}, 422, "the body is not JSON"),
    ({"json": [1]}, 422, "the body must be a JSON object"),
    ({"json": {}}, 422, "nothing to predict"),
    ({"json": {"text": 3}}, 422, "text: input should be a valid string"),
    ({"json": {"text": "a" * 20_001}}, 422, "text: string should have at most"),
    ({"json": {"text": "  "}}, 422, "text: there is nothing in it"),
    ({"content": b'{"text": "\\ud800"}', "headers": JSON}, 422, "text: input should be a valid string, unable"),
    ({"json": {"txt": "a"}}, 422, "txt: extra inputs are not permitted; known are text"),
    ({"json": {"text": "a", "metadata": {"x": "y"}}}, 422, "metadata x: nothing reads it; what is read: topic"),
    ({"json": {"text": "a", "metadata": {"topic": ""}}}, 422, "metadata topic: there is nothing in it"),
    ({"json": {"text": "a", "hop": 1}}, 422, "hop: only with a window"),
    ({"content": b'{"text": "a", "window": 1e999}', "headers": JSON}, 422, "window: "),
    ({"data": {"text": "a", "window": "x"}, "files": {"video": b"x"}}, 422, "window: a number of seconds, not 'x'"),
    ({"data": {"metadata": "topic=x"}, "files": {"video": b"x"}}, 422, 'metadata: write a JSON object, as {"topic"'),
    ({"data": {"video": "x"}, "files": {"audio": b"x"}}, 422, "video: this must be a file"),
    ({"files": {"film": b"x"}}, 422, "film: not a field for a file"),
    ({"files": {"video": ("notes.txt", b"no clip")}}, 422, "notes.txt: not a clip that can be read"),
    ({"files": {"video": ("../../../x.mp4", b"")}}, 422, "x.mp4: not a clip that can be read"),
    ({"content": b"x" * 4_000_000, "headers": JSON}, 413, "larger than 2 MB, which is the most"),
    ({"content": (b"x" * 1000 for _ in range(4000)), "headers": JSON}, 413, "larger than 2 MB, which is the most"),
    ({"json": {"text": "a"}, "headers": {"host": "evil.example"}}, 421, "not the name of this machine"),
    ({"json": {"text": "a"}, "headers": {"host": "127.0.0.1@evil.example"}}, 421, "not the name of this machine"),
    ({"json": {"text": "a"}, "headers": {"origin": "http://evil.example"}}, 403, "sent by a page of another site"),
    ({"json": {"text": "a"}, "headers": {"sec-fetch-site": "cross-site"}}, 403, "sent by a page of another site"),
    ({"json": {"text": "a"}, "headers": {"x-session": "s" * 65}}, 422, "x-session: 1 to 64 characters"),
]


@pytest.mark.parametrize(("sent", "status", "line"), REFUSED, ids=[each[2][:40] for each in REFUSED])
def test_what_is_wrong_is_said_in_a_line(client: TestClient, sent: dict[str, Any], status: int, line: str):
    response = client.post("/predict", **sent)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error.startswith(line)
    assert "\n" not in error
    assert not {"/tmp", "/var", "/root", "/home"} & set(error.split())
    assert PREFIX not in error


def test_a_clip_that_is_too_long_is_refused_by_what_is_in_it(project: Project, answering: Answering, tmp_path: Path):
    asked = Asked(tmp_path, Said(), {"video": project.root / "long.mp4"}, {"video": "my.mp4"})
    answering.look(asked)
    assert asked.seconds == pytest.approx(2.5, abs=0.1)


def test_metadata_alone_is_answered(client: TestClient):
    answer = client.post("/predict", json={"metadata": {"topic": "exams"}}).json()
    assert answer["unit"] == "metadata"
    assert [name for name, head in answer["heads"].items() if head["prediction"]] == ["joint"]


def test_what_it_says_of_itself_comes_from_nowhere_else(client: TestClient):
    api = client.get("/openapi.json").json()
    assert set(api["paths"]) == {"/predict", "/explain", "/progress", "/about", "/health", "/metrics"}
    docs = client.get("/")
    assert docs.text == client.get("/docs").text
    assert "POST /predict" in docs.text
    assert "src=" not in docs.text
    assert "default-src 'none'" in docs.headers["content-security-policy"]
    about = client.get("/about").json()
    assert {"happy", "sad"} < set(about["classes"])
    assert set(about["metadata"]["topic"]) == {"exams", "work"}
    assert client.get("/health").json() == {"status": "ok", "unanswered": 0}
    client.get("/nowhere")
    told = client.get("/metrics").text
    assert 'emocache_requests_total{path="/health",status="200"} 1.0' in told
    assert 'emocache_requests_total{path="other",status="404"} 1.0' in told


def test_others_need_the_password(temporary: Path):
    stub = Stub()
    stub.may.set()
    with TestClient(make_app(stub, Limits(), "correct horse"), "http://some.host") as client:  # type: ignore[arg-type]
        import fusion.web.guard as guard

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(guard, "WRONG_SECONDS", 0)
            for given in ({}, {"authorization": "Basic !"}, basic("correct hors"), {"authorization": "Bearer x"}):
                response = client.post("/predict", json={"text": "a"}, headers=given)
                assert response.status_code == 401
                assert response.headers["www-authenticate"].startswith("Basic")
        assert client.post("/predict", json={"text": "a"}, headers=basic("correct horse")).json() == {"unit": "a"}


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"any:{password}".encode()).decode()}


def test_no_answer_in_time_is_said_and_what_waits_leaves_the_queue(temporary: Path):
    stub = Stub()
    with TestClient(make_app(stub, Limits(timeout=0.2)), HERE) as client:  # type: ignore[arg-type]
        response = client.post("/predict", json={"text": "a"})
        assert (response.status_code, response.headers["retry-after"]) == (504, "30")
        assert client.post("/predict", json={"text": "b"}).status_code == 504
        stub.may.set()
        assert client.post("/predict", json={"text": "c"}).json() == {"unit": "c"}
    assert stub.batches == [1, 1], "b was given up before its turn"


def test_no_more_is_read_than_may_wait_and_none_for_ever(temporary: Path):
    stub = Stub()
    with served(make_app(stub, Limits(waiting=1, together=1, timeout=SECONDS))) as (url, _):  # type: ignore[arg-type]
        senders = [
            threading.Thread(target=httpx.post, args=(f"{url}/predict",), kwargs={"json": {"text": "a"}}) for _ in "ab"
        ]
        for sender in senders:
            sender.start()
        until = time.monotonic() + SECONDS
        while httpx.get(f"{url}/health").json()["unanswered"] < 2 and time.monotonic() < until:
            time.sleep(0.01)
        full = httpx.post(f"{url}/predict", json={"text": "c"})
        assert (full.status_code, full.headers["retry-after"]) == (503, "5")
        assert full.json() == {"error": "2 requests are under way: try again in a moment"}
        stub.may.set()
        for sender in senders:
            sender.join(SECONDS)
    with served(make_app(stub, Limits(timeout=0.2))) as (url, _):  # type: ignore[arg-type]
        address = url.removeprefix("http://").split(":")
        with socket.create_connection((address[0], int(address[1])), timeout=SECONDS) as slow:
            slow.sendall(
                f"POST /predict HTTP/1.1\r\nhost: {':'.join(address)}\r\ncontent-type: application/json\r\n"
                "content-length: 9\r\n\r\n{".encode()
            )
            assert slow.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_queue_is_bounded_and_a_session_has_one_job(tmp_path: Path):
    stub = Stub()
    jobs = Jobs(stub.work, Limits(waiting=2, together=2))
    first = job(tmp_path / "0", "0", session="s")
    jobs.submit(first)
    assert stub.began.wait(SECONDS)
    with pytest.raises(Refused, match="one clip at a time") as again:
        jobs.submit(job(tmp_path / "1", session="s"))
    assert again.value.status == 429
    rest = [job(tmp_path / f"{number}", str(number)) for number in range(2, 5)]
    for each in rest:
        jobs.submit(each)
    with pytest.raises(Refused, match="4 requests are waiting") as full:
        jobs.submit(job(tmp_path / "5"))
    assert (full.value.status, full.value.wait) == (503, 5)
    assert rest[0].future.cancel()
    assert not (tmp_path / "2").exists()
    stub.may.set()
    jobs.close()
    assert [each.future.result()["unit"] for each in (first, *rest[1:])] == ["0", "3", "4"]
    assert not (tmp_path / "3").exists()
    assert stub.batches[0] == 1
    with pytest.raises(Refused, match="stopping"):
        jobs.submit(job(tmp_path / "6"))


def test_uploads_of_a_killed_process_go_with_the_next_start(temporary: Path):
    dead = temporary / f"{PREFIX}dead"
    (dead / "request").mkdir(parents=True)
    (dead / "request" / "video.mp4").write_bytes(b"private")
    with Uploads() as own:
        assert not dead.exists()
        folder = own.folder()
        with Uploads():
            assert folder.is_dir(), "the folder of a process that runs was taken"
    assert not list(temporary.glob(f"{PREFIX}*"))


def test_a_server_that_stops_finishes_what_it_began_and_takes_no_more(temporary: Path):
    stub = Stub()
    found: list[httpx.Response] = []
    with served(make_app(stub, Limits())) as (url, server):  # type: ignore[arg-type]
        sender = threading.Thread(target=lambda: found.append(httpx.post(f"{url}/predict", json={"text": "a"})))
        sender.start()
        assert stub.began.wait(SECONDS)
        server.should_exit = True
        refused = False
        until = time.monotonic() + SECONDS
        while not refused and time.monotonic() < until:
            try:
                httpx.get(f"{url}/health")
            except httpx.ConnectError:
                refused = True
        assert refused
        stub.may.set()
        sender.join(SECONDS)
    assert found[0].json() == {"unit": "a"}
    assert not list(temporary.glob(f"{PREFIX}*"))


def test_a_client_that_goes_away_leaves_the_queue(temporary: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fusion.web.app.GONE_SECONDS", 0.05)
    stub = Stub()
    with served(make_app(stub, Limits())) as (url, _):  # type: ignore[arg-type]
        for text in ("a", "b"):
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(f"{url}/predict", json={"text": text}, timeout=0.3)
        until = time.monotonic() + SECONDS
        while httpx.get(f"{url}/health").json()["unanswered"] > 1 and time.monotonic() < until:
            time.sleep(0.02)
        assert httpx.get(f"{url}/health").json()["unanswered"] == 1, "b still waits"
        stub.may.set()


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (Place("0.0.0.0", 0, None, None, None), "--host 0.0.0.0: others reach it: give --password"),
        (Place("127.0.0.1", 0, "short", None, None), "--password: shorter than 8 characters"),
        (Place("127.0.0.1", 0, None, Path("no.pem"), None), "--certificate no.pem: no such file"),
        (Place("127.0.0.1", 0, None, None, Path("no.pem")), "--key: only with --certificate"),
        (Place("no.such.host.invalid", 0, "long enough", None, None), "no.such.host.invalid:0: "),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_is_loaded(project: Project, place: Place, line: str):
    with pytest.raises(UserError) as refused:
        run_server(project.bundle, None, "cpu", None, None, place, Limits(), with_page=False)
    assert str(refused.value).startswith(line)
