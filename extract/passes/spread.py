"""Blocks spread over several encoders: a process for each device of this machine, or actors of a Ray cluster.

Results come back in the order of the blocks to the one process that writes the store, so the store is the same,
byte for byte, whoever computed it. A worker that is lost is started again, and its blocks begin anew.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from configs import UserError
from extract.media.child import LostError
from extract.passes.blocks import Block, Mark, Result

AHEAD = 4  # blocks in a worker's hands: one to finish, one to encode, one to decode, one to come without a wait
MAX_LOSSES = 3  # of one block: it is then the block that kills its workers


class Worker(Protocol):
    """Computes blocks in the order in which it gets them."""

    name: str

    def submit(self, block: Block) -> Iterator[Result | Mark]:
        """Start on a block. What is returned gives its results, up to ``Mark.END``; it may raise LostError."""

    def restart(self) -> None:
        """After it was lost: begin anew, without any block."""

    def close(self) -> None: ...


def spread(blocks: Iterable[Block], workers: Sequence[Worker]) -> Iterator[Result | Mark]:
    """The results of each block in order, as :meth:`BlockComputer.compute` gives them, computed by all workers.

    Raises:
        UserError: a block was lost ``MAX_LOSSES`` times.
    """
    waiting = iter(blocks)
    in_hand: deque[tuple[Block, Worker, Iterator[Result | Mark]]] = deque()
    load = {id(worker): 0 for worker in workers}

    def hand_out() -> None:
        while len(in_hand) < AHEAD * len(workers) and (block := next(waiting, None)) is not None:
            worker = min(workers, key=lambda w: load[id(w)])
            in_hand.append((block, worker, worker.submit(block)))
            load[id(worker)] += 1

    hand_out()
    losses = 0  # of the first block in hand
    while in_hand:
        _, worker, results = in_hand[0]
        try:
            yield from results
        except LostError as error:
            losses += 1
            if losses == MAX_LOSSES:
                raise UserError(
                    f"{worker.name}: lost {losses} times on the same clips ({error})", exit_code=1
                ) from None
            worker.restart()
            for i, (block, owner, _) in enumerate(in_hand):
                if owner is worker:
                    in_hand[i] = block, worker, worker.submit(block)
            yield Mark.RESTART
            continue
        losses = 0
        in_hand.popleft()
        load[id(worker)] -= 1
        hand_out()
