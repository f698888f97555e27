"""A region as a client of the daemon maps it."""

from shoal.store.region import Region
from shoald.store.region import RegionFile


def opened(file: RegionFile) -> Region:
    """Both mappings of a region."""
    return Region(file.read_fd, file.write_fd, file.capacity)
