"""Which settings make a support vector machine read handwritten digits best?

A grid of fits on scikit-learn's digits, 1,797 pictures of 8 × 8 pixels. The pictures are stored once; each
task reads them in place and cross-validates one pair of settings. Results are shown as they come.

    pip install 'shoal[examples]'
    python examples/hyperparameters.py
"""

from itertools import product

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import cross_val_score
from sklearn.svm import SVC

import shoal

PENALTIES = (0.1, 1.0, 10.0, 100.0)
GAMMAS = (1e-4, 1e-3, 1e-2)
FOLDS = 3

Settings = tuple[float, float]


def load_data() -> dict[str, np.ndarray]:
    """The pixels, float64 of shape (1797, 64) from 0 to 16, and the digit that each picture shows."""
    digits = load_digits()
    return {"pixels": digits.data, "digit": digits.target}


def accuracy(data: dict[str, np.ndarray], penalty: float, gamma: float) -> float:
    """The part of the digits that is read right, cross-validated."""
    model = SVC(C=penalty, gamma=gamma)
    return float(cross_val_score(model, data["pixels"], data["digit"], cv=FOLDS).mean())


accuracy_remotely = shoal.remote(accuracy)


def search(data: dict[str, np.ndarray]) -> dict[Settings, float]:
    """(penalty, gamma) → accuracy, for the whole grid, one task each over one stored data set."""
    stored = shoal.put(data)
    settings_of = {
        accuracy_remotely.remote(stored, *settings): settings for settings in product(PENALTIES, GAMMAS)
    }
    found: dict[Settings, float] = {}
    running = list(settings_of)
    while running:
        (done,), running = shoal.wait(running)
        penalty, gamma = settings_of[done]
        found[penalty, gamma] = shoal.get(done)
        print(f"C = {penalty:5g}   gamma = {gamma:6g}   {found[penalty, gamma]:.2%}")
    return found


def main() -> Settings:
    """Print the accuracy of each pair of settings, and the best; returns that."""
    found = search(load_data())
    best = max(found, key=lambda settings: (found[settings], settings))
    print(f"\nbest: C = {best[0]:g}, gamma = {best[1]:g}, {found[best]:.2%} of the digits read right")
    return best


if __name__ == "__main__":
    main()
    shoal.shutdown()
