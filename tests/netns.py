"""Hosts of a test: network namespaces on one bridge, with links of a given rate. Made as root, with iproute2.

with Network(hosts=2, rate_mbit=1000) as network:
    network.run(0, [sys.executable, "-m", "shoal", "start-head", "--host", network.address(0)])

The addresses exist inside the namespaces only. Everything goes with the `with` block; a bridge in a namespace of its own
connects the hosts, so nothing of the machine's own network is touched.
"""

import itertools
import json
import os
import shutil
import subprocess
from typing import Self

_NUMBER = itertools.count(1)
_BURST = "512k"  # a bucket of some milliseconds at 1 Gbit/s: smaller ones lose rate to the kernel's timer


def unavailable() -> str:
    """Why no namespaces can be made here; "" if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for tool in ("ip", "tc"):
        if shutil.which(tool) is None:
            return f"there is no `{tool}` (iproute2)"
    name = f"shoal-probe-{os.getpid()}"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"network namespaces are not permitted: {probe.stderr.strip()}"
    _ip("netns", "del", name)
    return ""


class Network:
    """Some hosts, numbered from 0, that reach each other.

    Args:
        rate_mbit: of each host's link, in either direction.
    """

    def __init__(self, hosts: int, rate_mbit: int = 1000) -> None:
        self.hosts = hosts
        self._rate = f"{rate_mbit}mbit"
        self._name = f"sh{os.getpid() % 100_000}n{next(_NUMBER)}"
        self._made: list[str] = []

    def address(self, host: int) -> str:
        """The address of a host."""
        return f"10.87.5.{host + 1}"

    def namespace(self, host: int) -> str:
        """The name of a host's namespace."""
        return f"{self._name}h{host}"

    def command(self, host: int, argv: list[str]) -> list[str]:
        """What runs ``argv`` on a host."""
        return ["ip", "netns", "exec", self.namespace(host), *argv]

    def run(self, host: int, argv: list[str], timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a program on a host to its end; its output is in the result, also when it fails."""
        command = self.command(host, argv)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout_s)

    def traffic(self, host: int) -> tuple[int, int]:
        """(bytes received, bytes sent) by a host so far, headers included."""
        command = ["ip", "-n", self.namespace(host), "-s", "-j", "link", "show", "eth0"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        counters = json.loads(done.stdout)[0]["stats64"]
        return counters["rx"]["bytes"], counters["tx"]["bytes"]

    def cut(self, host: int) -> None:
        """Take a host off the network."""
        _ip("-n", self.namespace(host), "link", "set", "eth0", "down")

    def mend(self, host: int) -> None:
        """Put a host back on the network."""
        _ip("-n", self.namespace(host), "link", "set", "eth0", "up")

    def __enter__(self) -> Self:
        try:
            self._add(self._name)
            _ip("-n", self._name, "link", "add", "br0", "type", "bridge")
            _ip("-n", self._name, "link", "set", "br0", "up")
            for host in range(self.hosts):
                self._plug_in(host)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        while self._made:
            _ip("netns", "del", self._made.pop())

    def _add(self, name: str) -> None:
        _ip("netns", "add", name)
        self._made.append(name)
        _ip("-n", name, "link", "set", "lo", "up")

    def _plug_in(self, host: int) -> None:
        name, port = self.namespace(host), f"p{host}"
        self._add(name)
        peer = ("peer", "name", port, "netns", self._name)
        _ip("link", "add", "eth0", "netns", name, "type", "veth", *peer)
        _ip("-n", name, "addr", "add", f"{self.address(host)}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        _ip("-n", self._name, "link", "set", port, "master", "br0", "up")
        for namespace, device in ((name, "eth0"), (self._name, port)):
            shape = ("root", "tbf", "rate", self._rate, "burst", _BURST, "latency", "50ms")
            _run("tc", "-n", namespace, "qdisc", "add", "dev", device, *shape)


def _ip(*argv: str) -> None:
    _run("ip", *argv)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(argv)}: {done.stderr.strip()}")
