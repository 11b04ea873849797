"""Note what code each stage of the pipeline runs, so that a stage runs again when that changes, and only then.

A stage's code is its script and every module of the project that it imports, wherever in a function, with the templates
beside them. Comments, docstrings and blank lines do not count: they change no result.
"""

import ast
import hashlib
import json
import re
from pathlib import Path

from configs import UserError
from configs.command_line import command

ROOT = Path(__file__).resolve().parents[1]  # a checkout, or the folder of packages
FOLDERS = ("cache", "configs", "emocache", "extract", "fusion", "heads")
STAGES = {
    "profile": "configs.show",
    "manifest": "extract.manifest",
    "extract": "extract.run",
    "inputs": "heads.inputs",
    "head": "heads.train",
    "audit": "fusion.audit",
    "fuse": "fusion.stack",
    "bundle": "fusion.bundle",
}
WRITTEN = Path("runs/code.json")


def main() -> None:
    """Write runs/code.json: of each stage of dvc.yaml the hash of the code that it runs, comments left aside.

    DVC runs this first. A change in what explains heads trains none of them again, and a comment nothing at all.
    """
    code = Code(ROOT)
    WRITTEN.parent.mkdir(exist_ok=True)
    hashes = {stage: code.hash_of(script) for stage, script in STAGES.items()}
    WRITTEN.write_text(json.dumps({"code": hashes}, indent=1) + "\n")
    print(f"{WRITTEN}: the code of {len(STAGES)} stages")


class Code:
    """The project's modules by their dotted names."""

    def __init__(self, root: Path) -> None:
        paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
        names = [".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__") for path in paths]
        self.paths = dict(zip(names, paths, strict=True))
        self._read: dict[str, tuple[str, list[str]]] = {}

    def imported(self, script: str) -> set[str]:
        """A module and all that it imports, directly or not; what is for type checkers alone is left out."""
        found: set[str] = set()
        waiting = [script]
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            found.add(name)
            waiting += [parent for parent in _parents(name) if parent in self.paths]
            waiting += self._module(name)[1]
        return found

    def hash_of(self, script: str) -> str:
        """SHA-256 over what a script's modules say."""
        said = {name: self._module(name)[0] for name in self.imported(script)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    def _module(self, name: str) -> tuple[str, list[str]]:
        """The hash of what a module and its templates say; the modules that it imports, or names in a string, as those
        are named that are imported late."""
        if name in self._read:
            return self._read[name]
        path = self.paths[name]
        try:
            tree = _Bare().visit(ast.parse(path.read_text(encoding="utf-8")))
        except SyntaxError as error:
            raise UserError(f"{path}: line {error.lineno}: {error.msg}") from None
        named: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                named |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                named |= {alias.name for alias in node.names}
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not name.startswith("emocache"):
                named.add(node.value)  # emocache names scripts that it calls, and that messages propose
        said = hashlib.sha256(ast.dump(tree).encode())
        if any(each == "templates" or each.endswith(".j2") for each in named):
            for template in sorted(path.parent.rglob("*.j2")):
                text = template.read_text(encoding="utf-8")
                said.update(re.sub(r"\{#.*?#\}", "", text, flags=re.S).encode())
        self._read[name] = said.hexdigest(), sorted(named & self.paths.keys())
        return self._read[name]


class _Bare(ast.NodeTransformer):
    """Takes away what changes no result: docstrings, and imports that only type checkers make."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node

    def visit_If(self, node: ast.If) -> ast.AST | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return None
        return self.generic_visit(node)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


if __name__ == "__main__":
    command(main)
