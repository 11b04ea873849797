"""The whole pipeline on the sample that comes along."""

import json
import sys
from pathlib import Path
from typing import Any

from cache import read_published
from configs import UserError
from configs.advice import completed
from configs.command_line import command
from configs.pipeline import PIPELINE, select
from configs.profiles import load
from configs.schema import Profile
from emocache.pipeline import run

SAMPLE = "sample"
LOG = Path("runs/demo.log")
EXPECTED = {  # of the sample's audit
    "probe.metadata": "as is expected: half of the sample's conversations have a topic drawn to go with the emotion"
}


def main() -> None:
    """Run the whole pipeline on the sample that comes along: small, drawn and synthesised, with real encoders.

    It takes about three minutes, and its results stand in runs/sample; what is up to date is not computed again. All
    that the steps say goes to runs/demo.log.
    """
    if PIPELINE.is_file() and f"configs/{SAMPLE}.yaml" not in PIPELINE.read_text(encoding="utf-8"):
        raise UserError(completed(f"{PIPELINE}: names another profile: run it with 'dvc repro'"))
    print(select(SAMPLE) if not PIPELINE.is_file() else f"{PIPELINE}: uses configs/{SAMPLE}.yaml")
    print("About three minutes on two idle cores, and 300 MB in runs/ and .dvc/; what is up to date is skipped")
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("w", encoding="utf-8") as log:
        said: list[str] = []

        def says(line: str) -> None:
            said.append(line)
            print(line, file=log, flush=True)

        try:
            run(
                [],
                force=False,
                begins=lambda stage: print(f"  {stage:<32}", end="", flush=True),
                says=says,
                ends=lambda stage, seconds: print(f"{seconds:4.0f} s", flush=True),
            )
        except UserError:
            print("\n" + "\n".join(said[-20:]), file=sys.stderr)
            raise
    print("\n".join(brief(load(SAMPLE))))


def brief(profile: Profile) -> list[str]:
    """What matters of a run, in some ten lines."""
    remedy = "run it again with python fusion/stack.py"
    fused = json.loads(read_published(profile.fusion_path / "metrics.json", remedy))["headline"]
    width = max(map(len, profile.heads), default=0)
    lines = [
        "",
        f"fused ({fused['strategy']}): macro-F1 {_score(fused, 'macro_f1')}, accuracy {fused['accuracy']:.3f}, "
        f"on {fused['n_units']} {fused['split']} units of {fused['n_groups']} people whom training has not met",
    ]
    for name in profile.heads:
        metrics = json.loads(read_published(profile.head_path(name) / "metrics.json", remedy))
        lines.append(f"  head {name:<{width}}  macro-F1 {_score(metrics[fused['split']], 'macro_f1')}")
    return [
        *lines,
        *_audited(profile, remedy="run it again with python fusion/audit.py --no-permutation"),
        "The sample is drawn and synthesised: it shows that all works, and says nothing about real people.",
        f"report: {profile.fusion_path / 'report.html'}; the data to see and hear: {profile.run_dir / 'overview.html'}",
        completed("next: your own clips, with python configs/new.py FOLDER"),
    ]


def _audited(profile: Profile, remedy: str) -> list[str]:
    """A line for each warning and failure of the audit."""
    checks = json.loads(read_published(profile.run_dir / "audit" / "audit.json", remedy))["checks"]
    found = [check for check in checks if check["verdict"] in ("warn", "fail")]
    why = f"see {profile.run_dir / 'audit' / 'audit.txt'}"
    return [f"audit: {each['verdict'].upper()} {each['name']}: {EXPECTED.get(each['name'], why)}" for each in found]


def _score(metrics: dict[str, Any], name: str) -> str:
    value = metrics[name]
    if isinstance(value, dict):
        value, low, high = value["value"], value.get("low"), value.get("high")
    else:
        low, high = metrics.get(f"{name}_low"), metrics.get(f"{name}_high")
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    command(main)
