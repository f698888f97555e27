"""Large copies between memory that is there, in blocks.

How the C library copies depends on the length: up to about the size of a core's second cache by one instruction of the processor
that knows how much comes and fetches no line which it overwrites; beyond by loops, with or without the caches. On newer
processors (here a Zen 5) the first is the fastest also for what lies in memory: 100 MB in 4.4 ms instead of 5.4, and in 7.4
instead of 8.7 when both cores copy. So a large copy is made of blocks that are short enough; to call once for each would take
the GIL as often, and wait for it where another thread computes. One call of numpy for all blocks of an even number, and one for
the others, does the same: no two of a call are neighbours, which numpy would join. Several threads may share it (`parallel`).

On other processors the C library's last way is much faster than its first one, but it comes late to it: on an Intel Xeon, whose
third cache it takes to be all its own, from 190 MB on (200 MB in one piece: 17 ms, in blocks 30). So for the largest copies
both are measured.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeAlias

from shoal.lazynumpy import np
from shoal.parallel import Faster, Parallel

if TYPE_CHECKING:
    from numpy.typing import NDArray

Bytes: TypeAlias = "NDArray[np.uint8]"

BLOCK_BYTES = 512 * 1024  # 256 KiB: 4.65 ms, 960 KiB: 4.4, 1 MiB: 5.4
_PAIRS_MIN = 2  # pairs of blocks; below nothing is won
_WHOLE_BYTES_MIN = 128 * 1024**2
_WHOLE_GAIN = 1.1
_in_blocks, _whole = Parallel(), Parallel()
_wholes = Faster(_WHOLE_GAIN)


def copy_large(target: Bytes, source: Bytes) -> None:
    """``target[:] = source``: contiguous, of one length, in different memory. Releases the GIL."""
    size = source.size
    if size < _WHOLE_BYTES_MIN:
        _in_blocks.run(size, lambda start, end: copy_blocks(target[start:end], source[start:end]))
        return
    whole = _wholes.choose(size)
    began = time.perf_counter()
    if whole:
        _whole.run(size, lambda start, end: np.copyto(target[start:end], source[start:end]))
    else:
        _in_blocks.run(size, lambda start, end: copy_blocks(target[start:end], source[start:end]))
    _wholes.took(size, whole, began)


def copy_blocks(target: Bytes, source: Bytes) -> None:
    """The same, by this thread."""
    pairs = source.size // (2 * BLOCK_BYTES)
    done = 0
    if pairs >= _PAIRS_MIN:
        done = pairs * 2 * BLOCK_BYTES
        shape = (pairs, 2, BLOCK_BYTES)
        to, of = np.ndarray(shape, np.uint8, target), np.ndarray(shape, np.uint8, source)
        np.copyto(to[:, 0], of[:, 0])
        np.copyto(to[:, 1], of[:, 1])
    np.copyto(target[done:], source[done:])
