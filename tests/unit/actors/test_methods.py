"""What is known of an actor's class, and what is refused at once."""

import functools

import pytest

import shoal
from shoal.actors.actor_class import ActorClass, group_of_methods
from shoal.actors.handle import ActorHandle
from shoal.actors.method import describe_methods, is_async_class, method
from shoal.options import ActorOptions


class Base:
    """A base class."""

    def inherited(self):
        pass


class Sample(Base):
    """A class with all kinds of methods."""

    attribute = 1

    def __init__(self, a, b=2):
        pass

    def plain(self, x, *, key=None):
        pass

    @staticmethod
    def static(x):
        pass

    @classmethod
    def of_class(cls, x):
        pass

    def generator(self):
        yield 1

    @method(num_returns=2, concurrency_group="io")
    def marked(self):
        pass

    def __len__(self):
        return 0

    @property
    def shown(self):
        return 1


def test_the_methods_that_a_handle_offers():
    methods = describe_methods(Sample)
    assert {"plain", "static", "of_class", "generator", "marked", "inherited", "__len__"} <= set(methods)
    assert not {"attribute", "shown", "__repr__", "__eq__"} & set(methods)
    assert methods["generator"].options == {"num_returns": "streaming"}
    assert methods["marked"].options == {"num_returns": 2, "concurrency_group": "io"}
    assert group_of_methods(Sample) == {"marked": "io"}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("plain", [((1,), {}), ((1,), {"key": 2})], [((), {}), ((1, 2), {}), ((1,), {"other": 1})]),
        ("static", [((1,), {})], [((), {}), ((1, 2), {})]),
        ("of_class", [((1,), {})], [((), {}), ((1, 2), {})]),
        ("inherited", [((), {})], [((1,), {})]),
    ],
)
def test_arguments_are_checked(name, good, bad):
    spec = describe_methods(Sample)[name]
    for args, kwargs in good:
        spec.check(name, args, kwargs)
    for args, kwargs in bad:
        with pytest.raises(TypeError, match=name):
            spec.check(name, args, kwargs)


def test_async_classes_are_told_from_others():
    class Async(Sample):
        async def more(self):
            pass

    class AsyncGenerator:
        async def items(self):
            yield 1

    assert is_async_class(Async)
    assert is_async_class(AsyncGenerator)
    assert not is_async_class(Sample)


def test_bad_options_are_refused_at_once():
    with pytest.raises(ValueError, match="num_return"):
        method(num_return=2)
    with pytest.raises(TypeError):
        method(lambda self: None)
    with pytest.raises(ValueError, match="max_restart"):
        shoal.remote(max_restart=1)(Sample)
    with pytest.raises(ValueError, match="needs a name"):
        shoal.remote(get_if_exists=True)(Sample)
    with pytest.raises(ValueError, match="concurrency group 'io'"):
        shoal.remote(concurrency_groups={"cpu": 1})(Sample)
    with pytest.raises(TypeError, match="remote already"):
        shoal.remote(shoal.remote(Sample))


def test_an_actor_class_looks_like_its_class():
    actor_class = shoal.remote(Sample)
    assert isinstance(actor_class, ActorClass)
    assert (actor_class.__name__, actor_class.__doc__) == ("Sample", Sample.__doc__)
    assert actor_class.underlying is Sample
    assert actor_class.options(num_cpus=2)._options.num_cpus == 2
    assert (
        functools.reduce(lambda made, n: made.options(max_restarts=n), range(3), actor_class)
        is not actor_class
    )


def test_concurrency_groups_that_are_not_there():
    class Grouped:
        @method(concurrency_group="io")
        def read(self):
            pass

    bare = ActorClass(Grouped, ActorOptions())
    with pytest.raises(ValueError, match=r"Grouped.read is in concurrency group 'io'.*concurrency_groups"):
        bare.table()
    with pytest.raises(ValueError, match="it has net"):
        bare.options(concurrency_groups={"net": 1})
    table = bare.options(concurrency_groups={"io": 2, "net": 1}).table()
    assert table.groups == ("io", "net")
    handle = ActorHandle(None, table)
    handle.read.options(concurrency_group="net")
    with pytest.raises(ValueError, match=r"'nix'.*it has io, net"):
        handle.read.options(concurrency_group="nix")
