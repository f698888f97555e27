"""Values to bytes and back: arrays in place, refs at C speed, everything else by pickle and cloudpickle.

    format      the layout, and all checks of what comes in
    pickler     one dump: reducers for refs, arrays and what users registered; when cloudpickle takes over
    arrays      numpy arrays            ragged   many small arrays as one       raw   small arrays, inline
    frames      pandas, polars, Arrow   tensors  torch
    custom      serializers that users register
    sources     copying and comparing of buffers          hashing   of what is in them
    serialized  the result of a dump    unpickler  the way back    small  the hot path
    culprit     what cannot be serialized, and where it is

Not responsible for where bytes are kept, or for how long: that is the store's. A ref is any object of the
class given to `set_ref_type`; what a ref means, and that it is not pickled elsewhere, is that class's
business.
"""

from .culprit import FailureTuple, inspect_serializability
from .custom import deregister_serializer, register_custom_serializer, register_serializer
from .format import BrokenFormatError
from .pickler import adopt_spawned_main, set_ref_type
from .serialized import Serialized, dumps_code, serialize
from .small import dumps_call, dumps_small
from .unpickler import contained_ids, deserialize, loads_code

__all__ = [
    "BrokenFormatError",
    "FailureTuple",
    "Serialized",
    "adopt_spawned_main",
    "contained_ids",
    "deregister_serializer",
    "deserialize",
    "dumps_call",
    "dumps_code",
    "dumps_small",
    "inspect_serializability",
    "loads_code",
    "register_custom_serializer",
    "register_serializer",
    "serialize",
    "set_ref_type",
]
