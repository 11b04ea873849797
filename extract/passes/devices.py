"""Encoders in a process of their own for each device of this machine: several GPUs, without Ray.

A child is ``python -m extract.passes.devices FD``. It gets its settings, then blocks, and sends back their results.
"""

import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch

from configs.schema import Encoder
from extract.encoders.loading import load_several
from extract.media.child import Child, LostError, parent, receive, send
from extract.passes.blocks import Arriving, Block, BlockComputer, Mark, Result
from extract.passes.engine import in_background

AHEAD = 64  # results that wait to be sent


class DeviceWorker:
    """The parent's side: ``settings`` are the encoders', ``workers`` the number of its own decoders."""

    def __init__(self, settings: Sequence[Encoder], device: str, workers: int) -> None:
        self.name = f"the encoder on {device}"
        self._message = (settings, device, workers, torch.get_num_threads())
        self._start()

    def submit(self, block: Block) -> Iterator[Result | Mark]:
        self._send(block)
        return self._results(self._child)

    def restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self._child.end()

    def _start(self) -> None:
        self._child = Child("extract.passes.devices", self.name)
        self._send(self._message)

    def _send(self, message: Any) -> None:
        with suppress(LostError):  # it is raised where results are waited for
            self._child.send(message)

    def _results(self, child: Child) -> Iterator[Result | Mark]:
        while True:
            item = child.receive(timeout=None)  # a decoder that hangs has a limit of its own
            if isinstance(item, Exception):
                raise item
            yield item
            if item is Mark.END:
                return


def serve() -> None:
    """A child's life."""
    with parent() as connection:
        settings, device, workers, n_threads = receive(connection)
        torch.set_num_threads(n_threads)  # sums over other numbers of threads differ in their last bits
        blocks = Arriving()

        def take() -> None:
            with suppress(EOFError, ConnectionError):
                while True:
                    blocks.put(receive(connection))

        threading.Thread(target=take, daemon=True).start()
        try:
            encoders = load_several(settings, torch.device(device))
            with BlockComputer(encoders, workers) as computer:
                for item in in_background(computer.compute(blocks), AHEAD):
                    send(connection, item)
        except Exception as error:  # it ends the pass, in the parent
            error.add_note(f"in the process of {device}:\n{traceback.format_exc()}")
            send(connection, error)


if __name__ == "__main__":
    serve()
