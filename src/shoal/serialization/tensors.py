"""torch tensors on the CPU: their memory travels as a numpy array.

A tensor knows no read-only memory: an in-place operation on a mapping that cannot be written ends the
process. So a loaded tensor is always writable and private. Where the array lies in memory whose owner offers
`private_view` (the store's exporter), it is a copy-on-write mapping of the same pages, made by the kernel
page by page as the tensor is written. Otherwise it is a copy.
"""

from __future__ import annotations

import mmap
import sys
from typing import Any

import numpy as np

from .arrays import PROTOCOL, Reduced, Reducer
from .sources import Array, storage_order

# Below this a copy is cheaper than a mapping.
PRIVATE_VIEW_BYTES_MIN = 256 * 1024


class PrivatePages(np.ndarray[Any, Any]):
    """Bytes over a private mapping of a file: reads see the file, writes stay here.

    Attributes:
        source: kept alive for as long as any view of the bytes lives; what holds the file's pages in place.
    """

    source: object = None


def private_pages(descriptor: int, offset: int, size: int, source: object) -> PrivatePages:
    """A writable copy-on-write view of a file's bytes ``offset … offset + size``.

    Args:
        descriptor: a file or memfd, open for reading; may be closed afterwards.
        offset: bytes, any.
        size: bytes, at least 1.
        source: kept alive by the view. Pages that were not written are still the file's.

    Raises:
        OSError: the file cannot be mapped.
    """
    page = offset % mmap.ALLOCATIONGRANULARITY
    pages = mmap.mmap(
        descriptor,
        page + size,
        flags=mmap.MAP_PRIVATE,
        prot=mmap.PROT_READ | mmap.PROT_WRITE,
        offset=offset - page,
    )
    # Straight over the mapping: with a plain array between, numpy would shorten the chain of bases past
    # this one.
    view = np.ndarray.__new__(PrivatePages, size, np.uint8, pages, page)
    view.source = source
    return view


def reducer_for(cls: type) -> Reducer | None:
    """How to pickle instances of a class of torch; None for its own way."""
    torch: Any = sys.modules.get("torch")
    return _reduce_tensor if torch is not None and cls is torch.Tensor else None


def load_tensor(array: Array, dtype: str, requires_grad: bool) -> Any:
    """The tensor of `_reduce_tensor`: writable, and nobody else's."""
    import torch

    tensor = torch.from_numpy(_private(array))
    wanted = getattr(torch, dtype)
    if tensor.dtype != wanted:
        tensor = tensor.view(wanted)
    return tensor.requires_grad_(requires_grad) if requires_grad else tensor


def _private(array: Array) -> Array:
    private_view = getattr(array.base, "private_view", None)
    if private_view is not None and array.nbytes >= PRIVATE_VIEW_BYTES_MIN:
        window = private_view(array.ctypes.data, array.nbytes)
        if window is not None:
            made: Array = np.ndarray(array.shape, array.dtype, window, order=storage_order(array))
            return made
    return array.copy(order="K")


def _reduce_tensor(tensor: Any) -> Reduced:
    torch: Any = sys.modules["torch"]
    plain = (
        tensor.device.type == "cpu"
        and tensor.layout is torch.strided
        and tensor.is_leaf
        and not (tensor.is_conj() or tensor.is_neg() or tensor.is_quantized or tensor.__dict__)
        and not tensor._backward_hooks
        and tensor.dim() > 0
    )
    data = tensor.detach()
    if plain:
        try:
            array = data.numpy()
        except TypeError:  # a dtype that numpy has not, as bfloat16
            array = data.contiguous().view(torch.uint8).numpy()
        return load_tensor, (array, str(tensor.dtype).removeprefix("torch."), tensor.requires_grad)
    return tensor.__reduce_ex__(PROTOCOL)  # type: ignore[no-any-return]
