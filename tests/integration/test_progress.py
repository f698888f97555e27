"""Progress bars on a terminal of their own, with all that scripts and workers print at the same time."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

from terminal import PYTHON, Terminal, on_terminal

DOCS = Path(__file__).resolve().parents[2] / "docs"
PRELUDE = """
import os, sys, time
import shoal
from shoal.util.progress import progress, tqdm, trange
shoal.init(num_cpus=2)
"""


def frames(written):
    """What was on the terminal after each drawing."""
    terminal = Terminal(columns=100)
    for piece in re.split(r"(?<=\x1b\[J)", written):
        terminal.write(piece)
        yield terminal.lines


def run(tmp_path, source):
    """(lines at the end, frames) of a script on a terminal of 100 columns."""
    script = tmp_path / "script.py"
    script.write_text(PRELUDE + textwrap.dedent(source))
    status, written = on_terminal([PYTHON, str(script)], columns=100)
    seen = list(frames(written))
    assert status == 0, "\n".join(seen[-1])
    return seen[-1], seen


def without_times(lines):
    return [
        re.sub(r"\d\d:\d\d|pid=\d+|[\d.]+(?=(task|it|step)/s)|[\d.]+s/\w+|[█▏▎▍▌▋▊▉]+", "_", line)
        for line in lines
    ]


def test_refs_of_all_kinds_and_failed_ones(tmp_path):
    lines, seen = run(
        tmp_path,
        """
        @shoal.remote
        def work(number):
            time.sleep(0.02)
            if number % 10 == 3:
                raise ValueError(number)
            if number % 10 == 5:
                print("number", number)
            return number

        refs = [work.remote(number) for number in range(30)]
        value = {"some": refs[:10], "others": (refs[10:20], {refs[20]}), "more": [refs[20:], shoal.put(5)]}
        assert progress(value, desc="works") is value
        print("after it")
        assert shoal.get(refs[:3]) == [0, 1, 2]
        """,
    )
    printed = [line for line in lines if "pid=" in line]
    assert [line.partition(") ")[2] for line in printed] == ["number 5", "number 15", "number 25"]
    rest = without_times(line for line in lines if line not in printed)
    assert rest == ["works: 100%|_| 31/31 [_, _task/s, 3 failed]", "after it"]
    assert any(re.search(r"works: +\d\d?%\|.*\| (\d|1\d)/31 .*<", lines[-1]) for lines in seen if lines), (
        "it was seen to grow"
    )


def test_bars_of_tasks_and_of_the_script(tmp_path):
    lines, seen = run(
        tmp_path,
        """
        @shoal.remote
        def work(name, bar):
            for number in tqdm(range(12), desc=name, unit="step"):
                time.sleep(0.04)
                bar.update()
                if number == 5:
                    print("half", end="")
                if number == 9:
                    print(" of", name)

        with tqdm(total=24, desc="both") as bar:
            refs = [work.remote(name, bar) for name in ("first", "second")]
            for number in range(4):
                print("script", number)
                time.sleep(0.1)
            shoal.get(refs)
        for _ in trange(3, desc="own"):
            print("quick")
        """,
    )
    ends = without_times(line for line in lines if "%" in line)
    assert ends == ["both: 100%|_| 24/24 [_, _it/s]", "own: 100%|_| 3/3 [_, _it/s]"]
    texts = [line for line in lines if "%" not in line]
    assert sorted(without_times(texts)) == [
        "(work _) half of first", "(work _) half of second", "quick", "quick", "quick",
        "script 0", "script 1", "script 2", "script 3",
    ]  # fmt: skip
    together = [lines[-3:] for lines in seen if sum("%" in line for line in lines[-3:]) == 3]
    assert any(
        sorted(line.split(":")[0].split(") ")[-1] for line in bars) == ["both", "first", "second"]
        for bars in together
    )


def test_bars_of_actors_of_nested_waits_and_of_workers_that_die(tmp_path):
    lines, seen = run(
        tmp_path,
        """
        @shoal.remote
        class Trainer:
            def train(self):
                return sum(tqdm([1, 2, 3], desc="epochs", leave=True))

        @shoal.remote
        def double(number):
            return 2 * number

        @shoal.remote
        def outer():
            return sum(shoal.get(progress([double.remote(number) for number in range(4)], desc="nested", leave=True)))

        @shoal.remote(max_retries=0)
        def die():
            bar = tqdm(total=10, desc="doomed", leave=True)
            bar.update(3)
            bar.refresh()
            time.sleep(0.2)
            os._exit(1)

        print(shoal.get([Trainer.remote().train.remote(), outer.remote()]))
        shoal.wait([die.remote()])
        while sys.stdout is not sys.__stdout__:  # as long as there is a bar
            time.sleep(0.01)
        """,
    )
    assert sorted(without_times(lines)) == [
        "(Trainer.train _) epochs: 100%|_| 3/3 [_, _it/s]", "(outer _) nested: 100%|_| 4/4 [_, _task/s]", "[6, 12]"
    ]  # fmt: skip
    assert any("doomed:  30%" in line for lines in seen for line in lines)


def test_where_no_terminal_is_a_line_is_printed_seldom(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        PRELUDE
        + textwrap.dedent("""
        progress(shoal.remote(time.sleep).remote(0.05), desc="short")
        progress([shoal.remote(time.sleep).remote(0.3) for _ in range(10)], desc="long")
    """)
    )
    environment = {**os.environ, "SHOAL_PROGRESS_LINE_S": "1"}
    done = subprocess.run(
        [PYTHON, script], capture_output=True, text=True, timeout=60, check=True, env=environment
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert 1 <= len(lines) <= 4, lines
    assert all(re.fullmatch(r"long: +\d+% \d+/10 \[.*\]", line) for line in lines), lines
    assert lines[-1].startswith("long: 100% 10/10 [")


def test_the_example_of_the_docs(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "progress.md").read_text(), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(code)
    status, written = on_terminal([PYTHON, str(script)], columns=100)
    lines = list(frames(written))[-1]
    assert status == 0, lines
    assert without_times(lines) == [
        "parts: 100%|_| 10/10 [_, _task/s]", "45", "all steps: 100%|_| 200/200 [_, _it/s]"
    ]  # fmt: skip
