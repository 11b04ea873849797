"""The bundle that all tests of serving share, loaded as the service loads it."""

from collections.abc import Iterator

import numpy as np
import pytest
from bundled_project import Project
from media_tools import write_mp4

from fusion.serving.bundle import open_bundle
from fusion.web.answering import Answering
from fusion.web.limits import Limits


@pytest.fixture(scope="session")
def answering(project: Project) -> Iterator[Answering]:
    """Beside the bundle lie ``clip.mp4`` and ``long.mp4``, which nobody labelled."""
    rng = np.random.default_rng(0)
    for name, seconds in (("clip", 0.5), ("long", 2.5)):
        images = rng.integers(0, 256, (round(10 * seconds), 2, 3, 3), dtype=np.uint8).repeat(16, 1).repeat(16, 2)
        samples = rng.normal(scale=0.1, size=(round(16000 * seconds), 1)).astype(np.float32)
        write_mp4(project.root / f"{name}.mp4", images, samples)
    bundle = open_bundle(project.bundle)
    with Answering(bundle, bundle.profile, "cpu", Limits(seconds=10)) as loaded:
        loaded.warm()
        yield loaded
