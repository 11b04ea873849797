"""The service asked by its own description: what that allows, and what it does not, is answered as it says."""

from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from web_server import HERE

from fusion.web.answering import Answering
from fusion.web.app import make_app
from fusion.web.limits import Limits
from fusion.web.uploads import PREFIX

pytestmark = pytest.mark.xdist_group("predict")


def fuzz(answering: Answering, examples: int) -> set[tuple[str, int]]:
    """The paths that were asked, and the statuses that came."""
    schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")
    from hypothesis import HealthCheck, given, settings
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as openapi

    app = make_app(answering, Limits(seconds=10))
    checks = [
        not_a_server_error,
        openapi.status_code_conformance,
        openapi.content_type_conformance,
        openapi.response_schema_conformance,
    ]
    met = set[tuple[str, int]]()
    with TestClient(app, HERE):
        schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers={"host": "127.0.0.1"})
        for operation in (found.ok() for found in schema.get_all_operations()):
            modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
            for mode in modes if operation.method == "post" else modes[:1]:

                @given(case=operation.as_strategy(generation_mode=mode))
                @settings(
                    max_examples=examples,
                    deadline=None,
                    derandomize=True,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                )
                def ask(case: Any) -> None:
                    response = case.call(headers={"host": "127.0.0.1"})
                    case.validate_response(response, checks=checks)
                    met.add((case.path, response.status_code))

                ask()
    return met


def test_what_the_description_allows_is_answered_as_it_says(
    answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    met = fuzz(answering, 3)
    assert {("/predict", 422), ("/health", 200), ("/metrics", 200), ("/about", 200)} <= met
    assert all(status < 500 for _, status in met)
    assert not list(tmp_path.glob(f"{PREFIX}*/[!.]*")), "uploads stayed behind"


@pytest.mark.soak
def test_a_thousand_requests_of_all_kinds(answering: Answering, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    met = fuzz(answering, 400)
    assert {("/predict", 200), ("/predict", 422), ("/explain", 422)} <= met
    assert not list(tmp_path.glob(f"{PREFIX}*/[!.]*")), "uploads stayed behind"
