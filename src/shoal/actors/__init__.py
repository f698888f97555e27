"""Actors: classes whose instances live in processes of their own, and the calls of their methods.

    method        what is known of a class's methods, and `@method`
    actor_class   `@remote` on a class        handle   what callers hold
    calls         **core**: one actor as this process calls it: order, connection, death
    client        the shell: creates, connects, routes replies        errors   what callers get at a death

An actor is named by an object, its *lifetime object*, which holds what it is made from. Handles hold that object like any
ref, so references to actors are counted, handed over and freed by what does that for objects; when nobody holds it, the node
daemon ends the actor. Constructor arguments that are refs are contained in it, and live as long as the actor may restart.
"""
