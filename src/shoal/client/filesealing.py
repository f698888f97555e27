"""Values that this process writes to files that the daemon lends, because the store has no room for them.

The daemon lends one at once when it is large, and else when it was refused room. The file is written by a thread of its own
(`FileWrite`), since its file system may hang: then another directory's is tried.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from shoal.client.interrupts import Interruptible, nothing
from shoal.client.roomwaits import waiting_for_room
from shoal.exceptions import ObjectStoreFullError, OutOfDiskError
from shoal.sizes import bytes_text
from shoal.store.filewrites import FileWrite
from shoal.wire import messages as m

if TYPE_CHECKING:
    from collections.abc import Iterator

    from shoal.client.node import NodeLink
    from shoal.client.runtime import Runtime
    from shoal.serialization import Serialized


class RatherAFileError(ObjectStoreFullError):
    """No room comes free for now, and a file can be had at once.

    Attributes:
        lent: FILE_LENT, if there is one already.
    """

    def __init__(self, message: str, lent: list[Any] | None = None) -> None:
        super().__init__(message)
        self.lent = lent


class FileSealer:
    """Writes values to lent files and tells the daemon."""

    def __init__(self, runtime: Runtime, node: NodeLink) -> None:
        self._runtime = runtime
        self._node = node
        self._table = runtime.table

    def seal(self, object_id: bytes, value: Serialized, rest: list[Any], full: ObjectStoreFullError) -> None:
        """The last resort of `ClientStore.seal`. Raises ``full`` if the daemon lends no file, or OutOfDiskError.

        ``rest``: what SEAL_IN_FILE ends with.
        """
        stalled: list[str] = []
        proof: int | None = None
        lent = full.lent if isinstance(full, RatherAFileError) else None
        while proof is None:
            message = lent or self._lent_file(value.size, full, stalled)
            lent = None
            proof = self._write_file(message, value, full)
            if proof is None:
                patience_s = self._runtime.config.spill_write_ms_max / 1000
                stalled.append(
                    f"{message[3]} has taken nothing for {patience_s:g} s (does its file system hang?)"
                )
        with self._runtime.lock:
            self._table.to_node([m.SEAL_IN_FILE, message[2], proof, object_id, value.size, *rest])

    def lent(self, message: list[Any]) -> None:
        """FILE_LENT: a file to write an object into."""
        if not self._node.answered(message[1], message):
            self.give_back(message)

    @contextmanager
    def given_back(self, full: ObjectStoreFullError) -> Iterator[None]:
        """If the block raises, nobody will use the file that was lent with this refusal."""
        try:
            yield
        except BaseException:
            if isinstance(full, RatherAFileError) and full.lent is not None:
                with self._runtime.lock:
                    self.give_back(full.lent)
            raise

    def give_back(self, lent: list[Any]) -> None:
        """A lent file is not wanted (lock held)."""
        self._table.to_node([m.FILE_RETURN, lent[2]])

    def _lent_file(self, size: int, full: ObjectStoreFullError, stalled: list[str]) -> list[Any]:
        """FILE_LENT: a file for so many bytes. ``stalled``: what there is to say of those that were tried before."""
        runtime = self._runtime
        if len(stalled) >= runtime.config.spill_write_tries_max:
            raise OutOfDiskError(f"{full.message} {'; '.join(stalled)}")
        with runtime.lock:
            number, answer = self._node.ask()
            self._table.to_node([m.ALLOC_FILE, number, size])
        try:
            with waiting_for_room(runtime, f"a spill file for {bytes_text(size)}") as wait:
                wait(answer)
        except BaseException:
            with runtime.lock:
                if not self._node.forget(number) and answer.message[:1] == [m.FILE_LENT]:
                    self.give_back(answer.message)
            raise
        message = answer.message
        if not message:
            raise runtime.connection_lost()
        if message[0] == m.ALLOC_FAILED:
            if message[2] != "disk" and not stalled:
                raise full
            raise OutOfDiskError("; ".join([f"{full.message} {message[3]}", *stalled]))
        return message

    def _write_file(self, lent: list[Any], value: Serialized, full: ObjectStoreFullError) -> int | None:
        """Write a value to a lent file; the proof, or None if the file system hangs. Raises OutOfDiskError.

        A file whose write has not ended is returned when that has.
        """
        runtime = self._runtime
        _, _, number, path = lent

        def give_back() -> None:
            with runtime.lock:
                self.give_back(lent)

        patience_ms = runtime.config.spill_write_ms_max
        writing: FileWrite | None = None
        try:
            with Interruptible(nothing):  # a signal while a thread starts would leave the file to it
                writing = FileWrite(path, value, runtime.config.spill_sum_after_ms > 0)
            with waiting_for_room(runtime, f"{bytes_text(value.size)} to be written to {path}"):
                ended = writing.wait(patience_ms / 1000)
        except BaseException:
            if writing is None:  # also if there is no thread to be had
                give_back()
            else:
                writing.then(give_back)
            raise
        if not ended:
            with runtime.lock:
                self._table.to_node([m.FILE_STALLED, number, int(patience_ms)])
            writing.then(give_back)
            return None
        if writing.error is None:
            return writing.proof
        give_back()
        if isinstance(writing.error, OSError):
            raise OutOfDiskError(f"{full.message} {path}: {writing.error.strerror}") from writing.error
        raise writing.error
