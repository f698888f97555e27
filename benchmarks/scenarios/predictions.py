"""1,000 predictions by a stored model of 80 MB: one linear layer of 10,000 outputs over 1,000 features."""

import numpy as np

from measure import Metric, seconds

METRICS = {"time": Metric("1,000 predictions on an 80 MB model", "s", "lower", ratio=8)}
PREDICTIONS = 1000


def run(api):
    @api.remote
    def predict(model, row, features):
        return float(model["weights"][row] @ features + model["bias"][row])

    random = np.random.default_rng(0)
    model = {"weights": random.random((10_000, 1000)), "bias": random.random(10_000)}
    stored = api.put(model)
    features = random.random(1000)

    def batch():
        predicted = api.get([predict.remote(stored, row, features) for row in range(PREDICTIONS)])
        assert abs(predicted[7] - (model["weights"][7] @ features + model["bias"][7])) < 1e-6

    return {"time": seconds(batch)}
