"""Blocks spread over several encoders: a process for each device of this machine, or actors of a Ray cluster.

Results come back in the order of the blocks to the one process that writes the store, so the store is the same,
byte for byte, whoever computed it. A worker that is lost is started again, and its blocks begin anew; where its machine
is gone and there is no place for it, another one takes them over.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from configs import EngineError, UserError
from extract.media.child import LostError
from extract.passes.blocks import Block, Mark, Result

AHEAD = 4  # blocks in a worker's hands: one to finish, one to encode, one to decode, one to come without a wait
MAX_LOSSES = 3  # of one block: it is then the block that kills its workers


class NoPlaceError(EngineError):
    """There is no place for a worker any more."""


class Worker(Protocol):
    """Computes blocks in the order in which it gets them."""

    name: str

    def submit(self, block: Block) -> Iterator[Result | Mark]:
        """Start on a block. What is returned gives its results, up to ``Mark.END``; it may raise LostError."""

    def restart(self) -> None:
        """Whether it was lost or not: begin anew, without any block. Raises NoPlaceError."""

    def close(self) -> None: ...


def spread(blocks: Iterable[Block], workers: Sequence[Worker]) -> Iterator[Result | Mark]:
    """The results of each block in order, as :meth:`BlockComputer.compute` gives them, computed by all workers.

    Raises:
        UserError: a block was lost ``MAX_LOSSES`` times.
        NoPlaceError: no worker is left.
    """
    staff = list(workers)
    waiting = iter(blocks)
    in_hand: deque[tuple[Block, Worker, Iterator[Result | Mark]]] = deque()
    load = {id(worker): 0 for worker in workers}

    def hand_out() -> None:
        while len(in_hand) < AHEAD * len(staff) and (block := next(waiting, None)) is not None:
            worker = min(staff, key=lambda w: load[id(w)])
            in_hand.append((block, worker, worker.submit(block)))
            load[id(worker)] += 1

    def begin_anew(lost: Worker) -> None:
        """Let it, or else another one, compute what it had in hand. That one begins anew, too: it may hold later
        blocks, and they must come out of it in their order."""
        gone: list[Worker] = []
        heir = lost
        while True:
            try:
                heir.restart()
                break
            except NoPlaceError:
                gone.append(heir)
                staff.remove(heir)
                if not staff:
                    raise
                heir = min(staff, key=lambda w: load[id(w)])
        for i, (block, owner, _) in enumerate(in_hand):
            if owner is heir or owner in gone:
                in_hand[i] = block, heir, heir.submit(block)
        load[id(heir)] = sum(owner is heir for _, owner, _ in in_hand)

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
            begin_anew(worker)
            yield Mark.RESTART
            continue
        losses = 0
        in_hand.popleft()
        load[id(worker)] -= 1
        hand_out()
