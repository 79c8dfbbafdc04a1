"""What runs in the sandbox: gives up everything, then runs the program that it was handed.

    standard input: {"secret", "program", "limits"} -> limits, privileges, processes -> program -> secret

It needs Python's own library alone, and is handed over as text: nothing of the project is visible there.
"""

import ctypes
import json
import os
import platform
import resource
import struct
import sys
from typing import Any

_NO_NEW_PRIVILEGES, _SECCOMP, _DROP_BOUND = 38, 22, 24  # of prctl
_FILTER_MODE = 2
_OLD_ROOT, _DETACH, _REMOUNT_READ_ONLY = "/.old", 2, 0x1 | 0x20 | 0x1000  # read-only, remount, bind
_ALLOW, _REFUSE, _UNKNOWN = (
    0x7FFF0000,
    0x00050001,
    0x00050026,
)  # go on; EPERM; ENOSYS, so that libc tries another
_CLONE_THREAD = 0x00010000
# numbers of the calls: clone, and those that make processes, mounts, sockets or look into others
_CALLS: dict[str, tuple[int, int, int, tuple[int, ...]]] = {
    # machine: (audit number, clone, clone3, refused)
    "x86_64": (0xC000003E, 56, 435, (57, 58, 59, 322, 165, 155, 272, 308, 101, 41, 53, 425)),
    "aarch64": (0xC00000B7, 220, 435, (221, 281, 40, 41, 97, 268, 117, 198, 199, 425)),
}


def main() -> None:
    """Run what standard input asks for, and say how it ended."""
    given = json.loads(sys.stdin.buffer.read())
    answer = os.dup(1)
    os.close(0)
    sys.stdout = sys.stderr = _Nowhere()
    os.close(1)
    os.close(2)
    secret, text = given["secret"], given["program"]
    leave_old_root()
    limit(given["limits"])
    give_up_privileges()
    refuse_processes()
    try:
        exec(compile(text, "program", "exec"), {"__name__": "__main__"})
    except BaseException as error:
        os.write(answer, f"!{type(error).__name__}: {error}".encode(errors="replace")[:200])
    else:
        os.write(answer, secret.encode())
    os._exit(0)  # threads that still run end here


class _Nowhere:
    """Takes what is printed."""

    encoding = "utf-8"

    def write(self, text: str) -> int:
        """Forget it."""
        return len(text)

    def flush(self) -> None:
        """Nothing is held."""

    def isatty(self) -> bool:
        """It is none."""
        return False


def leave_old_root() -> None:
    """Without bubblewrap the old root is still mounted, and the new one can be written to."""
    if not os.path.isdir(_OLD_ROOT):
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(_OLD_ROOT.encode(), _DETACH) != 0:
        raise OSError(ctypes.get_errno(), "the old root cannot be left")
    os.rmdir(_OLD_ROOT)
    libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
    if libc.mount(b"none", b"/", None, _REMOUNT_READ_ONLY, None) != 0:
        raise OSError(ctypes.get_errno(), "the root cannot be made read-only")


def limit(limits: dict[str, Any]) -> None:
    """Set what the kernel holds a process to."""
    for kind, value in (
        (resource.RLIMIT_CPU, int(limits["cpu_s"])),
        (resource.RLIMIT_AS, limits["memory_bytes"]),
        (resource.RLIMIT_DATA, limits["memory_bytes"]),
        (resource.RLIMIT_STACK, 64 << 20),
        (resource.RLIMIT_FSIZE, limits["file_bytes"]),
        (resource.RLIMIT_NOFILE, limits["open_files"]),
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        least = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (least, least))


def give_up_privileges() -> None:
    """No capability, now or later: those of the namespace would let a program mount memory of any size."""
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        libc.prctl(_DROP_BOUND, capability, 0, 0, 0)  # those that there are not are refused, which is as well
    header = struct.pack("Ii", 0x20080522, 0)  # version 3, this process
    if libc.capset(header, struct.pack("6I", *[0] * 6)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "privileges cannot be given up")


def refuse_processes() -> None:
    """Let the kernel refuse calls by seccomp; threads are allowed.

    A count of processes would not hold for the system's first user, whom the kernel does not count.
    """
    machine = platform.machine()
    if machine not in _CALLS:
        raise OSError(f"the numbers of system calls on {machine} are not known")
    audit, clone, clone3, refused = _CALLS[machine]
    rules = [
        _rule(0x20, 4),  # the architecture: another has other numbers
        _rule(0x15, audit, 1, 0),
        _rule(0x06, _REFUSE),
        _rule(0x20, 0),  # the number of the call
        _rule(0x35, 0x40000000, 0, 1),  # a second table of x86-64
        _rule(0x06, _REFUSE),
        _rule(0x15, clone3, 0, 1),
        _rule(0x06, _UNKNOWN),  # its flags lie in memory, where a filter cannot look
        _rule(0x15, clone, 0, 4),
        _rule(0x20, 16),  # low half of its flags
        _rule(0x45, _CLONE_THREAD, 0, 1),
        _rule(0x06, _ALLOW),
        _rule(0x06, _REFUSE),
    ]
    for number in refused:
        rules += [_rule(0x15, number, 0, 1), _rule(0x06, _REFUSE)]
    rules.append(_rule(0x06, _ALLOW))
    code = ctypes.create_string_buffer(b"".join(rules))
    program = struct.pack("HxxxxxxP", len(rules), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int, ctypes.c_ulong, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_ulong]
    if libc.prctl(_SECCOMP, _FILTER_MODE, program, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "calls cannot be filtered")


def _rule(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    """One instruction of a filter: code, how many to skip if true and if false, value."""
    return struct.pack("HBBI", code, true, false, value)


if __name__ == "__main__":
    main()
