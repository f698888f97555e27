"""The shells around the owner core: sockets, threads, shared memory. They carry, and decide nothing."""
