"""From a file or an array to the pixels that a network sees: decode, orient, flatten to RGB, resize, crop. No torch."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

from .digests import read_file
from .errors import ImageError
from .records import ImageSpec

# Formats that photos and scans come in. Not those that start another program (EPS), and not those that
# have no signature, which would take any bytes for an image (TGA, DIB).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM", "ICO", "JPEG2000", "AVIF")

# Pillow refuses twice its Image.MAX_IMAGE_PIXELS of 89,478,485 (a quarter of a gigabyte in RGB); so do we.
MAX_PIXELS = 178_956_970

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
_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}

# What Pillow raises on damaged files, and what a warning becomes under ``-W error``.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    OverflowError,
    ArithmeticError,
    AttributeError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,
)

# Files that are often found among photos: first bytes, and what to say.
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyphei", "is HEIC, which Pillow cannot read; convert it to JPEG"),
    (4, b"ftypmif1", "is HEIF, which Pillow cannot read; convert it to JPEG"),
    (4, b"ftyp", "is a video (MP4 or QuickTime), no image"),
    (0, b"%PDF", "is a PDF, no image"),
    (0, b"PK\x03\x04", "is a ZIP archive, no image; unpack it"),
    (0, b"\x1f\x8b", "is a gzip archive, no image; unpack it"),
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the image itself; run git lfs pull"),
    (0, b"8BPS", "is a Photoshop file; export it as JPEG or PNG"),
    (0, b"%!PS", "is PostScript, no image"),
    (0, b"\x1aE\xdf\xa3", "is a video (Matroska or WebM), no image"),
    (0, b"\x80\x04\x95", "is a pickle, no image"),
)

# Pillow warns of damage that it repairs itself (a corrupt EXIF block, an odd palette). Which image it was, the
# warning does not say, so it helps nobody; what cannot be read is raised.
warnings.filterwarnings("ignore", module=r"PIL\.")
_warnings_lock = threading.Lock()


def load_pixels(source: Path | bytes | NDArray[np.uint8], spec: ImageSpec) -> NDArray[np.uint8]:
    """The pixels that a network sees: uint8 input_size×input_size×3, RGB. The one way there, for every verb.

    Args:
        source: a file, its bytes, or an array H×W×3 (RGB) or H×W (grey).
        spec: size, crop, filter, and whether a JPEG may be shrunk while it is decoded.

    Raises:
        ImageError: it cannot be read; the reason in one line.
    """
    image = decode(source, shortest_side=spec.resize_size if spec.decode == "scaled" else None)
    return resize_and_crop(image, spec)


def decode(source: Path | bytes | NDArray[np.uint8], *, shortest_side: int | None = None) -> Image.Image:
    """The first frame as RGB, upright, 8 bits, on white where it is transparent.

    Args:
        source: a file, its bytes, or a uint8 array H×W×3 (RGB) or H×W (grey).
        shortest_side: a JPEG may be decoded at 1/2, 1/4 or 1/8 as long as no side falls below this, in pixels.

    Raises:
        ImageError: it cannot be read; the reason in one line.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    data = read_file(source) if isinstance(source, Path) else source
    try:
        return _decode(data, shortest_side)
    except ImageError:
        raise
    except Warning:
        # Warnings are errors in this process. Filters are global, so one thread at a time.
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return _decode(data, shortest_side)
            except _DAMAGE as error:
                raise ImageError(_reason(error)) from error
    except _DAMAGE as error:
        raise ImageError(_reason(error)) from error


def probe(data: bytes) -> tuple[int, int]:
    """Width and height from a file's header, before any orientation; nothing is decoded.

    Raises:
        ImageError: empty, no image, or more pixels than `MAX_PIXELS`.
    """
    try:
        size: tuple[int, int] = _open(data).size
    except Warning:
        with _warnings_lock, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            size = _open(data).size
    return size


def resize_and_crop(image: Image.Image, spec: ImageSpec) -> NDArray[np.uint8]:
    """Shorter side to `resize_size`, the central `input_size` square: uint8 input_size×input_size×3.

    The longer side is rounded down and the offsets to the nearest even, as torchvision's ``Resize`` and
    ``CenterCrop`` do. Only what the crop keeps is resized, which gives the same pixels and needs no memory for the
    rest: a 1×5000 image would become 256×1,280,000. Under ``scaled`` Pillow may average whole blocks first where
    the image is more than twice too large (``reducing_gap``).
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
        _FILTERS[spec.interpolation],
        box=box,
        reducing_gap=2.0 if spec.decode == "scaled" else None,
    )
    return np.asarray(small)


def _from_array(array: NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3):
        raise ImageError(f"arrays must be uint8, H×W×3 or H×W, not {array.dtype} of shape {array.shape}")
    if 0 in array.shape:
        raise ImageError("has no pixels")
    return Image.fromarray(np.ascontiguousarray(array)).convert("RGB")


def _decode(data: bytes, shortest_side: int | None) -> Image.Image:
    image = _open(data)
    if shortest_side is not None and image.format in ("JPEG", "MPO"):
        # Pillow takes the largest of 8, 4, 2, 1 that leaves both sides at least as long as asked.
        image.draft(None, (shortest_side, shortest_side))  # None keeps the mode
    orientation = _orientation(image)
    image.load()
    upright = _to_rgb(image)
    return upright.transpose(_TRANSPOSE[orientation]) if orientation in _TRANSPOSE else upright


def _open(data: bytes) -> Any:
    """What ``Image.open`` does for the formats above, without its process-wide warning about large images."""
    if not data:
        raise ImageError("is empty (0 bytes)")
    Image.preinit()
    if not set(FORMATS) <= set(Image.OPEN):
        Image.init()
    prefix = data[:16]
    for name in FORMATS:
        if name not in Image.OPEN:  # AVIF and WebP are not in every build of Pillow
            continue
        factory, accept = Image.OPEN[name]
        accepted = accept is None or accept(prefix)
        if not accepted or isinstance(accepted, str):
            continue
        try:
            image = factory(io.BytesIO(data), "")
        except Warning:  # under ``-W error``; `decode` tries again
            raise
        except _DAMAGE as error:
            raise ImageError(_reason(error)) from error
        width, height = image.size
        if width < 1 or height < 1:
            raise ImageError(f"has no pixels ({width}×{height})")
        if width * height > MAX_PIXELS:
            raise ImageError(
                f"has {width * height:,} pixels ({width}×{height}), more than {MAX_PIXELS:,}; "
                "it may be a decompression bomb. If it is real, shrink it first"
            )
        return image
    raise ImageError(_what_it_is(data))


def _what_it_is(data: bytes) -> str:
    for offset, magic, reason in _OTHERS:
        if data[offset:].startswith(magic):
            return reason
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in start:
        return "is SVG, a drawing; export it as PNG"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "is a web page or XML, no image; the download probably failed"
    try:
        data[:1024].decode("ascii")
    except UnicodeDecodeError:
        return "is no image in a known format"
    return "is text, no image"


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except _DAMAGE:  # a damaged EXIF block says nothing about the pixels
        return 1


def _to_rgb(image: Any) -> Image.Image:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format == "PNG"):
        return _shifted(image)
    if mode in ("I", "F"):
        raise ImageError("has 32-bit pixels without a defined range; convert it to 8 or 16 bits")
    if mode == "CMYK":
        return _from_cmyk(image)
    if mode == "LAB":
        lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
        assert converted is not None  # only in place it returns nothing
        return converted
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image)
    converted_plain: Image.Image = image if mode == "RGB" else image.convert("RGB")
    return converted_plain


def _shifted(image: Any) -> Image.Image:
    """16 bits to 8: the upper byte."""
    wide = np.asarray(image)
    return Image.fromarray((wide.astype(np.uint32) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")


def _from_cmyk(image: Any) -> Image.Image:
    """CMYK to RGB. Adobe writes CMYK JPEGs inverted and marks them with APP14.

    Pillow inverts every CMYK JPEG as if Adobe had written it (``JpegImagePlugin``: rawmode ``CMYK;I``), so
    that those without the mark are inverted back here.
    """
    if image.format in ("JPEG", "MPO") and "adobe" not in image.info:
        image = image.point(lambda value: 255 - value)
    converted: Image.Image = image.convert("RGB")
    return converted


def _on_white(image: Any) -> Image.Image:
    if image.mode == "La":
        image = image.convert("LA")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _reason(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    if "truncated" in text.lower() or isinstance(error, EOFError):
        return f"is truncated ({text})"
    if text == "not identified by this driver":  # what Pillow makes of a header that its reader refuses
        text = "its header is wrong"
    return f"is damaged ({' '.join(text.split())})"
