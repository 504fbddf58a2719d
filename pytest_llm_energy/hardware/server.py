"""A server on this host, as its hardware sees it: the processes behind a URL, the devices it is said to run on."""

import contextlib
import ipaddress
import os
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import psutil

from pytest_llm_energy.errors import UsageError
from pytest_llm_energy.hardware.detection import Device


class ServerProcesses:
    """The processes that serve a URL: who listens on its port, the job they belong to, and all these started.

    A job is a process group, which is what a shell, a service manager and ``setsid`` put a server in. Where this
    process is in the same one (a script that starts both), the server's own descendants alone are taken.

    Attributes:
        urls: where the servers are.
        listeners: ids of the processes that listen there, as far as this host tells.
        problem: why they cannot be told, None where they are known.
    """

    def __init__(self, *urls: str) -> None:
        """Look who listens; of several servers, all are taken together."""
        self.urls = urls
        self.listeners: frozenset[int] = frozenset()
        self.problem: str | None = None
        for url in urls:
            self._find(url)

    def _find(self, url: str) -> None:
        parts = urlsplit(url)
        addresses = _addresses(parts.hostname or "")
        if not any(map(_is_local, addresses)):
            self.problem = f"{parts.hostname} is no address of this host"
            return
        found = _listeners(addresses, parts.port or (443 if parts.scheme == "https" else 80))
        listeners = frozenset(pid for pid in found if pid is not None)
        self.listeners |= listeners
        if not listeners:
            why = "belongs to another user" if found else "is in another container or namespace"
            self.problem = f"who listens at {url} {why}"

    def pids(self) -> frozenset[int]:
        """Its processes, as they are now."""
        jobs = {group for pid in self.listeners if (group := _group(pid)) is not None} - {os.getpgrp()}
        children: dict[int, list[int]] = {}
        found = {pid for pid in self.listeners if psutil.pid_exists(pid)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                children.setdefault(process.ppid(), []).append(process.pid)
                if jobs and _group(process.pid) in jobs:
                    found.add(process.pid)
        rest = list(found)
        while rest:
            new = set(children.get(rest.pop(), ())) - found
            found |= new
            rest += new
        return frozenset(found)


def devices_named(devices: Sequence[Device], names: Sequence[str]) -> tuple[Device, ...]:
    """The devices of these indices or UUIDs, in the order named.

    Raises:
        UsageError: a name is of none of them, or of two.
    """
    chosen: list[Device] = []
    for name in names:
        matches = [device for device in devices if str(device.index) == name or device.uuid.startswith(name)]
        if len(matches) != 1 or matches[0] in chosen:
            known = ", ".join(f"{device.index} ({device.uuid})" for device in devices) or "none"
            raise UsageError(f"--energy-endpoint-gpus names {name!r}; this host's devices, each once: {known}")
        chosen.append(matches[0])
    return tuple(chosen)


def _addresses(host: str) -> set[str]:
    try:
        return {str(entry[4][0]) for entry in socket.getaddrinfo(host, None)}
    except OSError:
        return set()


def _is_local(address: str) -> bool:
    if _is_loopback(address) or _takes_all(address):
        return True
    own = {entry.address for entries in psutil.net_if_addrs().values() for entry in entries}
    return address in own


def _listeners(addresses: set[str], port: int) -> list[int | None]:
    """Who listens on a port of these addresses; None for one that this host does not name.

    One that is unspecified, as servers print it that listen on all, is connected to as this host's own.
    """
    try:
        sockets = psutil.net_connections("tcp")
    except psutil.Error:
        return []
    anywhere = any(map(_takes_all, addresses))
    return [
        each.pid
        for each in sockets
        if each.status == psutil.CONN_LISTEN
        and each.laddr
        and each.laddr.port == port
        and (each.laddr.ip in addresses or _takes_all(each.laddr.ip) or (anywhere and _is_loopback(each.laddr.ip)))
    ]


def _is_loopback(address: str) -> bool:
    return ipaddress.ip_address(address.partition("%")[0]).is_loopback


def _takes_all(address: str) -> bool:
    """Whether who listens there does so on every address of its host."""
    return ipaddress.ip_address(address.partition("%")[0]).is_unspecified


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None
