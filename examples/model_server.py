"""How fast does one model answer many clients, when an actor keeps it in memory and answers in batches?

A forest fitted to scikit-learn's digits (1,797 pictures of 8 × 8 pixels) is loaded once per server. A server is an
async actor: requests that arrive while it is busy are answered together, by one call of the model. Clients are tasks that
ask one picture at a time. Latency, throughput and the size of the batches are printed.

    pip install 'shoal[examples]'
    python examples/model_server.py
"""

import asyncio
import time
from typing import Any

import numpy as np
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

import shoal

SERVERS = 2
CLIENTS = 4
REQUESTS = 150  # of each client
TREES = 50
BATCH_MAX = 64


def fit() -> tuple[RandomForestClassifier, np.ndarray, np.ndarray]:
    """The model, and what it has not seen: pixels, float64 of shape (n, 64) from 0 to 16, and their digits."""
    digits = load_digits()
    train, test, train_digits, test_digits = train_test_split(
        digits.data, digits.target, test_size=0.5, random_state=0
    )
    model = RandomForestClassifier(TREES, random_state=0).fit(train, train_digits)
    return model, test, test_digits


@shoal.remote
class ModelServer:
    """Answers with the model's predictions, as many at a time as have come.

    Args:
        model: anything with `predict(pixels of shape (n, 64))`.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.batches: list[int] = []
        self.waiting: list[tuple[np.ndarray, asyncio.Future[int]]] = []
        self.working = False

    async def predict(self, picture: np.ndarray) -> int:
        """The digit that ``picture``, of shape (64,), shows."""
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self.waiting.append((picture, answer))
        if not self.working:
            self.working = True
            asyncio.get_running_loop().call_soon(self.answer)
        return await answer

    def answer(self) -> None:
        """Answer what waits, up to `BATCH_MAX`; again, as long as something does."""
        batch, self.waiting = self.waiting[:BATCH_MAX], self.waiting[BATCH_MAX:]
        self.batches.append(len(batch))
        digits = self.model.predict(np.stack([picture for picture, _ in batch]))
        for (_, answer), digit in zip(batch, digits, strict=True):
            if not answer.cancelled():
                answer.set_result(int(digit))
        self.working = bool(self.waiting)
        if self.working:
            asyncio.get_running_loop().call_soon(self.answer)

    async def batch_sizes(self) -> list[int]:
        """How many pictures each call of the model has had."""
        return self.batches


@shoal.remote(num_cpus=0)
def ask(servers: list[Any], pictures: np.ndarray, at_once: int = 8) -> tuple[list[int], list[float]]:
    """The digits of ``pictures``, and how long each answer took in seconds; ``at_once`` requests are under way."""
    digits, seconds = [], []
    for start in range(0, len(pictures), at_once):
        part = pictures[start : start + at_once]
        begin = time.perf_counter()
        refs = [servers[n % len(servers)].predict.remote(picture) for n, picture in enumerate(part)]
        for ref in refs:
            digits.append(shoal.get(ref))
            seconds.append(time.perf_counter() - begin)
    return digits, seconds


def main() -> tuple[float, int]:
    """Serve, ask, print; the accuracy, and how many requests were answered."""
    model, pictures, digits = fit()
    chosen = np.random.default_rng(0).integers(0, len(pictures), (CLIENTS, REQUESTS))
    model_ref = shoal.put(model)
    servers = [ModelServer.remote(model_ref) for _ in range(SERVERS)]
    shoal.get([server.predict.remote(pictures[0]) for server in servers])  # both are up

    start = time.perf_counter()
    answers = shoal.get([ask.remote(servers, pictures[rows]) for rows in chosen])
    elapsed_s = time.perf_counter() - start

    right = sum(int(np.sum(digits[rows] == found)) for rows, (found, _) in zip(chosen, answers, strict=True))
    seconds = np.concatenate([times for _, times in answers])
    sizes = [
        size for sizes in shoal.get([server.batch_sizes.remote() for server in servers]) for size in sizes
    ]
    accuracy = right / chosen.size
    print(f"{chosen.size} pictures from {CLIENTS} clients, {accuracy:.1%} read right")
    print(
        f"{chosen.size / elapsed_s:,.0f} answers/s by {SERVERS} servers, {np.mean(sizes):.1f} pictures at a time"
    )
    low, middle, high = 1000 * np.quantile(seconds, [0.05, 0.5, 0.99])
    print(f"latency {middle:.1f} ms in the middle, {low:.1f} ms at best (5 %), {high:.1f} ms at worst (1 %)")
    return accuracy, chosen.size


if __name__ == "__main__":
    main()
