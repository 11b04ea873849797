"""What all rooms' tests share."""

import signal

import pytest

signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup has it ignored, by the scripts that tests start as well


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
