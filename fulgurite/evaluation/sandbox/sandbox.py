"""A process of its own for code that nobody has read: no network, nothing to write to, little of everything else.

    program -> bubblewrap, or unshare of util-linux: namespaces of users, processes, mounts and the network
            -> inside.py: resource limits, no privileges, no new processes (seccomp) -> the program
            -> the secret of this run, if it came to its end -> Outcome

What the program sees is read-only: the system's libraries and Python, no home, no data. What it may use is limited by
``setrlimit`` and by the clock. A sandbox is tried out before it is used: one that lets a program fork, open a socket or
write a file counts as none, and where there is none, nothing is run.
A program that only wants to seem right could look for the secret in the memory of its own process.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

_INSIDE = Path(__file__).with_name("inside.py")
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin")
_ANSWER = 256  # bytes read of what comes back

# a namespace of mounts: what is bound stays readable; inside.py lets go of the old root, for which umount needs /proc
_SHELL = """
set -e
root=$1; count=$2; shift 2
mount -t tmpfs -o size=1m,mode=755 none "$root"
while [ "$count" -gt 0 ]; do
  case $1 in
    bind) mkdir -p "$root$2"; mount --bind "$2" "$root$2"; mount -o remount,bind,ro,nosuid,nodev "$root$2" ;;
    link) ln -s "$3" "$root$2" ;;
  esac
  shift 3; count=$((count - 1))
done
mkdir "$root/.old"
cd "$root"
pivot_root . .old
exec "$@"
"""

# what no sandbox may allow; that it says so itself is enough, as it is ours
_CHECK = """
import os, socket
def refused(act):
    try:
        act()
    except (OSError, RuntimeError):
        return True
    return False
assert not os.path.exists({outside!r}), "files of this machine can be read"
assert refused(os.fork), "a process can be made"
assert refused(lambda: open("/written", "w")), "a file can be written"
assert refused(lambda: socket.create_connection(("127.0.0.1", 1), 1)), "a socket can be opened"
"""


class SandboxUnavailable(ValueError):
    """There is no way here to run a program safely; says what was tried."""


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        cpu_s: Seconds of a processor, whole.
        wall_s: Seconds of the clock.
        memory_bytes: Address space, Python's own included.
        file_bytes: Size of a file, where one could be written.
        open_files: Open at a time.
        processes: Of the user, where the system counts them; new ones are refused in any case.

    Raises:
        ValueError: If one is below 1.
    """

    cpu_s: int = 5
    wall_s: float = 20.0
    memory_bytes: int = 1 << 30
    file_bytes: int = 1 << 20
    open_files: int = 32
    processes: int = 16

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Args:
        passed: Whether it came to its end without an error.
        reason: What went wrong, in a few words; empty where nothing did.
    """

    passed: bool
    reason: str = ""


@dataclass(frozen=True)
class Sandbox:
    """A way to run programs; made by ``find_sandbox``.

    Args:
        name: ``bubblewrap`` or ``unshare``.
        wrap: Makes a command of the command to be run inside, given an empty folder.
        limits: Of each program.
    """

    name: str
    wrap: Callable[[Sequence[str], str], list[str]]
    limits: Limits = field(default_factory=Limits)

    def run(self, program: str) -> Outcome:
        """Run Python to its end, or until a limit is reached.

        Raises:
            OSError: If no process can be started.
        """
        secret = secrets.token_hex(16)
        given = json.dumps({"secret": secret, "program": program, "limits": asdict(self.limits)})
        with tempfile.TemporaryDirectory(prefix="fulgurite-sandbox-") as folder:
            command = self.wrap([_python(), "-I", "-S", "-B", "-c", _INSIDE.read_text()], folder)
            answer, timed_out = _ask(command, given.encode(), self.limits.wall_s)
        if answer == secret.encode():
            return Outcome(True)
        if timed_out:
            return Outcome(False, f"took longer than {self.limits.wall_s:g} s")
        said = answer.decode(errors="replace")
        if said.startswith("!"):
            return Outcome(False, "".join(letter for letter in said[1:] if letter.isprintable()))
        return Outcome(False, "ended without a result: killed, or left by itself")


@functools.cache
def find_sandbox(limits: Limits | None = None) -> Sandbox:
    """The first way that holds: bubblewrap, then unshare.

    Raises:
        SandboxUnavailable: If none does; says why for each.
    """
    if not sys.platform.startswith("linux"):
        raise SandboxUnavailable(
            f"no sandbox for generated code: namespaces are Linux's, this is {sys.platform}"
        )
    reasons = []
    for name, tool, wrap in (("bubblewrap", "bwrap", _bubblewrap), ("unshare", "unshare", _unshare)):
        if shutil.which(tool) is None:
            reasons.append(f"{name}: not installed")
            continue
        sandbox = Sandbox(name, wrap, limits or Limits())
        reason = _fault(sandbox)
        if reason is None:
            return sandbox
        reasons.append(f"{name}: {reason}")
    raise SandboxUnavailable(
        f"no sandbox for generated code ({'; '.join(reasons)}): install bubblewrap and allow user namespaces, or leave "
        "out what runs code"
    )


def _fault(sandbox: Sandbox) -> str | None:
    """Why a sandbox does not hold; ``None`` where it does."""
    with tempfile.NamedTemporaryFile(prefix="fulgurite-outside-") as outside:
        outcome = sandbox.run(_CHECK.format(outside=outside.name))
    if outcome.passed:
        return None
    if outcome.reason.startswith("ended without"):
        return _complaint(sandbox) or outcome.reason
    return outcome.reason


def _complaint(sandbox: Sandbox) -> str:
    """What the tool itself says when it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            sandbox.wrap([_python(), "-I", "-S", "-c", ""], folder),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=sandbox.limits.wall_s,
            env=_environment(),
            check=False,
        )
    return " ".join(done.stderr.decode(errors="replace").split())[:200]


def _ask(command: Sequence[str], given: bytes, wall_s: float) -> tuple[bytes, bool]:
    """What a command writes at first, and whether its time was over; all that it started is ended."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=_environment(),
        cwd="/",
    )
    assert process.stdin is not None
    assert process.stdout is not None
    answer, ends = b"", time.monotonic() + wall_s
    try:
        with contextlib.suppress(BrokenPipeError):  # it may be gone already
            process.stdin.write(given)
            process.stdin.close()
        while len(answer) < _ANSWER:  # no more is read, however much it writes
            left = ends - time.monotonic()
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                return answer, True
            part = os.read(process.stdout.fileno(), _ANSWER - len(answer))
            if not part:
                break
            answer += part
        return answer, False
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait()


def _bubblewrap(command: Sequence[str], folder: str) -> list[str]:
    made = [
        shutil.which("bwrap") or "bwrap",
        "--unshare-all",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
    ]
    for kind, path, target in _visible():
        made += ["--ro-bind", path, path] if kind == "bind" else ["--symlink", target, path]
    return [*made, "--remount-ro", "/", "--chdir", "/", "--", *command]


def _unshare(command: Sequence[str], folder: str) -> list[str]:
    listed = [part for one in _visible() for part in one]
    namespaces = [
        "--user",
        "--map-root-user",
        "--net",
        "--ipc",
        "--uts",
        "--mount",
        "--pid",
        "--fork",
        "--kill-child",
    ]
    shell = ["/bin/sh", "-c", _SHELL, "sandbox", folder, str(len(_visible()))]
    return [shutil.which("unshare") or "unshare", *namespaces, *shell, *listed, *command]


def _visible() -> list[tuple[str, str, str]]:
    """What a program sees of this machine: ``bind`` and a folder, or ``link``, its place and where it leads."""
    found = []
    for path in _SYSTEM:
        if os.path.islink(path):
            found.append(("link", path, os.readlink(path)))
        elif os.path.isdir(path):
            found.append(("bind", path, ""))
    home = os.path.realpath(sys.base_prefix)
    if not home.startswith("/usr"):
        found.append(("bind", home, ""))
    return found


def _python() -> str:
    """Python itself, not a virtual environment's: that is not visible."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def _environment() -> dict[str, str]:
    libraries = os.path.join(os.path.realpath(sys.base_prefix), "lib")
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LD_LIBRARY_PATH": libraries, "LANG": "C.UTF-8"}
