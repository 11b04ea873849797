"""The HTTP application: answers, explanations, health, metrics, and its own description; and the page, if asked for."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from fusion.web.answering import Answering
from fusion.web.asked import Asked, Refused, Said, SaidToExplain, read_request
from fusion.web.describing import Answer, Explanation, about_bundle, described, plain_page
from fusion.web.guard import Guard
from fusion.web.jobs import Job, Jobs
from fusion.web.limits import Limits
from fusion.web.page import Page, Samples
from fusion.web.uploads import Uploads

SESSION = "x-session"  # one clip at a time for each; the page sends a name that it draws
LONGEST_SESSION = 64
GONE_SECONDS = 1.0  # between looks whether a client is still there


class Metrics:
    """What /metrics tells."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "emocache_requests", "Requests by path and status.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "emocache_answer_seconds",
            "From an uploaded request to its answer.",
            buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120),
            registry=self.registry,
        )
        self.together = Histogram(
            "emocache_together", "Requests answered in one go.", buckets=(1, 2, 4, 8, 16, 32), registry=self.registry
        )
        self.unanswered = Gauge("emocache_unanswered", "Requests that wait or are worked on.", registry=self.registry)

    def note(self, path: str, status: int) -> None:
        self.requests.labels(path, status).inc()


def make_app(answering: Answering, limits: Limits, password: str | None = None, page: Page | None = None) -> FastAPI:
    """The application over a bundle that is loaded.

    Args:
        password: see :class:`Guard`.
        page: stands at ``/``, with its samples; None: the service alone, described there.
    """
    metrics = Metrics()

    def work(jobs: Any) -> None:
        metrics.together.observe(len(jobs))
        answering.work(jobs)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        with Uploads() as app.state.uploads:
            app.state.jobs = Jobs(work, limits)
            app.state.under_way = 0  # requests that are being read, looked at, or waiting for their answer
            metrics.unanswered.set_function(lambda: app.state.jobs.unanswered)
            try:
                yield
            finally:
                await run_in_threadpool(app.state.jobs.close)

    app = FastAPI(
        title="EmoCache",
        version="1",
        description="The emotion of clips, by a trained stack.",
        docs_url=None,
        redoc_url=None,
        lifespan=life,
    )

    app.add_middleware(Guard, password=password, megabytes=limits.megabytes, note=metrics.note)

    async def refused(_: Request, why: Refused) -> Response:
        headers = {"retry-after": str(why.wait)} if why.wait is not None else None
        return JSONResponse({"error": why.line}, why.status, headers)

    async def http_error(_: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail).lower()}, error.status_code, error.headers)

    app.add_exception_handler(Refused, refused)  # type: ignore[arg-type]
    app.add_exception_handler(HTTPException, http_error)  # type: ignore[arg-type]

    async def asked_for(request: Request, model: type[Said]) -> dict[str, Any]:
        session = request.headers.get(SESSION)
        if session is not None and not 0 < len(session) <= LONGEST_SESSION:
            raise Refused(422, f"{SESSION}: 1 to {LONGEST_SESSION} characters")
        if app.state.under_way >= limits.waiting + limits.together:  # before anything of it is read
            raise Refused(503, f"{app.state.under_way} requests are under way: try again in a moment", wait=5)
        app.state.under_way += 1
        try:
            asked = await _received(request, app.state.uploads, model, limits.timeout)
            began = time.monotonic()
            try:
                await run_in_threadpool(answering.look, asked)
                job = Job(asked, session)
                app.state.jobs.submit(job)
            except BaseException:
                asked.forget()
                raise
            result = await _awaited(request, job, limits.timeout)
            metrics.seconds.observe(time.monotonic() - began)
            return result
        finally:
            app.state.under_way -= 1

    @app.post("/predict", **described(Said, Answer, {"text": "I passed!"}))
    async def predict(request: Request) -> Response:
        """The emotion of a clip, with any of sound, pictures, text and metadata there."""
        return JSONResponse(await asked_for(request, Said))

    @app.post("/explain", **described(SaidToExplain, Explanation, {"text": "I passed!", "head": "text"}))
    async def explain(request: Request) -> Response:
        """What carried one head's answer: seconds, frames, words and fields, each taken away by itself."""
        return JSONResponse(await asked_for(request, SaidToExplain))

    @app.get("/progress")
    async def progress(request: Request) -> Response:
        """How far the clip of a session is: the session is what the header x-session of its request said."""
        job = app.state.jobs.of(request.headers.get(SESSION, ""))
        told = {"stage": None} if job is None else {"stage": job.stage, "done": job.done, "total": job.total}
        return JSONResponse(told)

    @app.get("/about")
    async def about() -> Response:
        """What the bundle can be asked: classes, heads, metadata and their values; and the limits of a request."""
        return JSONResponse(about_bundle(answering, limits))

    @app.get("/health")
    async def health() -> Response:
        """Whether it answers."""
        return JSONResponse({"status": "ok", "unanswered": app.state.jobs.unanswered})

    @app.get("/metrics", response_class=PlainTextResponse)
    async def told() -> Response:
        """Counts and times, for Prometheus."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return plain_page(app)

    @app.get("/", include_in_schema=False)
    async def front() -> Response:
        return plain_page(app) if page is None else page()

    if page is not None:
        _with_samples(app, page.samples)
    return app


def _with_samples(app: FastAPI, samples: Samples) -> None:
    @app.get("/samples/{number}", include_in_schema=False)
    async def sample(number: int) -> Response:
        if not 0 <= number < len(samples):
            raise Refused(404, "no such sample")
        return JSONResponse(samples[number])

    @app.get("/samples/{number}/{kind}", include_in_schema=False)
    async def media(number: int, kind: str) -> Response:
        place = samples.place(number, kind)
        if place is None or not place.is_file():
            raise Refused(404, "the sample's file is not there any more")
        return FileResponse(place)


async def _received(request: Request, uploads: Uploads, model: type[Said], timeout: float) -> Asked:
    try:
        async with asyncio.timeout(timeout):
            return await read_request(request, uploads, model)
    except ClientDisconnect as error:
        raise Refused(400, "the client went away") from error
    except TimeoutError as error:
        raise Refused(408, f"sending it took longer than {timeout:g} s") from error


async def _awaited(request: Request, job: Job, timeout: float) -> dict[str, Any]:
    """A job's result. It is given up where it takes too long, or nobody waits for it any more."""
    future = asyncio.wrap_future(job.future)
    until = time.monotonic() + timeout
    try:
        while not future.done():
            left = until - time.monotonic()
            if left <= 0:
                raise Refused(504, f"no answer within {timeout:g} s", wait=30)
            await asyncio.wait([future], timeout=min(left, GONE_SECONDS))
            if not future.done() and await request.is_disconnected():
                raise Refused(499, "the client went away")
        return future.result()
    finally:
        if not future.done():
            future.cancel()  # what is being worked on goes on, for nobody; what waits leaves the queue
