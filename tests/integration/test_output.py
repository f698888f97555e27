"""What workers print appears at the driver: whichever way it was printed, all of it, with its task's name."""

import os
import re
import subprocess
import sys
import textwrap

LINES = 100_000


def printed_by(body, cpus=2):
    """Run a driver with these tasks; (lines of its standard output, lines of its standard error)."""
    script = (
        "import ctypes, os, subprocess, sys\nimport shoal\n"
        f"shoal.init(num_cpus={cpus})\n{textwrap.dedent(body)}\nshoal.shutdown()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr.splitlines()


def without_pids(lines):
    return [re.sub(r" pid=\d+", "", line) for line in lines]


def test_every_way_to_print():
    out, err = printed_by(
        r"""
        @shoal.remote
        def python():
            print("one")
            print("two", file=sys.stderr)
            sys.stdout.write("no end")

        @shoal.remote
        def raw():
            os.write(1, b"raw \xff\n")
            os.write(2, b"raw error\n")
            libc = ctypes.CDLL(None)
            libc.puts(b"from C")
            libc.fflush(None)

        @shoal.remote
        def silent():
            pass

        @shoal.remote
        def children():
            subprocess.run(["sh", "-c", "echo child; (echo grandchild >&2)"], check=True)

        for function in (python, silent, raw, silent, children):
            shoal.get(function.remote())
        """,
        cpus=1,
    )
    assert without_pids(out) == [
        "(python) one",
        "(python) no end",
        r"(raw) raw \xff",
        "(raw) from C",
        "(children) child",
    ]
    assert without_pids(err) == ["(python) two", "(raw) raw error", "(children) grandchild"]


def test_last_words():
    out, _ = printed_by(
        """
        @shoal.remote(max_retries=0)
        def killed():
            print("last words of", os.getpid())
            os.kill(os.getpid(), 9)

        @shoal.remote(max_retries=0)
        def left():
            sys.stdout.write("left without an end of line")
            sys.stdout.flush()
            os._exit(3)

        for function in (killed, left):
            try:
                shoal.get(function.remote())
            except shoal.exceptions.WorkerCrashedError as error:
                # One write: print makes two, and what workers print may come between.
                sys.stdout.write("the driver heard of it\\n")
        """
    )
    said = [re.fullmatch(r"\(killed pid=(\d+)\) last words of (\d+)", line) for line in out]
    assert [match[1] == match[2] for match in said if match] == [True]
    assert "(left) left without an end of line" in without_pids(out)
    assert out.count("the driver heard of it") == 2


def test_100_000_lines_of_two_workers_arrive_in_order_and_none_is_lost():
    out, err = printed_by(
        f"""
        @shoal.remote
        def count(name):
            for number in range({LINES // 2}):
                print(name, number)

        shoal.get([count.remote("a"), count.remote("b")])
        """
    )
    assert err == []
    for name in "ab":
        own = [line.rpartition(f") {name} ")[2] for line in out if f") {name} " in line]
        assert own == [str(number) for number in range(LINES // 2)]


def test_what_many_workers_say_is_folded_and_counted(monkeypatch):
    monkeypatch.setenv("SHOAL_OUTPUT_FOLD_MS", "60000")
    out, _ = printed_by(
        """
        @shoal.remote
        def same(number, folder):
            print("the same")
            print("only", number)
            open(os.path.join(folder, str(number)), "w").close()
            while len(os.listdir(folder)) < 2:  # so that two workers print
                pass

        import tempfile
        with tempfile.TemporaryDirectory() as folder:
            shoal.get([same.remote(number, folder) for number in range(2)])
        """
    )
    out = without_pids(out)
    assert sorted(out) == ["(same) only 0", "(same) only 1", "(same) the same", "(same) the same"], out


def test_output_can_be_switched_off_and_is_in_the_logs(monkeypatch, tmp_path):
    script = """
import os, shoal
shoal.init(num_cpus=1, log_to_driver=False)

@shoal.remote
def f():
    print("quiet")
    return os.getpid()

pid = shoal.get(f.remote())
logs = os.path.join(shoal.get_runtime_context().get_session_dir(), "logs")
text = ""
while "quiet" not in text:
    path = os.path.join(logs, f"worker-{pid}.log")
    text = open(path).read() if os.path.exists(path) else ""
assert oct(os.stat(path).st_mode & 0o777) == "0o600"
print("it is in the log")
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr, done.returncode) == ("it is in the log\n", "", 0)
    assert os.listdir(tmp_path) == []
