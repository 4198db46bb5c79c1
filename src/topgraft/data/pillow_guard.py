"""Turn what Pillow raises into an ImageError with a reason, and keep its warnings in."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from PIL import Image

from topgraft.errors import ImageError

_BEYOND_PILLOW = ("cannot handle", "unsupported", "not supported", "not implemented", "unknown pixel", "unknown raw")


# --- Pillow: its errors and its warnings -------------------------------------------------------------------------

_reading: ContextVar[bool] = ContextVar("topgraft_reading", default=False)


class _OnlyWhileReading(type):
    def __subclasscheck__(cls, subclass: type) -> bool:
        return _reading.get()


class _ReadingWarning(Warning, metaclass=_OnlyWhileReading):
    """Stands in a warning filter for every category, but only in a thread that reads an image just now.

    Pillow warns of damage that it repairs itself (a corrupt EXIF block, an odd palette), and does not say in which
    file: that helps no user. `warnings.catch_warnings` would silence other threads too, and a filter by module
    would silence what a user's own code asks of Pillow. This filter is inert but for our own reading.
    """


@contextmanager
def pillow_guard() -> Iterator[None]:
    """Whatever Pillow raises inside becomes an ImageError, and its warnings are kept in."""
    filters = warnings.filters
    if not filters or filters[0][2] is not _ReadingWarning:  # first, also before a filter that makes errors
        warnings.simplefilter("ignore", _ReadingWarning)
    token = _reading.set(True)
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # its readers let everything out that damaged bytes can bring about
        raise ImageError(_reason(error)) from error
    finally:
        _reading.reset(token)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    lower = text.lower()
    if isinstance(error, Image.DecompressionBombError) or "decompressed data too large" in lower:
        return f"may be a decompression bomb ({text}); if it is real, save it again"
    if isinstance(error, MemoryError):
        return "needs more memory than there is; shrink it first"
    if "truncated" in lower or "not enough image data" in lower or isinstance(error, EOFError):
        return "is truncated: the file ends before the picture does; copy or download it again"
    if any(words in lower for words in _BEYOND_PILLOW):
        return f"is of a kind that Pillow cannot read ({text}); convert it to JPEG or PNG"
    stumbled = isinstance(error.__cause__ or error, LookupError | TypeError | AttributeError | struct.error)
    if stumbled or text == "not identified by this driver" or not any(letter.isalpha() for letter in text):
        text = "its header is wrong"  # a reader tripped, and its words are about itself
    return f"is damaged ({text}); copy or download it again"
