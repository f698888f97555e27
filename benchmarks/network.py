"""Objects over real links: a head and four nodes in network namespaces, joined by links of 1 Gbit/s. Needs root and iproute2.

    python benchmarks/network.py

Prints what one object of 512 MiB takes from one node to another, against a plain TCP connection over the same links in the same
run, and what a broadcast to four nodes takes against one transfer. Bars: 90 % of the link, and 1.5 times one transfer.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from netns import Network, unavailable

NODES = 5  # a source, and four to broadcast to
SIZE = 512 * 1024**2
ROUNDS = 3
LISTEN = """
import socket, sys, time
listener = socket.create_server((sys.argv[1], 5001))
print("ready", flush=True)
sock, _ = listener.accept()
buffer, received, start = bytearray(1 << 20), 0, time.perf_counter()
while count := sock.recv_into(buffer):
    received += count
print(received / (time.perf_counter() - start), flush=True)
"""
SEND = """
import socket, sys
sock = socket.create_connection((sys.argv[1], 5001))
data = bytes(1 << 20)
for _ in range(int(sys.argv[2]) >> 20):
    sock.sendall(data)
"""
DRIVER = """
import json, time
import numpy as np
import shoal

shoal.init("auto")

@shoal.remote
def make(size, seed):
    array = np.zeros(size, np.uint8)
    array[:8] = seed
    return array

@shoal.remote
def first(array):
    return int(array[0])

def at(number):
    return {"resources": {f"n{number}": 0.001}, "num_cpus": 0.01}

def timed(targets, seed):
    made = make.options(**at(1)).remote(SIZE, seed)
    shoal.wait([made], fetch_local=False)
    start = time.perf_counter()
    assert shoal.get([first.options(**at(number)).remote(made) for number in targets]) == [seed] * len(targets)
    return time.perf_counter() - start

for number in (1, 2, 3, 4, 5):
    shoal.get(first.options(**at(number)).remote(np.zeros(8, np.uint8)))
one = [timed([2], seed) for seed in range(ROUNDS)]
four = [timed([2, 3, 4, 5], seed) for seed in range(ROUNDS)]
print(json.dumps([one, four]))
"""


def link_rate(network: Network) -> float:
    """Bytes a second of one plain TCP connection between two hosts."""
    address = network.address(2)
    listener = subprocess.Popen(
        network.command(2, [sys.executable, "-c", LISTEN, address]), stdout=subprocess.PIPE, text=True
    )
    assert listener.stdout is not None
    listener.stdout.readline()
    network.run(1, [sys.executable, "-c", SEND, address, str(SIZE // 2)])
    return float(listener.communicate()[0])


def start(network: Network, directory: str) -> None:
    """The head on host 0, and nodes on the others."""
    join = os.path.join(directory, "join")
    shoal(network, directory, 0, "start-head", "--host", network.address(0), "--num-cpus", "0")
    Path(join).write_text(shoal(network, directory, 0, "join-string"))
    for host in range(1, NODES + 1):
        resources = f"n{host}=1"
        options = ("--num-cpus", "1", "--object-store-memory", str(3 * SIZE), "--resources", resources)
        shoal(network, directory, host, "start-node", "--join", join, *options)


def shoal(network: Network, directory: str, host: int, *argv: str) -> str:
    """Run the command line on a host; what it prints."""
    temp_dir = os.path.join(directory, f"h{host}")
    os.makedirs(temp_dir, exist_ok=True)
    done = network.run(host, [sys.executable, "-m", "shoal", *argv, "--temp-dir", temp_dir])
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    return done.stdout


def measure(network: Network, directory: str) -> tuple[float, float]:
    """Seconds of one transfer, and of a broadcast to four nodes: medians."""
    script = textwrap.dedent(DRIVER).replace("SIZE", str(SIZE)).replace("ROUNDS", str(ROUNDS))
    command = ["env", f"TMPDIR={directory}/h1", sys.executable, "-c", script]
    done = network.run(1, command, timeout_s=300)
    if done.returncode:
        raise RuntimeError(done.stderr)
    one, four = json.loads(done.stdout.splitlines()[-1])
    return statistics.median(one), statistics.median(four)


def main() -> int:
    """Print the figures; the exit status is 2 where namespaces cannot be made."""
    reason = unavailable()
    if reason:
        print(reason, file=sys.stderr)
        return 2
    with Network(NODES + 1) as network, tempfile.TemporaryDirectory() as directory:
        link = statistics.median(link_rate(network) for _ in range(ROUNDS))
        print(f"link, one TCP connection: {link / 1e6:.1f} MB/s", flush=True)
        try:
            start(network, directory)
            time.sleep(1)
            one, four = measure(network, directory)
        finally:
            for host in range(NODES, -1, -1):
                if os.path.isdir(os.path.join(directory, f"h{host}")):
                    shoal(network, directory, host, "stop")
    rate = SIZE / one
    print(f"512 MiB to another node: {one:.2f} s, {rate / 1e6:.1f} MB/s, {rate / link:.0%} of the link")
    print(f"512 MiB to four nodes: {four:.2f} s, {four / one:.2f} times one transfer")
    return 0


if __name__ == "__main__":
    sys.exit(main())
