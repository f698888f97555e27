"""A drop-in for `multiprocessing.Pool`: `from shoal.util.multiprocessing import Pool`. Its processes are actors, anywhere."""

from multiprocessing import TimeoutError  # noqa: A004  the one that the standard library's Pool raises

from shoal.util.multiprocessing.pool import Pool
from shoal.util.multiprocessing.results import AsyncResult, IMapIterator

__all__ = ["AsyncResult", "IMapIterator", "Pool", "TimeoutError"]
