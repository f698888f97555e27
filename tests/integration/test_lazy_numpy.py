"""A driver without arrays has no numpy; one that gets or makes an array later has it as from the start."""

import subprocess
import sys
import textwrap

import pytest


def run(script):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


START = """
import sys
import shoal
shoal.init(num_cpus=1)

@shoal.remote
def same(value):
    return value

@shoal.remote
def sums(ones, label, refs=()):
    return label, int(ones.sum()), len(refs)

@shoal.remote
def make(count):
    import numpy
    return numpy.ones(count)

ref = shoal.put({"a": [1, "b"]})
assert shoal.get(same.remote(ref)) == {"a": [1, "b"]}
assert shoal.get(same.remote(7)) == 7
assert shoal.get(same.remote({1: {2: (3,)}})) == {1: {2: (3,)}}
assert "numpy" not in sys.modules
"""


@pytest.mark.parametrize(
    "begin", ["import numpy; shoal.init(num_cpus=1)", "shoal.init(num_cpus=1); import numpy"]
)
def test_a_file_of_the_users_that_is_called_numpy_is_named(tmp_path, begin):
    (tmp_path / "numpy.py").write_text("X = 1\n")
    script = f"""
    import sys
    import shoal
    sys.path.insert(0, {str(tmp_path)!r})
    try:
        {begin}
        shoal.put({{(1,): object()}})
    except ImportError as error:
        print(*str(error).split())
    """
    assert run(script) == f"{tmp_path}/numpy.py is not numpy: give that file another name".split()


@pytest.mark.parametrize("count", [10, 100_000])
def test_arrays_come_back_read_only_to_a_driver_that_had_none(count):
    assert run(
        f"{START}\nvalue = shoal.get(make.remote({count}))\nprint(value.sum(), value.flags.writeable)"
    ) == [
        f"{count:.1f}",
        "False",
    ]


@pytest.mark.parametrize("count", [10, 5_000, 100_000])
def test_arrays_that_are_made_later_are_arguments_and_values(count):
    script = f"""
    import numpy as np
    array = np.ones({count})
    assert shoal.get(sums.remote(array, ref, refs=[ref])) == ({{"a": [1, "b"]}}, {count}, 1)
    for value in (shoal.get(same.remote(array)), shoal.get(shoal.put([array, array]))[1]):
        print(int(value.sum()), value.flags.writeable)
    """
    assert run(START + textwrap.dedent(script)) == [f"{count}", "False"] * 2


def test_the_first_array_that_is_put_is_stored_once_and_read_in_place():
    script = """
    import numpy as np
    array = np.ones(1_000_000)
    first, second = shoal.get([shoal.put(array)] * 2)
    print(first.ctypes.data == second.ctypes.data)
    rows = shoal.get(shoal.put([np.arange(3)] + [np.arange(k % 7) for k in range(200)]))
    print(len(rows), rows[0].flags.writeable, rows[1].base is not None)
    """
    assert run(START + textwrap.dedent(script)) == ["True", "201", "False", "True"]
