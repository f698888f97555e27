"""The bar object in one process: what it would report. (Bars on terminals: tests/integration/test_progress.py.)"""

import copy
import gc
import pickle
import threading

import numpy as np
import pytest

from shoal.client.screen import screen
from shoal.util import progress as module
from shoal.util.progress import tqdm, trange
from shoal.wire.barlines import CLOSED, NUMBER_MAX, Report, decode, encode


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Nothing is drawn; reports are taken by `said`."""
    monkeypatch.setattr(screen, "begin", lambda _collect: None)
    monkeypatch.setattr(screen, "draw", lambda: False)
    yield
    module._reporter.collect()


def said():
    return [
        (report.n, report.total, report.desc, report.postfix, report.state)
        for report in module._reporter.collect()
    ]


def test_updates_are_seen_once():
    bar = tqdm(total=5, desc="some", unit="row")
    assert said() == [(0, 5, "some", "", "open")]
    assert said() == []
    bar.update()
    bar.update(2)
    bar.update(0)
    bar.set_description("other")
    bar.set_postfix(loss=0.12345, step=3)
    assert said() == [(3, 5, "other", "loss=0.123, step=3", "open")]
    bar.n, bar.total = 1, 2
    bar.set_postfix_str("done")
    assert said() == [(1, 2, "other", "done", "open")]
    bar.reset(total=9)
    bar.close()
    bar.close()
    assert said() == [(0, 9, "other", "done", CLOSED)]
    assert said() == []


def test_iteration_counts_and_closes():
    bar = trange(3)
    assert len(bar) == 3
    for number in bar:
        assert bar.n == number
    assert said() == [(3, 3, "", "", CLOSED)]
    generated = tqdm(number for number in range(2))
    assert list(generated) == [0, 1]
    assert said() == [(2, None, "", "", CLOSED)]
    for _ in tqdm([1, 2, 3]):
        break
    gc.collect()
    assert said() == [(0, 3, "", "", CLOSED)]
    with pytest.raises(TypeError, match="nothing to iterate"):
        list(tqdm(total=3))
    said()


def test_a_bar_that_nobody_has_any_more_is_closed():
    bar = tqdm(total=3)
    bar.update()
    said()
    del bar
    assert said() == [(1, 3, "", "", CLOSED)]


def test_disabled():
    bar = tqdm([1, 2], disable=True)
    assert list(bar) == [1, 2]
    assert bar.n == 2
    bar.refresh()
    bar.close()
    assert said() == []
    pickle.loads(pickle.dumps(bar)).update()
    assert said() == []


def test_a_bar_that_comes_back_is_the_same():
    bar = tqdm()  # nor does it wait at its end for what others may have counted
    assert pickle.loads(pickle.dumps(bar)) is bar
    assert copy.copy(bar) is bar
    bar.close()


def test_a_bar_of_another_process_goes_on_counting_where_it_was():
    sent = pickle.dumps(tqdm(total=10))  # and the bar itself has gone, as if it had never been here
    said()
    for total in (2, 4):
        bar = pickle.loads(sent)
        bar.update()
        bar.update()
        (report,) = module._reporter.collect()
        assert (report.n, report.state) == (total, "open")
        assert report.reporter != report.bar
        del bar
        assert said() == [], "what its tasks add comes without an end: it is not theirs to close"


def test_progress_takes_nothing_but_refs():
    with pytest.raises(TypeError, match="ObjectRefs"):
        module.progress([5])
    assert module.progress([]) == []


def test_counts_and_texts_of_any_kind_can_be_sent():
    class Text:
        def __str__(self):
            return "shown"

    bar = tqdm(total=np.int64(5), desc=Text(), initial=np.int32(1))
    bar.update(np.ones(3, bool).sum())
    [report] = module._reporter.collect()
    assert decode(encode(report)) == report
    assert (report.n, report.total, report.desc, report.initial) == (4, 5, "shown", 1)
    bar.update(np.float32(0.5))
    bar.total = 10**400
    assert said() == [(4.5, NUMBER_MAX, "shown", "", "open")]
    bar.n = float("nan")
    assert said() == [(NUMBER_MAX, NUMBER_MAX, "shown", "", "open")]
    bar.close()


@pytest.mark.parametrize("where", ["made here", "sent here"])
def test_who_makes_a_bar_does_not_keep_the_screen_from_asking(monkeypatch, where):
    """The screen asks with its lock held, which a new bar wants too: one must not be waited for with the other."""
    entered, release, made = threading.Event(), threading.Event(), []
    report = Report("f" * 16, "f" * 16, 0, 10)

    def begin(*_collect):
        entered.set()
        assert release.wait(60)

    def make():
        made.append(tqdm(total=1) if where == "made here" else module._joined(report, False))

    monkeypatch.setattr(screen, "begin", begin)
    thread = threading.Thread(target=make)
    thread.start()
    assert entered.wait(60)
    free = module._reporter._lock.acquire(timeout=30)
    release.set()
    thread.join()
    assert free
    module._reporter._lock.release()
    made[0].close()
