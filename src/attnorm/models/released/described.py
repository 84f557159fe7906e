"""What a pickle's calls mean, for the few classes and functions that a checkpoint needs.

Nothing here is looked up by a name from a file except in :data:`CALLS`, and what is found there only puts the
arguments, whose kinds are checked, into dataclasses, dicts and numbers.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from attnorm.inert_pickle import Name, Opaque, UnreadableError, encoded, plain_items, text_of

_DTYPES = {
    "Double": torch.float64,
    "Float": torch.float32,
    "Half": torch.float16,
    "BFloat16": torch.bfloat16,
    "Long": torch.int64,
    "Int": torch.int32,
    "Short": torch.int16,
    "Char": torch.int8,
    "Byte": torch.uint8,
    "Bool": torch.bool,
    "ComplexFloat": torch.complex64,
    "ComplexDouble": torch.complex128,
}
_STORAGES = {f"torch.{device}{name}Storage": t for name, t in _DTYPES.items() for device in ("", "cuda.")}


@dataclass(frozen=True)
class Storage:
    """A run of numbers that lies elsewhere in the file.

    Attributes:
        key: Its name in the file.
        dtype: Of its elements.
        numel: Their number, as far as this reference reaches.
        offset: Elements of the stored run in front of it.
    """

    key: str
    dtype: torch.dtype
    numel: int
    offset: int = 0


@dataclass(frozen=True)
class TensorEntry:
    """A tensor that the file describes; its values have not been read.

    Attributes:
        storage: Where the numbers are.
        offset: First element in the storage.
        shape: As of any tensor.
        stride: In elements.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Of the elements."""
        return self.storage.dtype


def count_of(value: Any) -> int:
    """A size: an integer from 0 on that 63 bits hold.

    Raises:
        UnreadableError: For anything else.
    """
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise UnreadableError("a size that is not a number from 0 to 2^63")
    return value


def storage_of(identifier: tuple[Any, ...]) -> tuple[Storage, Storage]:
    """The whole storage and the part of it that a persistent id means.

    Args:
        identifier: ("storage", class, key, device, numel), and in the format before torch 1.6 a view of it or None:
            (key, offset, numel).

    Raises:
        UnreadableError: If it is damaged, or of a class that is not known.
    """
    kind, key, _, numel = identifier[1:5]
    dtype = _STORAGES.get(kind.path) if isinstance(kind, Name) else None
    if dtype is None:
        raise UnreadableError("a storage of an unknown class")
    whole = Storage(text_of(key), dtype, count_of(numel))
    view = identifier[5] if len(identifier) > 5 else None
    if view is None:
        return whole, whole
    return whole, Storage(whole.key, dtype, count_of(view[2]), count_of(view[1]))


def _tensor(storage: Any, offset: Any, shape: Any, stride: Any, *_: Any) -> TensorEntry | Opaque:
    if not isinstance(storage, Storage):
        return Opaque("a tensor without storage")
    entry = TensorEntry(storage, count_of(offset), tuple(map(count_of, shape)), tuple(map(count_of, stride)))
    if len(entry.shape) != len(entry.stride) or len(entry.shape) > 8:
        raise UnreadableError("a tensor of more than 8 dimensions, or with another number of strides")
    return entry


def _wrapped(tensor: Any, *_: Any) -> Any:
    """A parameter is its tensor."""
    return tensor


_STRUCT_CODES = {"f8": "<d", "f4": "<f", "f2": "<e", "i8": "<q", "i4": "<i", "u8": "<Q", "u4": "<I"}


@dataclass(frozen=True)
class _NumpyType:
    code: str


def _numpy_type(code: Any, *_: Any) -> _NumpyType:
    return _NumpyType(text_of(code))


def _numpy_scalar(dtype: Any, value: Any = None, *_: Any) -> Any:
    code = _STRUCT_CODES.get(dtype.code) if isinstance(dtype, _NumpyType) else None
    if code is None or not isinstance(value, bytes) or len(value) != struct.calcsize(code):
        return Opaque("a numpy scalar")
    return struct.unpack(code, value)[0]


def _dict(pairs: Any = (), *_: Any) -> dict[Any, Any]:
    """Empty, to be filled by further instructions, or from pairs, as Python 2 wrote an OrderedDict."""
    return plain_items(pairs) if isinstance(pairs, (list, tuple)) else {}


CALLS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": _dict,
    "collections.defaultdict": lambda *_: {},
    "torch.Size": lambda shape=(), *_: tuple(shape),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_parameter": _wrapped,
    "torch._utils._rebuild_parameter_with_state": _wrapped,
    "numpy.dtype": _numpy_type,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy._core.multiarray.scalar": _numpy_scalar,
    "_codecs.encode": encoded,
}
