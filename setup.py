"""For pyproject.toml: a wheel holds packages alone, and dvc.yaml stands above them."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithPipeline(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file("dvc.yaml", str(Path(self.build_lib) / "emocache" / "dvc.yaml"))


setup(cmdclass={"build_py": WithPipeline})
