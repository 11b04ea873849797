"""Which unit is to be explained, and where that goes: without torch, so that help and mistakes need not wait."""

import difflib
import hashlib
import re
from pathlib import Path

from configs import UserError
from configs.schema import Profile
from extract.corpora.manifest import Manifest, Unit


def unit_called(manifest: Manifest, wanted: str) -> Unit:
    """The unit of that id. Raises UserError, which names the closest ones."""
    units = {unit.unit_id: unit for unit in manifest.units()}
    if wanted in units:
        return units[wanted]
    seen_by = [unit.unit_id for unit in units.values() if wanted in unit.clip_ids]
    if seen_by:
        raise UserError(f"{wanted}: a clip that carries no label; it is part of the unit {', '.join(seen_by[:3])}")
    close = difflib.get_close_matches(wanted, units, n=3, cutoff=0.0)
    raise UserError(f"{wanted}: no such unit; the closest of {len(units)} are {', '.join(close)}")


def folder_of(profile: Profile, unit: str) -> Path:
    """Where a unit's explanations go; ids that name no folder by themselves get a hash behind them."""
    safe = re.sub(r"[^A-Za-z0-9_-]+", "_", unit)[:80]
    name = safe if safe == unit else f"{safe}-{hashlib.sha256(unit.encode()).hexdigest()[:8]}"
    return profile.run_dir / "explain" / name
