"""Run rows in processes of their own, and keep what they found.

row -> worker compress -> worker measure -> Result -> JSON in the cache -> again only if something has changed
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from peers.environments import OWN, SCRIPTS, BrokenEnvironment, Environment, variables
from peers.methods import METHODS, Row
from peers.networks import EVALUATION, NETWORKS, find_source

SOURCES, RECIPE = "sources", "recipe"
"""Entries of ``versions`` that are no packages: digests of our sources and of a row's recipe."""
_SOURCES = ("fulgurite", "callbacks", "lightning_modules", "datamodules")
_REASON = 300  # characters


@dataclass(frozen=True)
class Result:
    """What became of one row.

    Args:
        network: Its network.
        method: Its method.
        settings: Of the method.
        versions: Packages that it ran with, and a digest of the sources where they are ours.
        evaluation: Version of the scores.
        threads: It was allowed.
        machine: Processor and system.
        load: Load average before and after.
        figures: Of ``compress`` and ``measure``; of one only, or none, where it failed.
        reason: Why it failed; empty where it did not.
    """

    network: str
    method: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    evaluation: int
    threads: int
    machine: str
    load: tuple[float, float] = (0.0, 0.0)
    figures: Mapping[str, float] = field(default_factory=dict)
    reason: str = ""

    @property
    def label(self) -> str:
        """Its row's name."""
        return Row(self.method, self.settings).label

    @property
    def ours(self) -> bool:
        """Whether it is Fulgurite's."""
        return METHODS[self.method].environment == OWN and self.method != "original"


@dataclass(frozen=True)
class Runner:
    """Where things are, and how much a row may take.

    Args:
        data: Folder with all data.
        cache: Folder for environments, results and the networks that are being measured.
        threads: Of each worker.
        limit_s: Seconds that a worker may take.
    """

    data: Path
    cache: Path
    threads: int = 1
    limit_s: int = 3600

    def known(self, network: str, row: Row) -> Result | None:
        """What an earlier run found for the row, whatever has changed since."""
        path = self._path(network, row)
        if not path.exists():
            return None
        fields = json.loads(path.read_text())
        return Result(**{**fields, "load": tuple(fields["load"])})

    def current(self, result: Result | None) -> bool:
        """Whether it needs no second run: same packages, same recipe, same scores."""
        if result is None or result.evaluation != EVALUATION:
            return False
        wanted = self._versions(Row(result.method, result.settings))
        return _without_sources(result.versions) == _without_sources(wanted)

    def stale(self, result: Result) -> bool:
        """Whether anything at all has changed since, our sources too: no reason to run hours again by itself."""
        return not self.current(result) or result.versions != self._versions(
            Row(result.method, result.settings)
        )

    def run(self, network: str, row: Row) -> Result:
        """Compress and measure; a failure is a result too."""
        environment = self._environment(row)
        before = os.getloadavg()[0]
        figures: dict[str, float] = {}
        reason, versions = "", {}
        try:
            environment.ensure()
            versions = self._versions(row)
            figures = self._work(network, row, environment)
        except (BrokenEnvironment, WorkerFailure) as error:
            reason = str(error)
        result = Result(
            network,
            row.method,
            dict(row.settings),
            versions,
            EVALUATION,
            self.threads,
            f"{platform.machine()} {platform.system()}, {os.cpu_count()} CPUs",
            (before, os.getloadavg()[0]),
            figures,
            reason,
        )
        path = self._path(network, row)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(json.dumps(asdict(result), indent=1))
        path.with_suffix(".new").replace(path)
        return result

    def _work(self, network: str, row: Row, environment: Environment) -> dict[str, float]:
        work = self.cache / "work" / network / self._path(network, row).stem
        for old in work.parent.glob(f"{work.name}*"):
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        work.mkdir(parents=True)
        source = find_source(NETWORKS[network], self.data)
        common = ["--method", row.method, "--network", network, "--settings", json.dumps(row.settings)]
        common += ["--source", str(source), "--data", str(self.data.resolve()), "--out", str(work.resolve())]
        common += ["--threads", str(self.threads)]
        figures: dict[str, float] = {}
        for verb in ("compress", "measure"):
            command = [str(environment.python), "-m", "peers.worker", verb, *common]
            log = work.with_name(f"{work.name}.{verb}.log")
            figures |= run_worker(command, log, self.threads, self.limit_s)
        return figures

    def _environment(self, row: Row) -> Environment:
        return Environment(METHODS[row.method].environment, self.cache / "environments")

    def _versions(self, row: Row) -> dict[str, str]:
        method = METHODS[row.method]
        found = self._environment(row).versions(("torch", "transformers", *method.packages))
        if method.environment == OWN and row.method != "original":
            found[SOURCES] = digest(
                path for name in _SOURCES for path in (SCRIPTS.parent / name).rglob("*.py")
            )
            if RECIPE in row.settings:
                found[RECIPE] = digest([SCRIPTS.parent / row.settings[RECIPE]])
        return found

    def _path(self, network: str, row: Row) -> Path:
        key = json.dumps([row.method, row.settings], sort_keys=True)
        return (
            self.cache
            / "results"
            / network
            / f"{row.method}-{hashlib.sha256(key.encode()).hexdigest()[:10]}.json"
        )


class WorkerFailure(RuntimeError):
    """A worker has failed; the message is what the page will say."""


def run_worker(command: list[str], log: Path, threads: int, limit_s: int) -> dict[str, float]:
    """Run a worker, all that it says into ``log``; the figures that it prints last.

    Raises:
        WorkerFailure: If it fails or takes too long; with its reason in one line, without places of this machine.
    """
    with (
        log.open("w") as file,
        subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=file,
            text=True,
            env=variables(threads),
            cwd=SCRIPTS.parent,
            start_new_session=True,  # what it starts itself is to end with it
        ) as process,
    ):
        try:
            said, _ = process.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            raise WorkerFailure(f"stopped after {limit_s} s") from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    lines = [line for line in said.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
    if process.returncode or not found:
        raise WorkerFailure(tidy(found.get("reason") or f"ended with status {process.returncode}"))
    return found


def tidy(reason: str) -> str:
    """A reason in one line of limited length, paths cut to their last part."""
    line = re.sub(
        r"\s+", " ", re.sub(r"(?<![\w.:/])(?:/[\w.+@-]+){2,}", lambda m: m[0].rsplit("/", 1)[1], reason)
    )
    return line if len(line) <= _REASON else line[: _REASON - 3].rstrip() + "..."


def digest(paths: Iterable[Path]) -> str:
    """Of the contents of files, in the order of their names."""
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _without_sources(versions: Mapping[str, str]) -> dict[str, str]:
    return {name: version for name, version in versions.items() if name != SOURCES}


def progress(text: str, began: float | None = None) -> None:
    """One line for whoever waits."""
    took = f" ({time.perf_counter() - began:.0f} s)" if began is not None else ""
    print(f"{text}{took}", file=sys.stderr, flush=True)
