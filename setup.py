"""Puts the contract into the installed service; everything else stands in pyproject.toml."""

from __future__ import annotations

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithContract(build_py):
    """openapi.yaml stays at the root, where readers look for it; `GET /openapi.yaml` serves the copy."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            self.copy_file("openapi.yaml", str(Path(self.build_lib) / "service" / "openapi.yaml"))


setup(cmdclass={"build_py": BuildWithContract})
