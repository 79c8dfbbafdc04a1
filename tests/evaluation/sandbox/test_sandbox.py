"""Hostile programs, for real: each is started, and none does what it wants."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fulgurite.evaluation.sandbox import Limits, Sandbox, SandboxUnavailable, find_sandbox
from fulgurite.evaluation.sandbox import sandbox as module


@pytest.fixture(scope="module")
def sandbox() -> Sandbox:
    try:
        return find_sandbox(Limits(cpu_s=2, wall_s=15, memory_bytes=1 << 28))
    except SandboxUnavailable as error:
        pytest.skip(str(error))


@pytest.mark.parametrize(
    "program",
    [
        "assert sorted([3, 1]) == [1, 3]",
        "import math, re, typing, collections, hashlib, heapq, itertools, datetime, json, random, string",
        "print('said to nobody' * 1000)",
        "import sys\nsys.stderr.write('no')\nsys.stdout.flush()",
        "import threading\none = threading.Thread(target=print)\none.start()\none.join()",
    ],
)
def test_an_honest_program_passes(sandbox: Sandbox, program: str) -> None:
    assert sandbox.run(program) == module.Outcome(True)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'not equal'", "AssertionError: not equal"),
        ("def broken(:", "SyntaxError"),
        ("raise SystemExit(0)", "SystemExit: 0"),
        ("import numpy", "ModuleNotFoundError"),
        ("import os\nos._exit(0)", "ended without a result"),
        ("import ctypes\nctypes.string_at(0)", "ended without a result"),
    ],
)
def test_a_program_that_fails_says_why(sandbox: Sandbox, program: str, reason: str) -> None:
    outcome = sandbox.run(program)
    assert not outcome.passed
    assert reason in outcome.reason


def test_forks_are_refused(sandbox: Sandbox) -> None:
    bomb = "import os\nwhile True:\n    os.fork()"
    assert "PermissionError" in sandbox.run(bomb).reason
    assert "PermissionError" in sandbox.run("import subprocess\nsubprocess.run(['/bin/true'])").reason
    assert "PermissionError" in sandbox.run("import os\nos.execv('/bin/true', ['true'])").reason
    assert not sandbox.run("import multiprocessing as m\nm.Process(target=print).start()").passed


def test_the_disk_cannot_be_filled(sandbox: Sandbox, tmp_path: Path) -> None:
    writing = """
import os
written = 0
for place in {places!r}:
    for number in range(100):
        try:
            with open(os.path.join(place, str(number)), "wb") as file:
                written += file.write(b"a" * (1 << 20))
        except OSError:
            pass
assert written == 0, written
"""
    places = ["/", "/tmp", "/dev/shm", "/usr", str(tmp_path), os.path.dirname(sys.executable)]
    assert sandbox.run(writing.format(places=places)) == module.Outcome(True)  # it could write nothing
    assert list(tmp_path.iterdir()) == []
    # memory that looks like a file is held to a mebibyte
    hidden = "import os\nfd = os.memfd_create('a')\nwhile True:\n    os.write(fd, b'a' * (1 << 20))"
    assert not sandbox.run(hidden).passed


@pytest.mark.parametrize(
    "program",
    [
        "while True: pass",
        "import time\ntime.sleep(3600)",
        "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "try:\n    while True: pass\nexcept BaseException:\n    while True: pass",
    ],
    ids=["busy", "sleeping", "deaf", "catching"],
)
def test_what_never_ends_is_ended(program: str) -> None:
    try:
        sandbox = find_sandbox(Limits(cpu_s=1, wall_s=3))
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    started = time.monotonic()
    assert not sandbox.run(program).passed
    assert time.monotonic() - started < 30  # far more than its three seconds, far less than for ever


@pytest.mark.parametrize(
    "program",
    [
        "held = []\nwhile True:\n    held.append(bytearray(1 << 24))",
        "text = 'a'\nwhile True:\n    text += text",
        "x = 10 ** 10 ** 10",
    ],
)
def test_memory_is_limited(sandbox: Sandbox, program: str) -> None:
    outcome = sandbox.run(program)
    assert not outcome.passed
    if "10 **" not in program:  # that one may run out of time first
        assert "MemoryError" in outcome.reason


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of this machine that answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_there_is_no_network(sandbox: Sandbox, listening: int) -> None:
    socket.create_connection(("127.0.0.1", listening), 5).close()  # from outside it answers
    reaching = f"import socket\nsocket.create_connection(('127.0.0.1', {listening}), 5)"
    assert not sandbox.run(reaching).passed
    assert not sandbox.run("import socket\nsocket.socket(socket.AF_UNIX)").passed
    assert not sandbox.run("import urllib.request\nurllib.request.urlopen('http://127.0.0.1')").passed


def test_files_of_the_machine_are_not_there(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("secret")
    for path in (tmp_path / "secret.txt", Path("/etc/passwd"), Path(__file__), Path("/proc/1/environ")):
        assert "FileNotFoundError" in sandbox.run(f"open({str(path)!r})").reason


def test_the_environment_is_not_handed_on(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_TOKEN", "secret")
    assert sandbox.run("import os\nassert 'A_TOKEN' not in os.environ").passed


def test_an_endless_answer_is_not_read(sandbox: Sandbox) -> None:
    flood = """
import os
while True:
    for fd in range(3, 32):
        try:
            os.write(fd, b"a" * 65536)
        except OSError:
            pass
"""
    outcome = sandbox.run(flood)
    assert not outcome.passed
    assert len(outcome.reason) < 300


def test_nothing_is_left_running(sandbox: Sandbox) -> None:
    marker = "import time  # fulgurite-left-running\ntime.sleep(3600)"
    short = Sandbox(sandbox.name, sandbox.wrap, Limits(wall_s=2))
    assert not short.run(marker).passed
    time.sleep(0.2)
    listed = subprocess.run(
        ["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=False
    ).stdout
    assert not [line for line in listed.splitlines() if "fulgurite-sandbox-" in line and " bind " in line]


def test_without_a_sandbox_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda tool: None)
    with pytest.raises(SandboxUnavailable, match="bubblewrap: not installed; unshare: not installed"):
        find_sandbox.__wrapped__()


def test_a_sandbox_that_does_not_hold_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_bubblewrap", lambda command, folder: list(command))
    monkeypatch.setattr(
        module, "_unshare", lambda command, folder: ["sh", "-c", "echo no namespaces >&2; exit 1"]
    )
    monkeypatch.setattr(shutil, "which", lambda tool: tool)
    with pytest.raises(
        SandboxUnavailable
    ) as error:  # the first can read files here, the second says why it cannot
        find_sandbox.__wrapped__()
    assert "bubblewrap: AssertionError: files of this machine can be read" in str(error.value)
    assert "unshare: no namespaces" in str(error.value)


@pytest.mark.parametrize("name", ["cpu_s", "wall_s", "memory_bytes", "open_files"])
def test_limits_must_leave_something(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        Limits(**{name: 0})
