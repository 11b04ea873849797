"""The page over the service: one HTML file with all that it needs in it."""

from base64 import b64encode
from hashlib import sha256
from typing import Any

from fastapi.responses import HTMLResponse

from extract.pages.rendering import environment
from fusion.web.answering import Answering
from fusion.web.describing import TEMPLATES, about_bundle
from fusion.web.limits import Limits
from fusion.web.samples import Samples


class Page:
    """Gives the page, and lets it run its own script and no other."""

    def __init__(self, answering: Answering, limits: Limits, local: bool) -> None:
        """``local``: it is shown on the machine that serves it."""
        pages = environment(TEMPLATES)
        script = pages.get_template("page.js.j2").render(seconds=limits.seconds, megabytes=limits.megabytes)
        about: dict[str, Any] = about_bundle(answering, limits) | {"local": local}
        self.samples = Samples(answering.profile, answering.predictor.fields)
        self._html = pages.get_template("page.html.j2").render(about=about, samples=self.samples, script=script)
        allowed = b64encode(sha256(script.encode()).digest()).decode()
        self._headers = {
            "content-security-policy": f"default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; "
            "img-src data: blob:; media-src 'self' blob: data:; connect-src 'self'; frame-src 'self'; "
            "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
            "permissions-policy": "camera=(self), microphone=(self), geolocation=()",
        }

    def __call__(self) -> HTMLResponse:
        return HTMLResponse(self._html, headers=self._headers)
