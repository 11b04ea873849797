"""A pass of one encoder, as an extraction does it, for tests of what it leaves."""

from collections.abc import Iterable, Mapping

from cache import StoreWriter
from extract.media.sources import Clip, Sources
from extract.passes.blocks import Failure, Mark, Result
from extract.passes.engine import Plan, hash_clips, plan_pass, run_pass


def plan_alone(clips: list[Clip], stored: Mapping[str, str], block_clips: int, sources: Sources | None = None) -> Plan:
    contents, unreadable = hash_clips(clips, sources or Sources(None), 2)
    return plan_pass(clips, contents, unreadable, [stored], block_clips)


def run_alone(
    plan: Plan, results: Iterable[Result | Mark], writer: StoreWriter, commit_seconds: float = 0
) -> list[Failure]:
    (failures,) = run_pass(plan, results, [writer], commit_seconds)
    return failures
