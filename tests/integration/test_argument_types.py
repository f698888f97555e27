"""What users pass by mistake: it is refused with the name of the argument, what is expected and what came, and nothing is sent.

That something was sent would cost more than the call: what cannot be packed takes the messages of other threads with it.
"""

import pytest

import shoal
from shoal import util


@shoal.remote
def identity(x):
    return x


@shoal.remote(num_cpus=0)
class Echo:
    def say(self, x):
        return x


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda ref, actor: shoal.get(ref, timeout="x"), "timeout needs a number of seconds, or None, not str"),
        (lambda ref, actor: shoal.wait([ref], fetch_local=1), "fetch_local needs True or False, not int"),
        (lambda ref, actor: shoal.cancel(ref, recursive=object()), "recursive needs True or False, not object"),
        (lambda ref, actor: shoal.cancel(ref, force=1), "force needs True or False, not int"),
        (lambda ref, actor: shoal.kill(actor, no_restart=object()), "no_restart needs True or False, not object"),
        (lambda ref, actor: shoal.get_actor(3), "get_actor needs the name of an actor, a string, not int"),
        (lambda ref, actor: shoal.get_actor("a", namespace=3), "namespace needs a string, or None, not int"),
        (lambda ref, actor: util.list_named_actors(object()), "all_namespaces needs True or False, not object"),
        (lambda ref, actor: shoal.timeline(99), "timeline needs the name of a file, or None, not int"),
        (lambda ref, actor: util.get_placement_group(3), "get_placement_group needs the name of a group, a string, not int"),
        (lambda ref, actor: util.remove_placement_group(3), "needs what shoal.util.placement_group.. returns, not int"),
        (lambda ref, actor: util.placement_group_table(3), "needs what shoal.util.placement_group.. returns, not int"),
        (lambda ref, actor: next(util.as_completed(3)), "as_completed needs a list of ObjectRefs, not int"),
        (lambda ref, actor: next(util.as_completed([ref], chunk_size="x")), "chunk_size needs an int, not str"),
        (lambda ref, actor: next(util.map_unordered(len, [1])), "needs a remote function, or a method of an actor, not builtin"),
        (lambda ref, actor: next(util.map_unordered(identity, 3)), "needs items to iterate over, not int"),
    ],
)  # fmt: skip
def test_an_argument_of_the_wrong_kind_is_named(shoal_session, call, said):
    ref = shoal.put(1)
    actor = Echo.remote()
    with pytest.raises(TypeError, match=said):
        call(ref, actor)
    assert shoal.get([ref, actor.say.remote(2)], timeout=60) == [1, 2], "nothing of it was sent"
