"""Leases of this host's GPUs: a device serves one process at a time, whoever runs it.

A lease is a kernel lock per GPU. All devices of a test are leased at once, and nobody waits while holding any, so
processes cannot block each other for ever. Who waits holds the turn of every device that would do, taken in one
order by all: later comers queue behind it, so that a test which wants many devices is not passed by for ever.
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from pytest_llm_energy.errors import HardwareError
from pytest_llm_energy.hardware import locks
from pytest_llm_energy.hardware.detection import Device
from pytest_llm_energy.hardware.strangers import Processes, processes_on

T = TypeVar("T")

FOLDER_VARIABLE = "LLM_ENERGY_LEASES"

DEFAULT_FOLDER = Path("/tmp/llm-energy-leases")
"""The same for all, whatever TMPDIR a job has: processes that disagree about the folder do not see each other."""

POLL_SECONDS = 0.25

ENDING_SECONDS = 10.0
"""A process that ends gives its device back within seconds. One that stays this long is there to stay."""


class Leases:
    """The devices that this process holds, of those it may use."""

    def __init__(
        self,
        devices: Sequence[Device],
        *,
        folder: Path | None = None,
        processes: Callable[[str], Processes] = processes_on,
        poll_seconds: float = POLL_SECONDS,
        ending_seconds: float = ENDING_SECONDS,
    ) -> None:
        """Hold nothing yet.

        Args:
            devices: those this process may use, in the order in which they are preferred.
            folder: where the lock files lie; by default that of ``LLM_ENERGY_LEASES``, or else DEFAULT_FOLDER.
            processes: who computes on a device.
            poll_seconds: pause between two looks at what others hold.
            ending_seconds: how long a stranger's process may take to end.
        """
        self._devices = tuple(devices)
        self._folder = (folder or Path(os.environ.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)).absolute()
        self._processes = processes
        self._poll_seconds = poll_seconds
        self._ending_seconds = ending_seconds
        self._locks: dict[str, locks.Lock] = {}
        self._last: tuple[Device, ...] = ()
        self._strangers: dict[str, dict[int, float]] = {}

    @property
    def held(self) -> tuple[Device, ...]:
        """Devices leased now, in the order of all."""
        return tuple(device for device in self._devices if device.uuid in self._locks)

    @property
    def in_use(self) -> bool:
        """Whether this process or its children compute on a leased device, as far as NVML tells."""
        return any(self._processes(device.uuid).own for device in self.held)

    def acquire(
        self,
        count: int,
        *,
        timeout_seconds: float,
        say: Callable[[str], None],
        option: str | None = "--energy-lease-timeout",
    ) -> tuple[Device, ...]:
        """Lease so many devices: those held last, or else the first that are free.

        Args:
            count: how many.
            timeout_seconds: longest wait.
            say: told what is waited for.
            option: by which who reads an error may wait longer; None where there is none.

        Raises:
            HardwareError: some are held already, too few are there, strangers' processes are on them, or the wait
                was too long; nothing is held then.
        """
        if self._locks:
            raise HardwareError("devices are held already: who waits for more while holding some blocks others")
        if count > len(self._devices):
            raise HardwareError(f"{count} devices are wanted, and this process may use {len(self._devices)}")
        locks.make_shared(self._folder)
        until = time.monotonic() + timeout_seconds
        longest = f"{timeout_seconds:g} s" + (f" ({option})" if option else "")

        def wait_for(ready: Callable[[], T | None]) -> T:
            while (found := ready()) is None:
                wanted = f"{count} of {len(self._devices)} device(s)"
                if time.monotonic() >= until:
                    raise HardwareError(
                        f"{wanted} did not come free within {longest}: {self._whose()}; wait for these processes, "
                        "or end them"
                    )
                say(f"waiting for {wanted}: {self._whose()}")
                time.sleep(self._poll_seconds)
            return found

        with contextlib.ExitStack() as turns:
            for path in self._turns():
                turns.callback(wait_for(partial(locks.take, path)).release)
            self._last = wait_for(partial(self._take, count))
        return self._last

    def release(self) -> None:
        """Give back what is held; the work on it must have ended."""
        while self._locks:
            _, lock = self._locks.popitem()
            lock.release()

    def _take(self, count: int) -> tuple[Device, ...] | None:
        """Lock so many devices, or none."""
        taken: dict[str, locks.Lock] = {}
        try:
            for device in sorted(self._devices, key=lambda device: device not in self._last):
                lock = locks.take(self._lease(device))
                if lock is None:
                    self._strangers.pop(device.uuid, None)
                    continue
                taken[device.uuid] = lock
                if strangers := self._look(device):
                    taken.pop(device.uuid).release()
                    if not self._stays(strangers):
                        return None
                elif len(taken) == count:
                    self._locks, taken = taken, {}
                    return self.held
        finally:
            for lock in taken.values():
                lock.release()
        if len(self._devices) - len(self._strangers) < count:
            raise HardwareError(
                f"{count} device(s) are wanted, and others compute there without a lease: {self._occupied()}; end "
                "them, or leave their devices out of CUDA_VISIBLE_DEVICES"
            )
        return None

    def _look(self, device: Device) -> dict[int, float]:
        """Strangers on a device, and when each was first seen."""
        known = self._strangers.pop(device.uuid, {})
        now = time.monotonic()
        if seen := {pid: known.get(pid, now) for pid in self._processes(device.uuid).strangers}:
            self._strangers[device.uuid] = seen
        return seen

    def _stays(self, strangers: dict[int, float]) -> bool:
        """Whether one of them is not merely about to end, as the engine of a lease just given back is."""
        return time.monotonic() - min(strangers.values()) >= self._ending_seconds

    def _whose(self) -> str:
        """Who holds which device, in words."""
        says = []
        for device in self._devices:
            holder = locks.holder_of(self._lease(device))
            if holder is not None and psutil.pid_exists(holder.pid):
                says.append(f"device {device.index} is held by {holder}")
        first = locks.holder_of(self._turns()[0])
        if first is not None and first.pid != os.getpid() and psutil.pid_exists(first.pid):
            says.append(f"pid {first.pid} waits before this one")
        if self._strangers:
            says.append(self._occupied())
        return "; ".join(says) or "their holders cannot be told from here"

    def _occupied(self) -> str:
        return "; ".join(
            f"on device {device.index} ({device.uuid}) pid {', '.join(map(str, self._strangers[device.uuid]))}"
            for device in self._devices
            if device.uuid in self._strangers
        )

    def _lease(self, device: Device) -> Path:
        return self._folder / f"{device.uuid}.lease"

    def _turns(self) -> list[Path]:
        return sorted(self._folder / f"{device.uuid}.turn" for device in self._devices)
