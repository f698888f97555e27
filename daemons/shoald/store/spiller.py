"""The threads that carry objects between the region and spill files: the shell of `spills`. Decides nothing.

Writers copy straight out of the mapped region and readers straight into it, with calls that release the GIL; so
the daemon's loop does not notice. Each directory has threads of its own, so that one that hangs stops no other; and reads
have others than writes: whoever waits for one does not wait for writes too. A result goes back to the core in the loop's
thread, as one event per effect.

Nothing is started or mapped before the first effect. What a thread raises is an event as well; what is no OSError is
logged with its traceback first. That a directory does not take what is written, and that it does again, is logged once each.

A directory that somebody has removed is made again before the next write; what was in it is lost, which its readers find out.
"""

from __future__ import annotations

import errno
import mmap
import os
import queue
import threading
import time
from typing import TYPE_CHECKING, Any

from shoal.store import proofs
from shoal.store.checksums import half, joined
from shoald.store.allocator import PAGE, round_up
from shoald.store.spilldirs import Damaged, Directory, directory
from shoald.store.spilleffects import Effect, Lend, Read, Remove, Rewrite, Sum, Write
from shoald.store.summing import Summing

if TYPE_CHECKING:
    from collections.abc import Callable

    from shoal.config import Config
    from shoald.node.options import NodeOptions
    from shoald.shell.loop import Loop
    from shoald.store.region import RegionFile
    from shoald.store.spills import Spills

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_JOIN_S = 2.0
_READ_ATTEMPTS = 5  # of errors that may pass; a file that is gone or damaged stays so
_READ_PAUSE_S = 0.1  # after the first; twice as long after each


def spill_directories(options: NodeOptions, node_id: str, session_dir: str) -> list[Directory]:
    """Where a daemon spills to; empty with `spilling` off. Options were checked by `check_url`."""
    if not options.config.spilling:
        return []
    urls = options.spilling_directories or (os.path.join(session_dir, "spill"),)
    return [directory(url, node_id[:16], options.config.spill_disk_used_max) for url in urls]


class Spiller:
    """Carries out what the core wants of the disks.

    Args:
        directories: as many as the core counts; `prepare` of each is called in a thread before its first use.
        on_error: told of what no disk should do: a text, and the exception.
        say: told what operators should know of the directories.
    """

    def __init__(
        self,
        loop: Loop,
        spills: Spills,
        region: RegionFile,
        directories: list[Directory],
        config: Config,
        on_error: Callable[[str, BaseException], None],
        say: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._spills = spills
        self._region = region
        self._directories = directories
        self._config = config
        self._on_error = on_error
        self._say = say
        # Directories that did not take what was last written there; used in the loop's thread.
        self._failing: set[int] = set()
        self._prepared: set[int] = set()
        self._preparing = [threading.Lock() for _ in directories]
        self._bytes: memoryview | None = None
        spills.locate = lambda number, file: directories[number].locate(file)
        spills.disks.names = [each.path for each in directories]
        self._writers = [_Lane("write", config.spill_writes_max) for _ in directories]
        self._readers = [_Lane("read", config.spill_reads_max) for _ in directories]

    def turn(self) -> None:
        """Hand the core's effects to the threads; at the end of each turn."""
        effects = self._spills.outbox
        if not effects:
            return
        self._spills.outbox = []
        if self._bytes is None:
            self._bytes = memoryview(mmap.mmap(self._region.write_fd, self._region.capacity))
        for effect in effects:
            lanes = self._readers if isinstance(effect, Read | Sum) else self._writers
            lanes[effect.directory].put(lambda effect=effect: self._carry_out(effect))  # type: ignore[misc]

    def prepare(self) -> None:
        """Make the directories and clean up there, in a thread."""
        for number in range(len(self._directories)):
            self._writers[number].put(lambda number=number: self._prepare_first(number))  # type: ignore[misc]

    def close(self) -> None:
        """End the threads after what they do now, and remove all files; waits for that some seconds at most.

        What hangs stays as it is: the next daemon there removes it.
        """
        deadline = time.monotonic() + _JOIN_S
        idle = [
            [lane.close(deadline) for lane in (self._writers[number], self._readers[number])]
            for number in range(len(self._directories))
        ]
        closing = [
            threading.Thread(target=each.close, name="shoal-spill-close", daemon=True)
            for each, ended in zip(self._directories, idle, strict=True)
            if all(ended)
        ]
        deadline = time.monotonic() + _JOIN_S
        for thread in closing:
            thread.start()
        for thread in closing:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _wrote(self, effect: Write, checksums: list[int], seconds: float, cached: bool) -> None:
        if effect.directory in self._failing:
            self._failing.discard(effect.directory)
            self._say(f"objects are spilled to {self._directories[effect.directory].path} again")
        self._spills.wrote(effect.file, checksums, seconds, cached)

    def _write_failed(self, effect: Write | Lend | Rewrite, full: bool, why: str) -> None:
        if effect.directory not in self._failing:
            self._failing.add(effect.directory)
            self._say(f"objects cannot be spilled to {why}")
        self._spills.write_failed(effect.file, full, why, self._loop.now())

    def _begins_badly(self, number: int, text: str) -> None:
        if number not in self._failing:
            self._failing.add(number)
            self._say(text)

    # --- in threads ---

    def _carry_out(self, effect: Effect) -> None:
        try:
            event = self._event_of(effect)
        except Exception as error:  # noqa: BLE001 - the core has to hear of everything that was tried
            fault = error
            self._loop.call_soon_threadsafe(lambda: self._on_error(f"at {effect}", fault))
            event = self._failure(effect, error)
        if event is not None:
            self._loop.call_soon_threadsafe(event)

    def _event_of(self, effect: Effect) -> Callable[[], None] | None:
        needs_none = isinstance(effect, Read | Sum | Remove)
        try:
            try:
                return self._try(effect, anew=not needs_none)
            except FileNotFoundError:
                if needs_none or not self._directories[effect.directory].is_gone():
                    raise
                return self._try(effect, anew=True)  # somebody has removed it just now
        except (OSError, Damaged) as error:
            return self._failure(effect, error)

    def _try(self, effect: Effect, anew: bool) -> Callable[[], None] | None:
        """Carry an effect out; its event. ``anew``: its directory is made again, if it is gone. Raises OSError and Damaged."""
        problem = self._prepare(effect.directory, anew)
        if problem is not None:
            raise problem
        started = time.monotonic()
        if isinstance(effect, Write):
            checksums, cached = self._write(effect)
            seconds = time.monotonic() - started
            return lambda: self._wrote(effect, checksums, seconds, cached)
        if isinstance(effect, Read):
            self._read(effect)
            seconds = time.monotonic() - started
            return lambda: self._spills.read_done(effect.transfer, seconds)
        if isinstance(effect, Lend):
            self._directories[effect.directory].make(effect.file, effect.size, effect.over)
            return lambda: self._spills.made(effect.file, effect.directory)
        if isinstance(effect, Sum):
            path = self._directories[effect.directory].locate(effect.file)
            checksum = proofs.sum_of(path, effect.size, effect.proof)
            return lambda: self._spills.summed(effect.file, checksum)
        if isinstance(effect, Rewrite):
            intact = self._rewrite(effect)
            return lambda: self._spills.rewrote(effect.file, intact)
        self._directories[effect.directory].remove(effect.file, effect.emptied)
        return None

    def _failure(self, effect: Effect, error: Exception) -> Callable[[], None] | None:
        where = self._directories[effect.directory].path
        if isinstance(error, OSError):
            where = str(error.filename or where) if isinstance(effect, Read) else where
            why = f"{where}: {error.strerror or error}"
        else:
            why = str(error)
        if isinstance(effect, Read):
            return lambda: self._spills.read_failed(effect.transfer, f"that cannot be read: {why}")
        if isinstance(effect, Sum):
            return lambda: self._spills.sum_failed(effect.file, self._loop.now())
        if isinstance(effect, Remove):
            return None  # it goes with the directory, at the latest
        full = isinstance(error, OSError) and error.errno in _FULL
        return lambda: self._write_failed(effect, full, why)

    def _prepare_first(self, number: int) -> None:
        problem = self._prepare(number)
        if problem is not None:
            text = f"objects cannot be spilled to {self._directories[number].path}: {problem.strerror or problem}"
            self._loop.call_soon_threadsafe(lambda: self._begins_badly(number, text))

    def _prepare(self, number: int, anew: bool = False) -> OSError | None:
        """Make a directory, unless that was done; ``anew``: also if it is gone. Why it could not be made, or None."""
        with self._preparing[number]:
            if anew and number in self._prepared and self._directories[number].is_gone():
                self._prepared.discard(number)
                text = (
                    f"somebody has removed {self._directories[number].path}: what was spilled there is lost"
                )
                self._loop.call_soon_threadsafe(lambda: self._say(text))
            if number not in self._prepared:
                try:
                    self._directories[number].prepare()
                    self._prepared.add(number)
                except OSError as error:
                    return error  # tried again with the next effect
            return None

    def _write(self, effect: Write) -> tuple[list[int], bool]:
        region = self._bytes
        assert region is not None
        # An object's extent is its alone to the next multiple of 64, and so is its part of the file.
        sizes = [round_up(size) for _, size in effect.parts]
        parts = [region[at : at + size] for (at, _), size in zip(effect.parts, sizes, strict=True)]
        summing = Summing([region[at : at + size] for at, size in effect.parts], sizes)
        aligned = len(parts) == 1 and effect.parts[0][0] % PAGE == 0
        where = self._directories[effect.directory]
        cached = where.write(effect.file, parts, summing.add, aligned, effect.over)
        return summing.sums, cached

    def _read(self, effect: Read) -> None:
        region = self._bytes
        assert region is not None
        into = region[effect.target : effect.target + effect.size]
        checksum = self._read_into(
            effect.directory, effect.file, effect.offset, into, effect.target % PAGE == 0
        )
        where = self._directories[effect.directory]
        if effect.proof >= 0:
            if checksum != effect.proof:
                raise Damaged(
                    f"file {effect.file} in {where.path} is damaged (its checksum is not what it was)"
                )
        elif not proofs.fits(effect.proof, into, where.locate(effect.file)):
            raise Damaged(
                f"file {effect.file} in {where.path} is damaged (it was changed after it had been written)"
            )

    def _read_into(
        self, directory: int, file: int, offset: int, into: memoryview, aligned: bool = False
    ) -> int:
        """Fill ``into``; the checksum of what was read. The second half of something large may be read by another thread."""
        middle = half(len(into))
        if not middle:
            return self._read_run(directory, file, offset, into, aligned)
        second = _Shared(lambda: self._read_run(directory, file, offset + middle, into[middle:], aligned))
        self._readers[directory].put(second.run)
        try:
            first = self._read_run(directory, file, offset, into[:middle], aligned)
        except BaseException:
            second.cancel()
            raise
        return joined(first, second.result())

    def _read_run(self, directory: int, file: int, offset: int, into: memoryview, aligned: bool) -> int:
        for attempt in range(_READ_ATTEMPTS):
            summing = Summing([into], [round_up(len(into))], whole=True)
            try:
                self._directories[directory].read(file, offset, into, summing.add, aligned)
                summing.add(round_up(len(into)) - len(into))
                break
            except FileNotFoundError:
                raise
            except OSError:
                if attempt == _READ_ATTEMPTS - 1:
                    raise
                time.sleep(_READ_PAUSE_S * 2**attempt)
        return summing.sums[0]

    def _rewrite(self, effect: Rewrite) -> list[bool]:
        parts = []
        intact = []
        for offset, size, checksum in effect.parts:
            padded = memoryview(bytearray(round_up(size)))
            parts.append(padded)
            try:
                found = self._read_into(effect.directory, effect.source, offset, padded[:size])
            except (OSError, Damaged):
                intact.append(False)
            else:
                intact.append(found == checksum)
        self._directories[effect.directory].write(effect.file, parts, lambda _count: None)
        return intact


class _Shared:
    """Work that another thread does, if one comes to it before its result is wanted."""

    def __init__(self, work: Callable[[], int]) -> None:
        self._work = work
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._is_begun = False
        self._result = 0
        self._error: BaseException | None = None

    def _begins(self) -> bool:
        with self._lock:
            begun, self._is_begun = self._is_begun, True
        return not begun

    def run(self) -> None:
        """Do it, unless somebody else does or has."""
        if not self._begins():
            return
        try:
            self._result = self._work()
        except BaseException as error:  # noqa: BLE001 - it is raised by whoever wants the result
            self._error = error
        self._ended.set()

    def result(self) -> int:
        """Its result, when it is there. Raises what the work raised."""
        self.run()
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._result

    def cancel(self) -> None:
        """Nobody does it any more when this returns."""
        if not self._begins():
            self._ended.wait()


class _Lane:
    """A queue of jobs and the threads for it, started as they are needed."""

    def __init__(self, name: str, threads_max: int) -> None:
        self._name = name
        self._threads_max = max(1, threads_max)
        self._jobs: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._busy = 0
        self._is_closed = False
        self._lock = threading.Lock()

    def put(self, job: Callable[[], object]) -> None:
        """Have a thread do this; after `close` nobody does."""
        with self._lock:
            if self._is_closed:
                return
            self._busy += 1
            if self._busy > len(self._threads) and len(self._threads) < self._threads_max:
                thread = threading.Thread(target=self._run, name=f"shoal-spill-{self._name}", daemon=True)
                self._threads.append(thread)
                thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
            with self._lock:
                self._busy -= 1

    def close(self, deadline: float) -> bool:
        """Whether its threads have ended by the deadline."""
        with self._lock:
            self._is_closed = True
        try:
            while True:
                self._jobs.get_nowait()
        except queue.Empty:
            pass  # what was not begun needs not be done any more
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)
