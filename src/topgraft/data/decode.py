"""Decode a file, bytes or an array to an upright RGB image. No torch."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topgraft.errors import ImageError

from .file_types import name_other
from .hashing import read_file
from .pillow_guard import pillow_guard
from .to_rgb import exif_orientation, to_rgb

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


_ON_ITS_SIDE = (5, 6, 7, 8)  # width and height change places


def decode(source: Path | bytes | NDArray[np.uint8], *, shortest_side: int | None = None) -> Image.Image:
    """The first frame as RGB, upright, 8 bits, on white where it is transparent.

    16 bits become 8 by their upper byte. CMYK becomes RGB by ``(1 - ink)(1 - black)``; color profiles are not
    applied, as the published networks were trained without. EXIF orientation is applied.

    Args:
        source: a file, its bytes, or a uint8 array H×W×3 (RGB) or H×W (gray).
        shortest_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 as long as no side falls below this, in pixels.

    Raises:
        ImageError: it cannot be read; the reason in one line.
    """
    with decoded(source, shortest_side) as (image, _):
        return image


@contextmanager
def decoded(
    source: Path | bytes | NDArray[np.uint8], shortest_side: int | Callable[[int, int], int] | None
) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """`decode`, and an upright width and height. Holds the lock of large images inside the block.

    Args:
        source: as in `decode`.
        shortest_side: as in `decode`, or a function that makes it of the image's upright width and height. Then the
            size returned with the image is that before it was shrunk; otherwise it is the image's own.

    Raises:
        ImageError: it cannot be read; the reason in one line.
    """
    if isinstance(source, np.ndarray):
        array = _from_array(source)
        yield array, array.size
        return
    data = read_file(source) if isinstance(source, Path) else source
    size: tuple[int, int] | None = None
    with pillow_guard():
        image = open_image(data)
        if shortest_side is not None and image.format in ("JPEG", "MPO"):
            if callable(shortest_side):
                across, down = image.size
                size = (down, across) if exif_orientation(image) in _ON_ITS_SIDE else (across, down)
                shortest_side = shortest_side(*size)
            # Pillow takes the largest of 8, 4, 2, 1 that leaves both sides at least as long as asked, so that it
            # does not matter which way up the picture is. None keeps the mode.
            image.draft(None, (shortest_side, shortest_side))
    width, height = image.size
    with _large if width * height > _LARGE else nullcontext():
        with pillow_guard():
            upright = to_rgb(image)
        yield upright, size or upright.size


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(f"arrays must be uint8, H×W×3 or H×W, not {array.dtype} of shape {array.shape}")
    if 0 in array.shape:
        raise ImageError("has no pixels")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def open_image(data: bytes) -> Any:
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
