"""Reading pickles of arrays, strings, numbers, lists and dicts, and refusing all others.

A pickle is a program, and running a stranger's program is not reading data. Here its every global name resolves
to a stand-in of this file, or is refused: no function and no class of NumPy or of Python is ever reached.
"""

from __future__ import annotations

import io
import pickle
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from topgraft.errors import DataError

_DTYPE = re.compile(r"[|<>=]?(b1|u1|u2|u4|u8|i1|i2|i4|i8|f4|f8)")
_DEEPEST = 8  # containers in containers; the published files have two


class _Refused(Exception):
    """Something that is not an array, string, number, list or dict."""


class _Fixed:
    """Base of the stand-ins: the pickle cannot give them a state."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> None:
        raise _Refused("a changed global")


class _Dtype:
    """Stands in for a NumPy dtype while the pickle is read."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        code = _text(code)
        if not _DTYPE.fullmatch(code):
            raise _Refused(f"an array of {code!r}")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        # (version, byte order, sub-array, names, fields, size, alignment, flags); a plain number has no parts.
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise _Refused("a structured array")
        order = _text(state[1])
        if order not in ("|", "<", ">", "="):
            raise _Refused("an array of unknown byte order")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder("<" if order == "<" else ">")


class _Array:
    """Stands in for a NumPy array while the pickle is read."""

    __slots__ = ("array",)

    def __init__(self) -> None:
        self.array: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) != 5:
            raise _Refused("a damaged array")
        _, shape, dtype, by_columns, data = state
        self.array = _array(data, dtype, shape, "F" if by_columns else "C")


class _ArrayType(_Fixed):
    """``numpy.ndarray``, which is only ever named."""

    __slots__ = ()


class _MakeArray(_Fixed):
    """``numpy.core.multiarray._reconstruct(type, shape, code)``: an empty array, filled by its state."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        if not isinstance(kind, _ArrayType):
            raise _Refused("a subclass of array")
        return _Array()


class _MakeArrayFromBuffer(_Fixed):
    """``numpy.core.numeric._frombuffer(data, dtype, shape, order)``, of pickle protocol 5."""

    __slots__ = ()

    def __call__(self, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        made = _Array()
        made.array = _array(data, dtype, shape, _text(order))
        return made


class _MakeDtype(_Fixed):
    """``numpy.dtype(code, align, copy)``."""

    __slots__ = ()

    def __call__(self, code: Any, *flags: Any) -> _Dtype:
        return _Dtype(code)


class _Encode(_Fixed):
    """``_codecs.encode(text, 'latin1')``: how Python 3 writes bytes for Python 2."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any = "") -> bytes:
        if not isinstance(text, str) or _text(encoding) != "latin1":
            raise _Refused("an encoding other than latin1")
        return text.encode("latin1")


_GLOBALS: dict[tuple[str, str], _Fixed] = {
    ("numpy", "ndarray"): _ArrayType(),
    ("numpy", "dtype"): _MakeDtype(),
    ("_codecs", "encode"): _Encode(),
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _MakeArray() for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): _MakeArrayFromBuffer() for core in ("core", "_core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        stand_in = _GLOBALS.get((module, name))
        if stand_in is None:
            raise _Refused(f"{module}.{name}")
        return stand_in

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a reference to something outside")


def read_pickle(data: bytes, name: str) -> Any:
    """What a pickle holds, without running any of it.

    Args:
        data: the pickle's bytes, of any protocol.
        name: of the file, for the message.

    Returns:
        Dicts, lists, tuples, bytes, strings, numbers, None and NumPy arrays of numbers. Strings that Python 2
        wrote are bytes.

    Raises:
        DataError: the pickle asks for anything else, or is damaged.
    """
    try:
        return _settle(_Unpickler(io.BytesIO(data), encoding="bytes").load(), 0)
    except _Refused as refused:
        raise DataError(
            f"{name} is a pickle that asks for {refused}, and only arrays, strings, numbers, lists and dicts are read "
            "from pickles. Nothing of it was run. Get the file from its publisher again"
        ) from None
    except Exception as error:  # a damaged pickle can raise anything
        raise DataError(f"{name} is not a pickle, or is damaged: {error}. Get the file again") from error


def _settle(value: Any, depth: int) -> Any:
    """`value` with arrays for their stand-ins."""
    if value is None or type(value) in (bytes, str, int, float, bool):
        return value
    if isinstance(value, _Array) and value.array is not None:
        return value.array
    if depth > _DEEPEST:
        raise _Refused("containers nested too deeply")
    if type(value) is dict:
        return {_settle(key, depth + 1): _settle(entry, depth + 1) for key, entry in value.items()}
    if type(value) is list:
        return [_settle(entry, depth + 1) for entry in value]
    if type(value) is tuple:
        return tuple(_settle(entry, depth + 1) for entry in value)
    raise _Refused(f"a {type(value).__name__.lstrip('_').lower()}")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> NDArray[Any]:
    if isinstance(data, str):  # Python 2 wrote it, and it was read as latin1
        data = data.encode("latin1")
    if not isinstance(data, (bytes, bytearray)) or not isinstance(dtype, _Dtype) or order not in ("C", "F"):
        raise _Refused("an array of objects")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise _Refused("an array of no shape")
    return np.ndarray(shape, dtype.dtype, bytes(data), order="C" if order == "C" else "F")


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
