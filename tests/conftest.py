"""What all rooms' tests share."""

import signal

import pytest
from hypothesis import settings

settings.register_profile("emocache", deadline=None)  # a busy machine is no failure
settings.load_profile("emocache")
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, by the scripts that tests start as well


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
