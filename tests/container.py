"""A container runtime in small: ``python -m tests.container COMMAND ...`` runs one as ``docker run -i`` would.

The command runs as the first process of a namespace of its own, started by a daemon that is no relative of the
caller's: ids inside are others than outside, and no parent leads from its processes to the caller. The daemon is
started with ``python -m tests.container --daemon``; CONTAINER_SOCKET says where it listens.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
ISOLATED = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]


def works() -> bool:
    """Whether this host lets us make namespaces."""
    try:
        return subprocess.run([*ISOLATED, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


@contextmanager
def daemon(path: Path) -> Iterator[list[str]]:
    """The daemon; what to put before a command to run it in a container."""
    environment = {**os.environ, "CONTAINER_SOCKET": str(path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.container", "--daemon"]
    # The process that this starts ends at once, and leaves the daemon to init.
    subprocess.run(command, env=environment, cwd=ROOT, check=True)
    try:
        yield ["env", f"CONTAINER_SOCKET={path}", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.container"]
    finally:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"null\n")


def serve(path: str) -> None:
    """Run what comes, each with the standard streams that come along, until told to end."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()
    if os.fork():
        return
    os.setsid()
    while True:
        connection, _ = listener.accept()
        message, streams, _, _ = socket.recv_fds(connection, 2**16, 3)
        command = json.loads(message)
        if command is None:
            return
        if os.fork() == 0:
            done = subprocess.run(
                [*ISOLATED, *command],
                stdin=streams[0],
                stdout=streams[1],
                stderr=streams[2],
                start_new_session=True,
                check=False,
            )
            connection.sendall(json.dumps(done.returncode).encode())
            os._exit(0)
        for stream in streams:
            os.close(stream)
        connection.close()


def run(path: str, command: list[str]) -> int:
    """Have the daemon run a command with our standard streams; its exit status.

    A signal to end is handed on, as a runtime does; the first process of a namespace does not heed it.
    """
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        socket.send_fds(connection, [json.dumps(command).encode()], [0, 1, 2])
        return int(json.loads(connection.recv(64) or b"1"))


if __name__ == "__main__":
    if sys.argv[1:] == ["--daemon"]:
        serve(os.environ["CONTAINER_SOCKET"])
    else:
        sys.exit(run(os.environ["CONTAINER_SOCKET"], sys.argv[1:]))
