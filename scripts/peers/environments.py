"""Environments of the peers: one for each group of packages that get on with each other.

    requirements file -> uv venv, uv pip install -> folder with .ready in it -> its python, its versions

A folder is named by its requirements, so that a change of them makes a new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

SCRIPTS = Path(__file__).resolve().parents[1]
CONSTRAINTS = SCRIPTS.parent / "constraints.txt"
OWN = "own"
_UNCONSTRAINED = frozenset({"llmcompressor"})


class BrokenEnvironment(RuntimeError):
    """An environment could not be made; the message is the end of what the installer said."""


@dataclass(frozen=True)
class Environment:
    """A Python with packages.

    Args:
        name: As methods name it; ``own`` is the one this runs in.
        folder: Where all of them are.
    """

    name: str
    folder: Path

    @property
    def path(self) -> Path:
        """This one's folder."""
        return self.folder / f"{self.name}-{hashlib.sha256(self._recipe().encode()).hexdigest()[:8]}"

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return Path(sys.executable) if self.name == OWN else self.path / "bin" / "python"

    def _requirements(self) -> Path:
        return SCRIPTS / f"peers_requirements_{self.name}.txt"

    def _recipe(self) -> str:
        constraints = "" if self.name in _UNCONSTRAINED else CONSTRAINTS.read_text()
        return self._requirements().read_text() + constraints

    def ensure(self) -> None:
        """Make it, unless it is there.

        Raises:
            BrokenEnvironment: If it cannot be made.
        """
        if self.name == OWN or (self.path / ".ready").exists():
            return
        print(f"making the environment {self.name} ...", file=sys.stderr, flush=True)
        shutil.rmtree(self.path, ignore_errors=True)
        uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
        bounds = [] if self.name in _UNCONSTRAINED else ["--constraint", str(CONSTRAINTS)]
        for command in (
            [uv, "venv", "--quiet", "--python", sys.executable, str(self.path)],
            [
                uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                str(self.python),
                *bounds,
                "-r",
                str(self._requirements()),
            ],
        ):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise BrokenEnvironment(f"{Path(command[0]).name} {command[1]}: {done.stderr.strip()[-400:]}")
        (self.path / ".ready").touch()

    def versions(self, packages: tuple[str, ...]) -> dict[str, str]:
        """Versions of some of its packages, without starting it; missing ones are left out."""
        path = (
            sys.path
            if self.name == OWN
            else [str(folder) for folder in self.path.glob("lib/python*/site-packages")]
        )
        wanted = {package.replace("_", "-").lower(): package for package in packages}
        found = {}
        for distribution in metadata.distributions(path=path):
            name = str(distribution.metadata["Name"]).replace("_", "-").lower()
            if name in wanted:
                found.setdefault(wanted[name], distribution.version)
        return dict(sorted(found.items()))


def variables(threads: int) -> dict[str, str]:
    """Environment variables of a worker: few threads, no network, this folder's modules."""
    return {
        **os.environ,
        "PYTHONPATH": str(SCRIPTS),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",  # all on the CPU: the same machine for all
    }
