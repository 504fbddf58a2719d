"""Leases between real processes, on lock files of their own; a Leases is a rival also within one process."""

import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pytest_llm_energy.errors import HardwareError
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.hardware.leases import Leases
from pytest_llm_energy.hardware.strangers import Processes, processes_on
from pytest_llm_energy.metering.simulated import SimulatedDevice, SimulatedNvml, VirtualClock
from tests.simulated_host import simulated_devices

ROOT = Path(__file__).parents[2]
FOUR = simulated_devices(4)


class Host:
    """Processes of strangers on simulated devices, by device."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.strangers: dict[str, tuple[int, ...]] = {}

    def leases(self, devices: tuple[Device, ...] = FOUR, *, ending_seconds: float = 0.0) -> Leases:
        def processes(uuid: str) -> Processes:
            return Processes(strangers=self.strangers.get(uuid, ()))

        return Leases(
            devices, folder=self.folder, processes=processes, poll_seconds=0.01, ending_seconds=ending_seconds
        )


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path / "leases")


def indices(devices: tuple[Device, ...]) -> list[int]:
    return [device.index for device in devices]


def acquire(
    leases: Leases, count: int, *, timeout_seconds: float = 60.0, say: Callable[[str], None] = print
) -> list[int]:
    return indices(leases.acquire(count, timeout_seconds=timeout_seconds, say=say))


def test_the_first_free_devices_are_leased_and_those_held_last_before_them(host: Host) -> None:
    one, other = host.leases(), host.leases()
    assert acquire(one, 1) == [0]
    assert acquire(other, 2) == [1, 2]
    one.release()
    other.release()
    assert acquire(other, 1) == [1]
    other.release()
    assert acquire(other, 2) == [0, 1]
    assert indices(other.held) == [0, 1]


def test_who_holds_some_must_give_them_back_before_it_asks_for_more(host: Host) -> None:
    leases = host.leases()
    acquire(leases, 1)
    with pytest.raises(HardwareError, match="held already"):
        acquire(leases, 2)
    leases.release()
    assert acquire(leases, 2) == [0, 1]


def test_more_devices_than_there_are_cannot_be_waited_for(host: Host) -> None:
    with pytest.raises(HardwareError, match="5 devices are wanted, and this process may use 4"):
        acquire(host.leases(), 5)


def test_a_wait_that_is_too_long_names_the_holders_and_holds_nothing(host: Host) -> None:
    holder, late = host.leases(), host.leases()
    acquire(holder, 2)
    said: list[str] = []
    with pytest.raises(HardwareError) as raised:
        acquire(late, 4, timeout_seconds=0.1, say=said.append)
    whose = rf"device 0 is held by pid {os.getpid()} since 2\d\d\d-.*; device 1 is held by pid {os.getpid()} since "
    assert raised.match(rf"4 of 4 device\(s\) did not come free within 0.1 s \(--energy-lease-timeout\): {whose}")
    assert said[0].startswith("waiting for 4 of 4 device(s): device 0 is held by pid")
    assert late.held == ()
    assert acquire(host.leases(), 2) == [2, 3]


def test_who_wants_many_is_not_passed_by_those_who_want_few(host: Host) -> None:
    first, many, few = host.leases(), host.leases(), host.leases()
    acquire(first, 1)
    waits = threading.Event()
    got: list[int] = []
    waiting = threading.Thread(target=lambda: got.extend(acquire(many, 4, say=lambda _: waits.set())))
    waiting.start()
    assert waits.wait(60)
    with pytest.raises(HardwareError, match="did not come free"):
        acquire(few, 1, timeout_seconds=0.1)
    first.release()
    waiting.join(60)
    assert got == [0, 1, 2, 3]
    many.release()
    assert acquire(few, 1) == [0]


def test_those_who_may_use_other_devices_do_not_wait_for_each_other(host: Host) -> None:
    left, right = FOUR[:2], FOUR[2:]
    holder, waiting = host.leases(left), host.leases(left)
    acquire(holder, 1)
    waits = threading.Event()
    thread = threading.Thread(target=lambda: acquire(waiting, 2, say=lambda _: waits.set()))
    thread.start()
    assert waits.wait(60)
    assert acquire(host.leases(right), 2) == [2, 3]
    holder.release()
    thread.join(60)
    assert indices(waiting.held) == [0, 1]


def test_a_killed_holder_frees_its_devices(host: Host) -> None:
    code = (
        "import sys, time; from pathlib import Path\n"
        "from pytest_llm_energy.hardware.leases import Leases\n"
        "from tests.simulated_host import simulated_devices\n"
        "leases = Leases(simulated_devices(4), folder=Path(sys.argv[1]))\n"
        "leases.acquire(3, timeout_seconds=60, say=print)\n"
        "print('holds', flush=True); time.sleep(600)\n"
    )
    command = [sys.executable, "-c", code, str(host.folder)]
    holder = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "holds\n"
        with pytest.raises(HardwareError, match=f"device 2 is held by pid {holder.pid} since"):
            acquire(host.leases(), 2, timeout_seconds=0.1)
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    assert acquire(host.leases(), 4) == [0, 1, 2, 3]


def test_a_forked_child_does_not_keep_what_its_parent_gives_back(host: Host) -> None:
    leases = host.leases()
    acquire(leases, 1)
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
    try:
        leases.release()
        assert acquire(host.leases(), 1) == [0]
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_strangers_refuse_the_lease_where_too_few_devices_are_without_them(host: Host) -> None:
    host.strangers = {FOUR[0].uuid: (4711,), FOUR[2].uuid: (12, 13)}
    leases = host.leases()
    assert acquire(leases, 2) == [1, 3]
    leases.release()
    with pytest.raises(HardwareError) as raised:
        acquire(leases, 4)
    assert raised.match(
        r"others compute there without a lease: on device 0 \(GPU-simulated-0\) pid 4711; on device 2 "
        r"\(GPU-simulated-2\) pid 12, 13; end them, or leave their devices out of CUDA_VISIBLE_DEVICES"
    )
    assert acquire(host.leases((FOUR[1], FOUR[3])), 2) == [1, 3]


def test_a_process_that_is_ending_is_waited_for(host: Host) -> None:
    host.strangers = {FOUR[0].uuid: (4711,)}
    assert acquire(host.leases(ending_seconds=60), 1, say=lambda _: host.strangers.clear()) == [0]


def test_processes_of_strangers_are_told_from_our_own_and_from_those_that_mean_nothing_here() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    pids = (os.getpid(), child.pid, os.getppid(), ended.pid)
    device = SimulatedDevice("GPU-0", processes=[(0.0, pids)])
    own = tuple(sorted((os.getpid(), child.pid)))
    assert processes_on("GPU-0", SimulatedNvml(VirtualClock(), device)) == Processes(own, (os.getppid(),))
    child.communicate()


def test_where_nvml_tells_nothing_nobody_is_a_stranger() -> None:
    class Dead(SimulatedNvml):
        def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
            raise self.NVMLError("Driver Not Loaded")

    lost = SimulatedDevice("GPU-0", processes=[(0.0, (os.getppid(),))], lost_at=0.0)
    assert processes_on("GPU-0", SimulatedNvml(VirtualClock(), lost)) == Processes()
    assert processes_on("GPU-0", Dead(VirtualClock())) == Processes()


def test_every_user_can_lease_and_nobody_can_remove_anothers_lock(host: Host) -> None:
    old = os.umask(0o077)
    try:
        acquire(host.leases(), 1)
    finally:
        os.umask(old)
    assert stat.S_IMODE(host.folder.stat().st_mode) == 0o1777
    assert {stat.S_IMODE(file.stat().st_mode) for file in host.folder.iterdir()} == {0o666}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_users_lease_holds_and_its_file_serves_again() -> None:
    with tempfile.TemporaryDirectory() as parent:  # pytest's own lets no other user in
        Path(parent).chmod(0o755)
        host = Host(Path(parent) / "leases")
        holder, later = host.leases(), host.leases()
        acquire(holder, 1)
        child = os.fork()
        if child == 0:
            try:
                os.setuid(65534)
                (got,) = acquire(later, 1)
                os._exit(10 + got)
            finally:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 11
        holder.release()
        assert acquire(later, 4) == [0, 1, 2, 3]


def test_what_lies_in_the_folder_from_before_means_nothing(host: Host) -> None:
    host.folder.mkdir()
    (host.folder / f"{FOUR[0].uuid}.lease").write_text('{"pid": 1, "since": "long ago"}')
    (host.folder / f"{FOUR[1].uuid}.turn").write_text("nonsense")
    assert acquire(host.leases(), 2) == [0, 1]


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe"])
def test_a_lock_file_that_would_write_elsewhere_is_refused(host: Host, tmp_path: Path, kind: str) -> None:
    precious = tmp_path / "precious"
    precious.write_text("mine")
    host.folder.mkdir()
    lease = host.folder / f"{FOUR[0].uuid}.lease"
    if kind == "link":
        lease.symlink_to(precious)
    elif kind == "hard link":
        lease.hardlink_to(precious)
    else:
        os.mkfifo(lease)
    with pytest.raises(HardwareError, match=r"cannot lease devices by .*\.lease: .*LLM_ENERGY_LEASES"):
        acquire(host.leases(), 1)
    assert precious.read_text() == "mine"


def test_a_folder_that_is_none_is_refused(host: Host, tmp_path: Path) -> None:
    host.folder.symlink_to(tmp_path)
    with pytest.raises(HardwareError, match="it is no folder"):
        acquire(host.leases(), 1)


def test_the_folder_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_ENERGY_LEASES", str(tmp_path / "elsewhere"))
    acquire(Leases(FOUR, processes=lambda _: Processes()), 1)
    assert (tmp_path / "elsewhere" / f"{FOUR[0].uuid}.lease").exists()


STRESS = """
import os, random, sys, time
from pathlib import Path
from pytest_llm_energy.hardware.leases import Leases
from pytest_llm_energy.hardware.strangers import Processes
from tests.simulated_host import simulated_devices

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
chance = random.Random(seed)
leases = Leases(simulated_devices(4), folder=folder / "leases", processes=lambda _: Processes(), poll_seconds=0.002)
for _ in range(25):
    count = chance.choice((1, 2, 4))
    devices = leases.acquire(count, timeout_seconds=120, say=lambda _: None)
    assert len(devices) == count, devices
    for device in devices:
        os.close(os.open(folder / device.uuid, os.O_CREAT | os.O_EXCL))
    time.sleep(chance.uniform(0, 0.005))
    for device in devices:
        os.unlink(folder / device.uuid)
    leases.release()
print("done")
"""


def test_eight_processes_that_want_one_two_or_four_devices_never_share_one_and_all_finish(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STRESS, str(tmp_path)]
    running = [
        subprocess.Popen([*command, str(n)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    for process in running:
        output, errors = process.communicate(timeout=240)
        assert (output, errors) == ("done\n", "")
