"""Training with a parameter server: workers send gradients, an actor keeps the parameters.

Softmax regression on scikit-learn's digits (1,797 pictures of 8 × 8 pixels), on several workers, each with its part of
the pictures. Once in step (the server waits for all gradients of a round), once asynchronously (each worker goes on as
soon as it has pushed its gradient). Both reach the accuracy of training in one process.

    pip install 'shoal[examples]'
    python examples/parameter_server.py
"""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits

import shoal

WORKERS = 3
ROUNDS = 60
RATE = 0.5
DIGITS = 10


def load_data() -> tuple[np.ndarray, np.ndarray]:
    """Pixels, float64 of shape (1797, 65): 64 from 0 to 1, and a one; and the digits."""
    data = load_digits()
    return np.hstack([data.data / 16, np.ones((len(data.data), 1))]), data.target


def gradient(weights: np.ndarray, pixels: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """Of the mean loss, by the weights; both of shape (65, 10)."""
    scores = pixels @ weights
    likely = np.exp(scores - scores.max(axis=1, keepdims=True))
    likely /= likely.sum(axis=1, keepdims=True)
    likely[np.arange(len(digits)), digits] -= 1
    return pixels.T @ likely / len(digits)


def accuracy(weights: np.ndarray, pixels: np.ndarray, digits: np.ndarray) -> float:
    """The part of the digits that is read right."""
    return float(np.mean((pixels @ weights).argmax(axis=1) == digits))


@shoal.remote
class ParameterServer:
    """Keeps the weights."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.weights = np.zeros(size)

    def push(self, *gradients: np.ndarray) -> np.ndarray:
        """Step along the mean of ``gradients``; the new weights."""
        self.weights = self.weights - RATE * np.mean(gradients, axis=0)
        return self.weights

    def pull(self) -> np.ndarray:
        """The weights."""
        return self.weights


@shoal.remote
class Worker:
    """Computes gradients on its part of the pictures, which it keeps."""

    def __init__(self, pixels: np.ndarray, digits: np.ndarray) -> None:
        self.pixels, self.digits = pixels, digits

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        """Of the mean loss on this part."""
        return gradient(weights, self.pixels, self.digits)

    def train(self, server: Any, rounds: int) -> None:
        """Pull, compute and push by itself, without waiting for the others."""
        for _ in range(rounds):
            weights = shoal.get(server.pull.remote())
            server.push.remote(self.gradient(weights))


def train_in_step(workers: list[Any], size: tuple[int, int]) -> np.ndarray:
    """The weights after `ROUNDS` steps, each with the gradients of all workers."""
    server = ParameterServer.remote(size)
    weights = server.pull.remote()
    for _ in range(ROUNDS):
        # Refs go from actor to actor: this process never sees a gradient.
        weights = server.push.remote(*[worker.gradient.remote(weights) for worker in workers])
    return shoal.get(weights)


def train_asynchronously(workers: list[Any], size: tuple[int, int]) -> np.ndarray:
    """The weights after `ROUNDS` steps of each worker."""
    server = ParameterServer.remote(size)
    shoal.get([worker.train.remote(server, ROUNDS) for worker in workers])
    return shoal.get(server.pull.remote())


def train_here(pixels: np.ndarray, digits: np.ndarray) -> np.ndarray:
    """The weights after `ROUNDS` steps in this process."""
    weights = np.zeros((pixels.shape[1], DIGITS))
    for _ in range(ROUNDS):
        weights = weights - RATE * gradient(weights, pixels, digits)
    return weights


def main() -> dict[str, float]:
    """Train in all three ways, print and return their accuracies."""
    pixels, digits = load_data()
    parts = [(pixels[n::WORKERS], digits[n::WORKERS]) for n in range(WORKERS)]
    workers = [Worker.remote(*part) for part in parts]
    size = (pixels.shape[1], DIGITS)
    trained = {
        "in one process": train_here(pixels, digits),
        f"{WORKERS} workers in step": train_in_step(workers, size),
        f"{WORKERS} workers asynchronously": train_asynchronously(workers, size),
    }
    found = {name: accuracy(weights, pixels, digits) for name, weights in trained.items()}
    for name, part in found.items():
        print(f"{name:<26} {part:.1%} of {len(digits):,} digits read right")
    return found


if __name__ == "__main__":
    main()
