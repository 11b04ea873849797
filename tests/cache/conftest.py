from collections.abc import Iterator

import pytest
from s3_server import s3, server  # noqa: F401


@pytest.fixture(scope="session", autouse=True)
def _without_waiting_for_the_disk() -> Iterator[None]:
    """Syncing guards against power cuts, which no test brings about; hundreds of tiny commits would wait for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cache.disk.writing.os.fsync", lambda descriptor: None)
        yield
