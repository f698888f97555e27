"""The shared-memory store of one node: its region, its allocator, and the core that decides who has what."""
