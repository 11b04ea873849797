"""The house: which room may import which, and through which doors. ``docs/design.md`` shows it as a picture."""

import ast
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from shells import REPOSITORY

# A room, and the rooms that it may import: those below it. A folder's scripts may import all of their own folder.
BELOW = {
    "emocache.commands": [],  # the words of the command: messages name them, too
    "configs": ["emocache.commands"],
    "configs.new": ["configs", "extract"],  # a script: from files to a profile, which takes whoever knows files
    "cache.disk": ["configs"],
    "cache.files": ["configs", "cache.disk"],
    "cache.foreign": ["configs", "cache.disk"],
    "cache": ["configs", "cache.disk", "cache.files", "cache.foreign"],
    "cache.remote": ["configs", "cache", "cache.disk", "cache.files"],
    "cache.ingest": ["configs", "cache", "extract"],  # a script, which nobody imports: features enter by the pass
    # A script, which nobody imports: it draws a store, and a store knows nothing of clips, speakers and emotions.
    "cache.map": ["configs", "heads.mapping"],
    "extract.media": ["configs", "cache", "cache.remote"],
    "extract.arrays": ["configs", "extract.media"],
    "extract.augmenting": ["configs", "extract.media"],
    "extract.encoders.checkpoints": ["configs", "extract.media"],
    "extract.encoders": [
        *("configs", "extract.media", "extract.arrays", "extract.augmenting", "extract.encoders.checkpoints"),
    ],
    "extract.corpora": ["configs", "cache", "extract.media"],
    "extract.passes": [
        *("configs", "cache", "cache.remote"),
        *("extract.media", "extract.arrays", "extract.encoders", "extract.corpora"),
    ],
    "extract.pages": ["configs", "cache", "extract.media", "extract.corpora"],
    "extract.checking": ["configs", "cache", "extract.media", "extract.corpora", "extract.pages"],
    "extract.sample": ["configs"],
    "extract.starting": ["configs", "extract.media", "extract.corpora"],
    "heads.metrics": [],
    "heads.pictures": [],
    "heads.data": ["configs", "cache", "extract"],
    "heads.models": ["configs", "extract", "heads.metrics", "heads.data"],
    "heads.pretraining": ["configs", "cache", "extract", "heads.data", "heads.models"],
    "heads.fitting": [
        *("configs", "cache", "cache.remote", "extract"),
        *("heads.metrics", "heads.pictures", "heads.data", "heads.models", "heads.pretraining"),
    ],
    "heads.cluster": ["configs", "cache", "extract", "heads.data", "heads.fitting"],
    "heads.probing": [
        *("configs", "cache", "extract"),
        *("heads.metrics", "heads.pictures", "heads.data", "heads.models", "heads.fitting"),
    ],
    "heads.exporting": ["configs", "heads.data", "heads.models", "heads.fitting"],
    "heads.mapping": ["configs", "cache", "cache.remote", "extract"],
    "heads.explaining": [
        *("configs", "cache", "extract"),
        *("heads.pictures", "heads.data", "heads.models", "heads.fitting"),
    ],
    "fusion.tables": ["configs", "cache"],
    "fusion.strategies": ["configs", "cache", "heads.metrics", "fusion.tables"],
    "fusion.report": [
        *("configs", "cache", "extract", "heads.metrics", "heads.pictures"),
        *("fusion.tables", "fusion.strategies"),
    ],
    "fusion.leaks": ["configs", "cache", "extract", "heads", "fusion.tables", "fusion.strategies"],
    "fusion.serving": ["configs", "cache", "extract", "heads", "fusion.tables", "fusion.strategies"],
    "fusion.explaining": [
        *("configs", "cache", "extract", "heads", "fusion.tables", "fusion.strategies", "fusion.serving"),
    ],
    "fusion.streaming": ["configs", "cache", "extract", "fusion.serving"],
    "fusion.web": ["configs", "cache", "extract", "heads", "fusion.tables", "fusion.strategies", "fusion.serving"],
    "fusion.exporting": [
        *("configs", "cache", "extract", "heads"),
        *("fusion.tables", "fusion.strategies", "fusion.serving"),
    ],
    "extract": ["configs", "cache", "extract"],
    "heads": ["configs", "cache", "extract", "heads"],
    "fusion": ["configs", "cache", "extract", "heads", "fusion"],
    "emocache": ["configs", "cache", "emocache.commands"],  # scripts are called by their names
}
# What other folders may import of a folder; everything else in it is its own business.
DOORS = {
    "emocache": ["emocache.commands"],
    "configs": [
        "configs",
        "configs.advice",
        "configs.command_line",
        "configs.pipeline",
        "configs.profiles",
        "configs.shipped",
        "configs.sections.datasets",
        "configs.outside",
        "configs.schema",
        "configs.tables",
    ],
    "cache": ["cache", "cache.shelf", "cache.remote.copies", "cache.remote.objects"],
    "extract": [
        "extract.corpora.avamerg",
        "extract.corpora.clips",
        "extract.corpora.manifest",
        "extract.corpora.media_paths",
        "extract.corpora.reading",
        "extract.corpora.table",
        "extract.encoders.encoder",  # fusion/exporting traces it
        "extract.encoders.loading",
        "extract.encoders.checkpoints.tokenizer",
        "extract.encoders.checkpoints.weights",
        "extract.encoders.tail",
        "extract.media.damage",
        "extract.media.decoding",
        "extract.media.framing",
        "extract.media.reading",
        "extract.media.sources",
        "extract.media.streaming.cutting",
        "extract.media.streaming.decoded",
        "extract.media.streaming.incoming",
        "extract.media.tasks",
        "extract.media.texts",
        "extract.pages.rendering",
        "extract.pages.thumbnails",
        "extract.passes.blocks",
        "extract.passes.cluster",
        "extract.passes.extraction",
        "extract.passes.live",
        "extract.starting.layouts",
        "extract.starting.profile",
        "extract.passes.means",  # cache/ingest.py runs a pass
    ],
    "heads": [
        "heads.metrics.calibration",
        "heads.metrics.choosing",
        "heads.metrics.confusions",
        "heads.metrics.intervals",
        "heads.metrics.printed",
        "heads.metrics.scores",
        "heads.pictures",
        "heads.data.batches",
        "heads.data.folds",
        "heads.data.live_text",
        "heads.explaining.asked",
        "heads.explaining.inputs",
        "heads.data.standardised",  # new clips are centred as those of training
        "heads.explaining.explanation",  # fusion/web explains new clips
        "heads.explaining.fresh",
        "heads.explaining.media",
        "heads.explaining.page",
        "heads.explaining.words",
        "heads.models.presence",
        "heads.exporting.graph",  # fusions are written as graphs, too
        "heads.exporting.head",
        "heads.exporting.rows",
        "heads.exporting.units",
        "heads.fitting.coverage",
        "heads.fitting.cross_validation",
        "heads.fitting.outputs",
        "heads.fitting.saved",
        "heads.mapping.drawing",
    ],
    "fusion": [],
}
MOST_FILES = 12  # in a folder


def modules() -> dict[str, Path]:
    found = {}
    for folder in DOORS:
        for path in sorted((REPOSITORY / folder).rglob("*.py")):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


MODULES = modules()


def imports_of(name: str) -> set[str]:
    """The modules of this project that a module imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{name}: a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & MODULES.keys() or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {each for each in found if each in MODULES and each != name}


IMPORTS = {name: imports_of(name) for name in MODULES}


def room_of(name: str) -> str:
    return max((room for room in BELOW if name == room or name.startswith(f"{room}.")), key=len)


def lies_in(name: str, rooms: list[str]) -> bool:
    return any(name == room or name.startswith(f"{room}.") for room in rooms)


def test_imports_form_no_circle() -> None:
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, f"a circle: {' -> '.join([*path[path.index(name) :], name])}"
        if name not in done:
            for other in sorted(IMPORTS[name]):
                visit(other, (*path, name))
            done.add(name)

    for name in MODULES:
        visit(name, ())
    assert done == MODULES.keys()


@pytest.mark.parametrize("room", BELOW)
def test_arrows_run_down(room: str) -> None:
    inside = [name for name in MODULES if room_of(name) == room]
    assert inside, f"{room}: no such room"
    for name in inside:
        upwards = sorted(other for other in IMPORTS[name] if room_of(other) != room and not lies_in(other, BELOW[room]))
        assert not upwards, f"{name} imports {', '.join(upwards)}, which {room} may not"


def test_scripts_are_imported_by_nobody() -> None:
    scripts = {name for name, path in MODULES.items() if '__name__ == "__main__"' in path.read_text()}
    # These run as processes of their own, too; the last one is copied to where it runs.
    children = {"extract.media.decoding", "extract.passes.devices", "fusion.exporting.standalone"}
    for name in MODULES:
        assert not (IMPORTS[name] & scripts) - children, name


def test_other_folders_come_by_the_door() -> None:
    used: dict[str, set[str]] = {folder: set() for folder in DOORS}
    for name, imports in IMPORTS.items():
        for other in imports:
            folder = other.split(".")[0]
            if folder != name.split(".")[0]:
                assert other in DOORS[folder], f"{name} imports {other}, which is no door of {folder}"
                used[folder].add(other)
    for folder, doors in DOORS.items():
        assert used[folder] == set(doors), f"{folder}: a door that nobody uses"


def test_folders_are_small_and_say_what_they_are() -> None:
    folders = {path.parent for path in MODULES.values()} | {path.parent for path in REPOSITORY.glob("fusion/**/*.j2")}
    for folder in folders:
        files = [path for path in folder.iterdir() if path.suffix in (".py", ".j2")]  # profiles may be many
        files = [path for path in files if f"{folder.name}.{path.stem}" not in BELOW]  # a script that is its own room
        assert len(files) <= MOST_FILES, folder
    for folder in {path.parent for path in MODULES.values()} - {REPOSITORY / "extract" / "sample"}:
        assert (folder / "__init__.py").is_file(), folder  # a wheel holds packages only
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name not in ("cache", "configs"):
            (only,) = ast.parse(path.read_text()).body
            assert isinstance(only, ast.Expr), f"{name}: opens with more than what it says"


def test_no_module_hides_a_library() -> None:
    """A script's own folder comes first on Python's path: its modules and folders are found before any library."""
    libraries = sys.stdlib_module_names | packages_distributions().keys()
    for script in ("cache", "emocache", "extract", "heads", "fusion"):
        own = {path.stem for path in (REPOSITORY / script).iterdir() if path.suffix == ".py" or path.is_dir()}
        assert not (own - {"__init__", "__pycache__"}) & libraries, script


def test_the_design_names_every_room() -> None:
    design = (REPOSITORY / "docs" / "design.md").read_text()
    for room in BELOW:
        if "." in room and not (REPOSITORY / f"{room.replace('.', '/')}.py").is_file():  # a module is named otherwise
            assert f"`{room.replace('.', '/')}/`" in design, f"docs/design.md: says nothing of {room}"
