"""What drivers held goes when they do, in order or not; what others hold stays."""

import subprocess
import sys

import numpy as np
import pytest

import shoal
from ledger import bytes_of_objects, everything_came_back
from marks import until
from shoal.testing import Cluster

SCRIPT = """
import sys, numpy as np, shoal
shoal.init(sys.argv[1])

@shoal.remote
def make():
    return np.ones(50_000)

@shoal.remote
def wrap(refs):
    return [refs[0], np.ones(50_000)]

mine = shoal.put(np.ones(50_000))
held = [mine, make.remote(), shoal.put([mine]), wrap.remote([mine]), wrap.remote([make.remote()])]
views = shoal.get(held)
inner = shoal.get(views[4][0])
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def address(module_leaves_nothing):
    with Cluster(num_cpus=4) as cluster:
        yield cluster.address


@pytest.fixture
def shoal_session(address):
    """This driver, on a cluster that others join."""
    shoal.init(address)
    yield shoal
    shoal.shutdown()


@pytest.mark.parametrize("end", ["leaves", "killed"])
def test_a_driver_goes_and_all_that_it_held(shoal_session, end):
    mine = shoal.put(np.full(50_000, 2.0))
    driver = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, shoal_session.get_runtime_context().gcs_address],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert driver.stdout.readline() == "ready\n"
        assert bytes_of_objects() > 3 * 400_000
        if end == "killed":
            driver.kill()
        else:
            driver.stdin.close()
        driver.wait()
    finally:
        if driver.poll() is None:
            driver.kill()
            driver.wait()
        driver.stdin.close()
        driver.stdout.close()
    until(lambda: bytes_of_objects() == 400_128)
    assert shoal.get(mine).sum() == 100_000
    del mine
    everything_came_back()
