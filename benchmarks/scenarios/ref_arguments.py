"""One task with 10,000 refs as arguments."""

from measure import Metric, seconds

METRICS = {"time": Metric("10,000 ref arguments to one task", "s", "lower", ratio=10)}
ARGUMENTS = 10_000


def run(api):
    count = api.remote(lambda *values: len(values))
    refs = [api.put(number) for number in range(ARGUMENTS)]

    def call():
        assert api.get(count.remote(*refs)) == ARGUMENTS

    return {"time": seconds(call)}
