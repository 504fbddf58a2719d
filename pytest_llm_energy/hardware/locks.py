"""Kernel locks on files in a folder that every user of this host may write.

The kernel gives a lock back when its holder ends, however it ends, so a file left behind means nothing.
"""

import contextlib
import datetime
import fcntl
import os
import stat
import time
from pathlib import Path

import msgspec

from pytest_llm_energy.errors import HardwareError

OPENING_TRIES = 10
OPENING_SECONDS = 0.02
"""Another user's file or folder that was made this moment has its final mode by then."""


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock, as it wrote into the file.

    Attributes:
        pid: its process id.
        since: local date and time at which it took the lock.
    """

    pid: int
    since: str

    def __str__(self) -> str:
        return f"pid {self.pid} since {self.since}"


class Lock:
    """A lock that is held."""

    def __init__(self, file: int) -> None:
        self._file = file

    def release(self) -> None:
        """Give it back, also where a forked child has inherited the file."""
        os.ftruncate(self._file, 0)
        fcntl.flock(self._file, fcntl.LOCK_UN)
        os.close(self._file)


def take(path: Path) -> Lock | None:
    """Lock a file, made if need be; None when another process holds it, or this one does already.

    Raises:
        HardwareError: the file cannot be used.
    """
    file = _open(path)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    except OSError as error:
        os.close(file)
        raise _unusable(path, f"{error.strerror}") from error
    since = datetime.datetime.now().isoformat(sep=" ", timespec="seconds")
    with contextlib.suppress(OSError):  # the note is for people: the lock holds without it
        os.ftruncate(file, 0)
        os.pwrite(file, msgspec.json.encode(Holder(os.getpid(), since)), 0)
    return Lock(file)


def holder_of(path: Path) -> Holder | None:
    """Who wrote itself into the file last and has not given the lock back; it may have died since."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.DecodeError):
        return None


def make_shared(folder: Path) -> None:
    """Make a folder in which every user may make files, and nobody may remove another's.

    Raises:
        HardwareError: it cannot be made, or is no folder.
    """
    try:
        folder.mkdir()
        folder.chmod(0o1777)
    except FileExistsError:
        if folder.is_symlink() or not folder.is_dir():
            raise _unusable(folder, "it is no folder") from None
    except OSError as error:
        raise _unusable(folder, f"{error.strerror}") from error


def _open(path: Path) -> int:
    for _ in range(OPENING_TRIES):
        try:
            return _plain(path, os.open(path, os.O_RDWR | os.O_NOFOLLOW))
        except FileNotFoundError:
            # Apart from opening: in a sticky folder Linux may refuse O_CREAT on another user's file.
            with contextlib.suppress(FileExistsError, PermissionError):
                file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
                os.fchmod(file, 0o666)
                return file
        except PermissionError:
            pass
        except OSError as error:
            raise _unusable(path, f"{error.strerror}") from error
        time.sleep(OPENING_SECONDS)
    raise _unusable(path, "permission denied")


def _plain(path: Path, file: int) -> int:
    """The file, if writing into it harms no other."""
    status = os.fstat(file)
    if stat.S_ISREG(status.st_mode) and status.st_nlink == 1:
        return file
    os.close(file)
    raise _unusable(path, "it is no plain file")


def _unusable(path: Path, why: str) -> HardwareError:
    return HardwareError(
        f"cannot lease devices by {path}: {why}; let every user of this host write its folder (mode 1777), or "
        "name another folder in LLM_ENERGY_LEASES"
    )
