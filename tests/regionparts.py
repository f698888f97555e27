"""A region as a client of the daemon maps it."""

import numpy as np

from shoal.store.region import Region
from shoald.store.region import RegionFile


def opened(file: RegionFile) -> Region:
    """Both mappings of a region."""
    return Region(file.read_fd, file.write_fd, file.capacity)


def readable_of(region: Region) -> np.ndarray:
    """The bytes of its reading mapping."""
    assert region.mapping is not None
    return np.frombuffer(region.mapping, np.uint8)
