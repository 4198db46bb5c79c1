"""Convert any decoded image to upright 8-bit RGB on white."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from topgraft.errors import ImageError

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

# TIFF 6.0 and DNG 1.4: tags, and values of the first two.
_SUBFILE, _REDUCED = 254, 1


_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0


_BITS, _DNG_VERSION = 258, 50706


# What Pillow multiplies gray of less than 8 bits by, so that white is 255.
_GRAY_STEPS = {"1": 255, "L;2": 85, "L;4": 17}


# --- To upright RGB ----------------------------------------------------------------------------------------------


def to_rgb(image: Any) -> Image.Image:
    if image.format == "TIFF":
        _refuse_previews(image)
    rawmode = _rawmode(image)  # forgotten by load()
    tiff = dict(image.tag_v2) if image.format == "TIFF" else {}
    image.load()
    orientation = exif_orientation(image)  # after load(), which turns a TIFF upright itself and forgets the tag
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
        gray = np.array(image.convert("L"))
        gray[gray == key * _GRAY_STEPS.get(rawmode, 1)] = 255
        return Image.fromarray(gray).convert("RGB")
    if mode == "RGB" and isinstance(key, tuple) and "16" in rawmode:
        image.info["transparency"] = tuple(value >> 8 for value in key)  # as the pixels were
    if image.has_transparency_data or mode in ("La", "RGBa"):
        return _on_white(image)
    converted: Image.Image = image if mode == "RGB" else image.convert("RGB")
    return converted


def _from_wide(wide: NDArray[Any], key: object, tiff: dict[int, Any]) -> Image.Image:
    """16 bits to 8, by the upper byte. TIFF may hold 12 bits, or count from white."""
    bits = 12 if tiff.get(_BITS) == (12,) else 16
    gray = (wide >> (bits - 8)).astype(np.uint8)
    if tiff.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        gray = 255 - gray
    if isinstance(key, int):
        gray[wide == key] = 255
    return Image.fromarray(gray).convert("RGB")


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


def exif_orientation(image: Any) -> int:
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
