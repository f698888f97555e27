"""joblib on the cluster: what scikit-learn and others run with `n_jobs` runs as tasks. Needs joblib.

    register_shoal()
    with joblib.parallel_config("shoal"):
        search.fit(rows, labels)

Batches of calls are tasks, as many at once as the cluster has CPUs; large arrays among their arguments are stored once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from joblib import register_parallel_backend
from joblib.parallel import ParallelBackendBase

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

NAME = "shoal"


def register_shoal() -> None:
    """Have joblib know the backend "shoal"."""
    register_parallel_backend(NAME, ShoalBackend)


def register_ray() -> None:
    """Have joblib know this backend as "ray", for scripts that say so."""
    register_parallel_backend("ray", ShoalBackend)


class ShoalBackend(ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs joblib's batches as tasks; begins a session if there is none."""

    supports_retrieve_callback = True
    default_n_jobs = -1

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.parallel: Any = None
        self._task: Any = None
        self._running: dict[Future[Any], Any] = {}

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """How many batches run at once: ``n_jobs``, or of a negative number all CPUs of the cluster but -1 - n_jobs."""
        from shoal.api import cluster_resources

        if n_jobs == 0:
            raise ValueError("n_jobs is 1 or more, or negative (-1: all CPUs of the cluster), not 0")
        cpus = max(1, int(cluster_resources().get("CPU", 1)))
        if n_jobs is None:
            return 1
        return n_jobs if n_jobs > 0 else max(1, cpus + 1 + n_jobs)

    def configure(self, n_jobs: int = 1, parallel: Any = None, **_settings: Any) -> int:
        """Of joblib: get ready for ``parallel``."""
        from shoal.api import remote

        self.parallel = parallel
        self._task = remote(_run)
        return self.effective_n_jobs(n_jobs)

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Future[Any]:
        """Of joblib: run a batch of calls, and ``callback`` when it has ended."""
        ref = self._task.remote(func)
        future: Future[Any] = ref.future()
        self._running[future] = ref
        future.add_done_callback(lambda ended: self._running.pop(ended, None))
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def apply_async(
        self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None
    ) -> Future[Any]:
        """`submit`, as older versions of joblib call it."""
        return self.submit(func, callback)

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Of joblib: the results of a batch, or its error."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Of joblib: a call has failed, and the rest is not wanted."""
        from shoal.api import cancel

        for ref in list(self._running.values()):
            cancel(ref)
        if ensure_ready:
            self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)


def _run(batch: Callable[[], Any]) -> Any:
    return batch()
