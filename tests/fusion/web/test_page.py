"""The page in a browser: a clip is dropped on it, and its answer read, on a desk and on a phone."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from bundled_project import Project
from starlette.testclient import TestClient
from web_server import HERE, SECONDS, served

from fusion.web.answering import Answering
from fusion.web.app import make_app
from fusion.web.limits import Limits
from fusion.web.page import Page

pytestmark = pytest.mark.xdist_group("predict")
CHROMIUM = Path("/usr/bin/chromium")
DROP = """([name, bytes]) => {
  const given = new DataTransfer();
  given.items.add(new File([new Uint8Array(bytes)], name, {type: "video/mp4"}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: given, bubbles: true}));
}"""


@pytest.fixture
def app(answering: Answering, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(project.root)  # where the samples' manifest lies
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    limits = Limits(seconds=10)
    return make_app(answering, limits, page=Page(answering, limits, local=True))


@pytest.fixture
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is not there")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_a_clip_is_dropped_and_its_answer_read_on_a_desk_and_on_a_phone(app: Any, browser: Any, project: Project):
    clip = project.root / "long.mp4"
    with served(app) as (url, _):
        for width, dark in ((1280, False), (390, True)):
            context = browser.new_context(
                viewport={"width": width, "height": 800}, color_scheme="dark" if dark else "light"
            )
            page, said = context.new_page(), list[str]()
            page.on("console", lambda message, said=said: said.append(message.text))
            page.on("pageerror", lambda error, said=said: said.append(str(error)))
            page.on("request", lambda request, said=said: said.append(request.url))
            page.goto(url)
            page.evaluate(DROP, ["long.mp4", list(clip.read_bytes())])
            page.fill("#window", "1")
            page.fill("#hop", "0.5")
            page.click("#ask")
            page.locator("#answer").wait_for(timeout=30_000)
            answer = answer_of(page)
            about = {"window": "1", "hop": "0.5"}
            files = {"video": ("long.mp4", clip.read_bytes())}
            expected = httpx.post(f"{url}/predict", files=files, data=about, timeout=SECONDS).json()
            shown = {name: round(100 * p, 1) for name, p in expected["probabilities"].items()}
            assert answer == (expected["prediction"], pytest.approx(shown, abs=0.051))
            assert "text: not given" in page.inner_text("#missing")
            assert page.locator(".time svg rect.area").count() == len(expected["timeline"]) * len(shown)
            page.locator(".time svg").click(position={"x": 200, "y": 5})
            box = page.locator(".time svg").bounding_box()
            assert page.evaluate("document.getElementById('video').currentTime") == pytest.approx(
                expected["seconds"] * 200 / box["width"], abs=0.05
            )
            assert page.evaluate("document.documentElement.scrollWidth") == width, "it is wider than the screen"
            assert page.evaluate("getComputedStyle(document.body).backgroundColor") == (
                "rgb(18, 22, 27)" if dark else "rgb(255, 255, 255)"
            )
            assert [line for line in said if not line.startswith((url, "blob:", "data:"))] == []
            context.close()


def answer_of(page: Any) -> tuple[str, dict[str, float]]:
    rows = page.locator("#probabilities tbody tr").all()
    cells = [(row.locator("th").inner_text(), row.locator("td").last.inner_text()) for row in rows]
    return cells[0][0], {name: float(p.removesuffix(" %")) for name, p in cells}


def test_the_page_runs_its_own_script_alone_and_escapes_what_data_says(app: Any):
    with TestClient(app, HERE) as client:
        page = client.get("/")
        rules = page.headers["content-security-policy"]
        assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]+';", rules)
        assert "default-src 'none'" in rules
        assert page.text.count("<script>") == 1
        assert not re.search(r"""(src|href)="(https?:)?//""", page.text)
        assert len(page.text) < 60_000


def test_samples_are_clips_of_the_test_split_and_no_other_files(app: Any):
    with TestClient(app, HERE) as client:
        sample = client.get("/samples/0").json()
        assert sample["files"]
        for kind, name in sample["files"].items():
            assert name.endswith(".mp4")
            assert client.get(f"/samples/0/{kind}").content[4:8] == b"ftyp"
        for place in ("/samples/99", "/samples/-1", "/samples/0/text", "/samples/99/video", "/samples/0/..%2f..%2fx"):
            assert client.get(place).status_code in (404, 422), place
        assert json.dumps(sample).find("/") < 0
