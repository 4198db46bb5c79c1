"""Image files made by hand and by Pillow: one color on the left half, white on the right."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image

Color = tuple[int, int, int]
RED, GRAY, BLACK, WHITE = (200, 30, 40), (90, 90, 90), (0, 0, 0), (255, 255, 255)


def picture(size: tuple[int, int] = (96, 64), color: Color = RED) -> Image.Image:
    """Left half `color`, right half white."""
    image = Image.new("RGB", size, WHITE)
    image.paste(color, (0, 0, size[0] // 2, size[1]))
    return image


def gray(color: Color = GRAY) -> Image.Image:
    return picture(color=color).convert("L")


def transparent(color: Color = RED) -> Image.Image:
    """Left half opaque color, right half transparent black: white when it lies on white."""
    image = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    image.paste((*color, 255), (0, 0, 48, 64))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def animated(kind: str, **options: Any) -> bytes:
    """The second frame is green."""
    return saved(picture(), kind, save_all=True, append_images=[picture(color=(0, 255, 0))], duration=50, **options)


def turned(value: int) -> tuple[Image.Image, bytes]:
    """The picture, stored so that the EXIF orientation `value` turns it upright; and that EXIF."""
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    exif = Image.Exif()
    exif[0x0112] = value
    return picture().transpose(back[value]) if value in back else picture(), exif.tobytes()


def oriented(value: int, kind: str, **options: Any) -> bytes:
    image, exif = turned(value)
    return saved(image, kind, exif=exif, **options)


# --- JPEG --------------------------------------------------------------------------------------------------------


def jpeg(image: Image.Image | None = None, **options: Any) -> bytes:
    return saved(image or picture(), "JPEG", quality=95, **options)


def patched(data: bytes, find: bytes, offset: int, value: bytes) -> bytes:
    """`value` written `offset` bytes after the first `find`."""
    start = data.index(find) + offset
    return data[:start] + value + data[start + len(value) :]


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def with_segment(marker: int, body: bytes) -> bytes:
    data = jpeg()
    return data[:2] + segment(marker, body) + data[2:]


def cmyk() -> Image.Image:
    return picture().convert("CMYK")


def cmyk_without_mark() -> bytes:
    """Not by Adobe, so not inverted. Pillow writes inverted and with Adobe's APP14, so it is given the inverse."""
    data = jpeg(cmyk().point(lambda v: 255 - v))
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + struct.unpack(">H", data[start + 2 : start + 4])[0] :]


def ycck() -> bytes:
    """As Photoshop writes: the inks as if they were RGB in YCbCr, black inverted, APP14 with transform 2."""
    inks = picture().convert("CMYK").split()
    colors = Image.merge("RGB", inks[:3]).convert("YCbCr").point(lambda v: 255 - v).split()  # Pillow inverts it back
    return patched(jpeg(Image.merge("CMYK", (*colors, inks[3]))), b"Adobe", 11, b"\x02")


# --- PNG ---------------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(
    size: tuple[int, int], depth: int, color: int, rows: bytes, before: bytes = b"", after: bytes = b"", lace: int = 0
) -> bytes:
    """A PNG from its parts; `rows` are the filtered scan lines, `before` and `after` chunks around them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, lace))
    body = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + before + body + after + chunk(b"IEND", b"")


def halves(left: bytes, right: bytes, count: int = 8) -> bytes:
    """Four scan lines of `count` times `left`, then `right`."""
    return (b"\x00" + left * count + right * count) * 4


def interlaced() -> bytes:
    """Adam7: seven passes over a picture of 16×16."""
    passes = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2))
    pixels = np.asarray(picture((16, 16)))
    rows = b"".join(
        b"\x00" + pixels[y, x0::dx].tobytes() for x0, dx, y0, dy in passes for y in range(16)[y0::dy] if x0 < 16
    )
    return png((16, 16), 8, 2, rows, lace=1)


def key(*values: int) -> bytes:
    """The color that is transparent."""
    return chunk(b"tRNS", struct.pack(f">{len(values)}H", *values))


# --- TIFF --------------------------------------------------------------------------------------------------------


def tiff(bits: tuple[int, ...], photometric: int, row: bytes, order: str = "<", **tags: int) -> bytes:
    """One uncompressed strip of four equal rows of 16 pixels; `tags` as ``t254=1``, each one 16-bit value."""
    body = row * 4
    entries: dict[int, tuple[int, ...]] = {256: (16,), 257: (4,), 258: bits, 259: (1,), 262: (photometric,)}
    entries |= {277: (len(bits),), 278: (4,), 279: (len(body),)}
    entries |= {int(name[1:]): (value,) for name, value in tags.items()}
    where = 8 + 2 + 12 * (len(entries) + 1) + 4
    entries[273] = (where + 6,)  # behind the one value that has no room in its entry
    made, wide = b"", b""
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}H", *values)
        if len(packed) > 4:
            packed, wide = struct.pack(f"{order}I", where), packed
        made += struct.pack(f"{order}HHI", tag, 3, len(values)) + packed.ljust(4, b"\x00")
    head = (b"II*\x00" if order == "<" else b"MM\x00*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + made + b"\x00" * 4 + wide.ljust(6, b"\x00") + body


def wide_row(left: int, right: int, code: str = "<H") -> bytes:
    return struct.pack(code, left) * 8 + struct.pack(code, right) * 8


# --- others ------------------------------------------------------------------------------------------------------


def bitmap(depth: int, row: bytes, height: int = 4) -> bytes:
    """A BMP of 16 × `height`; a negative height is stored from the top."""
    rows = row * abs(height)
    info = struct.pack("<IiiHHIIiiII", 40, 16, height, 1, depth, 0, len(rows), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + info + rows


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", jpeg())
    return buffer.getvalue()


def box(brand: bytes) -> bytes:
    """The start of a file of the MP4 kind."""
    return b"\x00\x00\x00\x18ftyp" + brand + b"\x00\x00\x00\x00" + brand + b"mif1" + b"\x00" * 64
