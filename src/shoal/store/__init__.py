"""What a driver or worker knows of the store: the mapping, views into it, its pins and leased extents."""
