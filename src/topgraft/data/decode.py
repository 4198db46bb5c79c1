"""From a file or an array to the pixels that a network sees: decode, orient, flatten to RGB, resize, crop. No torch."""

from __future__ import annotations

import importlib
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topgraft.errors import ImageError

from .file_types import name_other
from .hashing import read_file
from .samples import ImageSpec

# Formats that photos and scans come in, and the module of Pillow that reads each. Not those that start another
# program (EPS), and not those that have no signature and would take any bytes for an image (TGA, DIB).
FORMATS = {
    "JPEG": "JpegImagePlugin",
    "PNG": "PngImagePlugin",
    "GIF": "GifImagePlugin",
    "WEBP": "WebPImagePlugin",
    "BMP": "BmpImagePlugin",
    "TIFF": "TiffImagePlugin",
    "PPM": "PpmImagePlugin",
    "ICO": "IcoImagePlugin",
    "JPEG2000": "Jpeg2KImagePlugin",
    "AVIF": "AvifImagePlugin",
}

# Pillow refuses twice its Image.MAX_IMAGE_PIXELS of 89,478,485 (a quarter of a gigabyte in RGB); so do we.
MAX_PIXELS = 178_956_970

# Images of more pixels than this are decoded one at a time: at 4 bytes each, and with the copies that a
# conversion makes, two of the largest would take 3 GB.
_LARGE = 50_000_000
_large = threading.RLock()

_ORIENTATION = 0x0112  # Exif 2.3, table 4
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ON_ITS_SIDE = (5, 6, 7, 8)  # width and height change places
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# TIFF 6.0 and DNG 1.4: tags, and values of the first two.
_SUBFILE, _REDUCED = 254, 1
_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0
_BITS, _DNG_VERSION = 258, 50706

_BEYOND_PILLOW = ("cannot handle", "unsupported", "not supported", "not implemented", "unknown pixel", "unknown raw")

# What Pillow multiplies grey of less than 8 bits by, so that white is 255.
_GREY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}


def load_pixels(source: Path | bytes | NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """The pixels that a network sees: uint8 input_size×input_size×3, RGB. The one way there, for every verb.

    Args:
        source: a file, its bytes, or an array H×W×3 (RGB) or H×W (grey).
        spec: size, crop, filter, and whether a JPEG may be shrunk while it is decoded.

    Raises:
        ImageError: it cannot be read; the reason in one line.
    """
    with decoded(source, spec.resize_size if spec.decode == "scaled" else None) as (image, _):
        return resize_and_crop(image, spec)


def decode(source: Path | bytes | NDArray[np.uint8], *, shortest_side: int | None = None) -> Image.Image:
    """The first frame as RGB, upright, 8 bits, on white where it is transparent.

    16 bits become 8 by their upper byte. CMYK becomes RGB by ``(1 - ink)(1 - black)``; colour profiles are not
    applied, as the published networks were trained without. EXIF orientation is applied.

    Args:
        source: a file, its bytes, or a uint8 array H×W×3 (RGB) or H×W (grey).
        shortest_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 as long as no side falls below this, in pixels.

    Raises:
        ImageError: it cannot be read; the reason in one line.
    """
    with decoded(source, shortest_side) as (image, _):
        return image


def probe(data: bytes) -> tuple[int, int]:
    """Width and height from a file's header, before any orientation; no pixel is decoded.

    Raises:
        ImageError: empty, no image, or more pixels than `MAX_PIXELS`.
    """
    with _pillow():
        size: tuple[int, int] = _open(data).size
    return size


def resize_and_crop(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """Shorter side to `resize_size`, the central `input_size` square: uint8 input_size×input_size×3.

    The longer side is rounded down and the offsets to the nearest even, as torchvision's ``Resize`` and
    ``CenterCrop`` do. Only what the crop keeps is resized, which gives the same pixels (to one level of 255, by
    rounding) and needs no memory for the rest: a 1×5000 image would become 256×1,280,000. Under ``scaled`` Pillow
    may average whole blocks first where the image is at least four times too large (``reducing_gap``).
    """
    width, height = image.size
    short = min(width, height)
    resized = [int(spec.resize_size * side / short) for side in (width, height)]
    left, top = (round((side - spec.input_size) / 2) for side in resized)
    across, down = width / resized[0], height / resized[1]
    box = (
        max(0.0, left * across),
        max(0.0, top * down),
        min(float(width), (left + spec.input_size) * across),
        min(float(height), (top + spec.input_size) * down),
    )
    small = image.resize(
        (spec.input_size, spec.input_size),
        FILTERS[spec.interpolation],
        box=box,
        reducing_gap=2.0 if spec.decode == "scaled" else None,
    )
    return np.array(small)


@contextmanager
def decoded(
    source: Path | bytes | NDArray[np.uint8], shortest_side: int | Callable[[int, int], int] | None
) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """`decode`, and an upright width and height. Holds the lock of large images inside the block.

    Args:
        source: as in `decode`.
        shortest_side: as in `decode`, or a function that makes it of the image's upright width and height. Then the
            size beside the image is that before it was shrunk; otherwise it is the image's own.

    Raises:
        ImageError: it cannot be read; the reason in one line.
    """
    if isinstance(source, np.ndarray):
        array = _from_array(source)
        yield array, array.size
        return
    data = read_file(source) if isinstance(source, Path) else source
    size: tuple[int, int] | None = None
    with _pillow():
        image = _open(data)
        if shortest_side is not None and image.format in ("JPEG", "MPO"):
            if callable(shortest_side):
                across, down = image.size
                size = (down, across) if _orientation(image) in _ON_ITS_SIDE else (across, down)
                shortest_side = shortest_side(*size)
            # Pillow takes the largest of 8, 4, 2, 1 that leaves both sides at least as long as asked, so that it
            # does not matter which way up the picture is. None keeps the mode.
            image.draft(None, (shortest_side, shortest_side))
    width, height = image.size
    with _large if width * height > _LARGE else nullcontext():
        with _pillow():
            upright = _to_rgb(image)
        yield upright, size or upright.size


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(f"arrays must be uint8, H×W×3 or H×W, not {array.dtype} of shape {array.shape}")
    if 0 in array.shape:
        raise ImageError("has no pixels")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


# --- Pillow: its errors and its warnings -------------------------------------------------------------------------

_reading: ContextVar[bool] = ContextVar("topgraft_reading", default=False)


class _OnlyWhileReading(type):
    def __subclasscheck__(cls, subclass: type) -> bool:
        return _reading.get()


class _ReadingWarning(Warning, metaclass=_OnlyWhileReading):
    """Stands in a warning filter for every category, but only in a thread that reads an image just now.

    Pillow warns of damage that it repairs itself (a corrupt EXIF block, an odd palette), and does not say in which
    file: nobody is helped. `warnings.catch_warnings` would silence other threads too, and a filter by module
    would silence what a user's own code asks of Pillow. This filter is inert but for our own reading.
    """


@contextmanager
def _pillow() -> Iterator[None]:
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
        return f"may be a decompression bomb ({text}); if it is real, save it anew"
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


def _open(data: bytes) -> Any:
    """What ``Image.open`` does for the formats above, without its warning about large images."""
    if not data:
        raise ImageError("is empty (0 bytes)")
    prefix = data[:16]
    for name, module in FORMATS.items():
        if name not in Image.OPEN:
            try:
                importlib.import_module(f"PIL.{module}")
            except ImportError:  # AVIF came with Pillow 11.3
                continue
        # WebP and AVIF are known but not read where Pillow was built without: then the answer is a text.
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None or accept is None or accept(prefix) is not True:
            continue
        if name == "AVIF" and b"avi" not in data[8:64]:  # it takes all HEIF of unstated kind
            continue
        image = factory(BytesIO(data), "")
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"has {width * height:,} pixels ({width}×{height}), more than {MAX_PIXELS:,}; "
                "it may be a decompression bomb. If it is real, shrink it first"
            )
        return image
    raise ImageError(name_other(data))


# --- To upright RGB ----------------------------------------------------------------------------------------------


def _to_rgb(image: Any) -> Image.Image:
    if image.format == "TIFF":
        _refuse_previews(image)
    rawmode = _rawmode(image)  # forgotten by load()
    tiff = dict(image.tag_v2) if image.format == "TIFF" else {}
    image.load()
    orientation = _orientation(image)  # after load(), which turns a TIFF upright itself and forgets the tag
    flat = _flatten(image, rawmode, tiff)
    return flat.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else flat


def _flatten(image: Any, rawmode: str, tiff: dict[int, Any]) -> Image.Image:
    """Any mode to RGB on white."""
    mode = image.mode
    key = image.info.get("transparency") if image.format == "PNG" else None
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        # mode I: what Pillow makes of 16-bit PPM, older ones also of PNG
        return _from_wide(np.asarray(image), key, tiff)
    if mode in ("I", "F"):
        raise ImageError("has values without a defined black and white (signed, 32-bit or floating-point); "
                         "convert it to 8 or 16 bits")  # fmt: skip
    if mode == "CMYK":
        return _from_cmyk(image)
    if mode in ("1", "L") and isinstance(key, int):
        grey = np.array(image.convert("L"))
        grey[grey == key * _GREY_STEPS.get(rawmode, 1)] = 255
        return Image.fromarray(grey).convert("RGB")
    if mode == "RGB" and isinstance(key, tuple) and "16" in rawmode:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # as the pixels were
    if image.has_transparency_data or mode in ("La", "RGBa"):
        return _on_white(image)
    converted: Image.Image = image if mode == "RGB" else image.convert("RGB")
    return converted


def _from_wide(wide: NDArray[Any], key: object, tiff: dict[int, Any]) -> Image.Image:
    """16 bits to 8, by the upper byte. TIFF may hold 12 bits, or count from white."""
    bits = 12 if tiff.get(_BITS) == (12,) else 16
    grey = (wide >> (bits - 8)).astype(np.uint8)
    if tiff.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        grey = 255 - grey
    if isinstance(key, int):
        grey[wide == key] = 255
    return Image.fromarray(grey).convert("RGB")


def _from_cmyk(image: Any) -> Image.Image:
    """CMYK to RGB. Adobe writes CMYK JPEGs inverted and marks them with APP14.

    Pillow inverts every CMYK JPEG as if Adobe had written it (``JpegImagePlugin``: rawmode ``CMYK;I``), as
    browsers do. Here those without the mark are inverted back, as libjpeg's ``libjpeg.txt`` explains the two kinds.
    """
    if image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        image = image.point(lambda value: 255 - value)
    converted: Image.Image = image.convert("RGB")
    return converted


def _on_white(image: Any) -> Image.Image:
    layer = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    white = Image.new("RGB", layer.size, (255, 255, 255))
    white.paste(layer, mask=layer)
    return white


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # a damaged EXIF block says nothing about the pixels
        return 1


def _rawmode(image: Any) -> str:
    """How the pixels lie in the file, in Pillow's words: ``L;4``."""
    arguments = image.tile[0][3] if image.tile else ""
    if isinstance(arguments, tuple):
        arguments = arguments[0] if arguments else ""
    return str(arguments)


def _refuse_previews(image: Any) -> None:
    """Camera raw files are TIFFs whose first page is a thumbnail; that would be a silent replacement."""
    if _DNG_VERSION in image.tag_v2 or image.tag_v2.get(_SUBFILE, 0) & _REDUCED:
        raise ImageError("holds a small preview as its first page, as camera raw files do; export it as JPEG")
