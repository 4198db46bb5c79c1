"""Bad and odd image files, written by hand and by Pillow, each with what must come of it.

A case is ``(name, bytes, outcome)``. An outcome that is text is the start of the reason why the file cannot be read; a
colour is what the picture shows on its left half, its right half being white; sizes do not matter, as all are resized.
``solid`` is one colour all over; ``narrow`` shows only the middle of a very long picture.
"""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import zipfile
import zlib
from typing import Any

import numpy as np
from PIL import Image

Colour = tuple[int, int, int]
Case = tuple[str, bytes, str | Colour]

RED, GREY, BLACK, WHITE = (200, 30, 40), (90, 90, 90), (0, 0, 0), (255, 255, 255)


def picture(size: tuple[int, int] = (96, 64), colour: Colour = RED) -> Image.Image:
    """Left half `colour`, right half white."""
    image = Image.new("RGB", size, WHITE)
    image.paste(colour, (0, 0, size[0] // 2, size[1]))
    return image


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """The bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg(**options: Any) -> bytes:
    return saved(picture(), "JPEG", quality=95, subsampling=0, **options)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, body: bytes, extra: bytes = b"") -> bytes:
    """A PNG from its parts; `body` are the filtered scan lines."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")


def wide_rgb() -> bytes:
    """16 bits a channel: the upper bytes are RED, the lower ones noise."""
    row = b"".join(bytes([v, 77]) for _ in range(8) for v in RED) + b"\xff" * 48
    return png(16, 4, 16, 2, (b"\x00" + row) * 4)


def halves(mode: str, left: int, right: int) -> Image.Image:
    array = np.full((64, 96), right, dtype={"I;16": np.uint16, "I": np.int32, "F": np.float32}[mode])
    array[:, :48] = left
    return Image.fromarray(array)


def oriented(value: int, kind: str = "JPEG", **options: Any) -> bytes:
    """The picture, stored so that the EXIF orientation `value` turns it upright."""
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
    image = picture()
    return saved(image.transpose(back[value]) if value in back else image, kind, exif=exif.tobytes(), **options)


def without_adobe(data: bytes) -> bytes:
    """A JPEG without its APP14 segment."""
    start = data.index(b"\xff\xee")
    return data[:start] + data[start + 2 + struct.unpack(">H", data[start + 2 : start + 4])[0] :]


def cmyk_as_adobe() -> bytes:
    return saved(picture().convert("CMYK"), "JPEG", quality=95)


def cmyk_plain() -> bytes:
    """CMYK JPEG without Adobe's mark: not inverted. Pillow writes inverted, so it is given the inverse."""
    return without_adobe(saved(picture().convert("CMYK").point(lambda v: 255 - v), "JPEG", quality=95))


def animated(kind: str, **options: Any) -> bytes:
    return saved(picture(), kind, save_all=True, append_images=[picture(colour=(0, 255, 0))], duration=50, **options)


def transparent(colour: Colour = RED) -> Image.Image:
    """Left half opaque colour, right half transparent black: white when it lies on white."""
    image = Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    image.paste((*colour, 255), (0, 0, 48, 64))
    return image


def bomb() -> bytes:
    return png(60000, 60000, 8, 2, b"")


def text_bomb() -> bytes:
    body = b"Comment\x00\x00" + zlib.compress(b"\x00" * (80 << 20))
    row = b"\x00" + bytes(RED) * 8 + b"\xff" * 24
    return png(16, 4, 8, 2, row * 4, chunk(b"zTXt", body))


def bad_crc() -> bytes:
    data = bytearray(saved(picture(), "PNG"))
    data[30] ^= 0xFF  # in the checksum of IHDR
    return bytes(data)


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a.jpg", jpeg())
    return buffer.getvalue()


def corrupt_exif() -> bytes:
    return jpeg(exif=b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + b"\x01\x12" * 40)


def cases() -> list[Case]:
    """The whole corpus."""
    found: list[Case] = [
        ("plain.jpg", jpeg(), RED),
        ("progressive.jpg", jpeg(progressive=True), RED),
        ("grey.jpg", saved(picture(colour=GREY).convert("L"), "JPEG", quality=95), GREY),
        ("cmyk-adobe.jpg", cmyk_as_adobe(), RED),
        ("cmyk-plain.jpg", cmyk_plain(), RED),
        ("trailing-garbage.jpg", jpeg() + b"garbage" * 1000, RED),
        ("corrupt-exif.jpg", corrupt_exif(), RED),
        ("no-extension", jpeg(), RED),
        ("wrong-extension.png", jpeg(), RED),
        ("png-called.jpg", saved(picture(), "PNG"), RED),
        ("gif-called.jpg", saved(picture(), "GIF"), RED),
        ("ünï-çødé 写真 📷.jpg", jpeg(), RED),
        ("n" * 200 + ".jpg", jpeg(), RED),
        ("leading space .JPG", jpeg(), RED),
        ("mpo.jpg", saved(picture(), "MPO", save_all=True, append_images=[picture()]), RED),
        ("large.jpg", saved(picture((6000, 4000)), "JPEG", quality=90), RED),
        ("long.png", saved(picture((2, 5000)), "PNG"), RED),
        ("wide.png", saved(picture((5000, 2)), "PNG"), "narrow"),
        ("one.png", saved(Image.new("RGB", (1, 1), RED), "PNG"), "solid"),
        ("plain.png", saved(picture(), "PNG"), RED),
        ("tiny.png", png(16, 4, 8, 2, (b"\x00" + bytes(RED) * 8 + b"\xff" * 24) * 4), RED),
        ("rgb16.png", wide_rgb(), RED),
        ("grey16.png", saved(halves("I;16", 90 * 256 + 255, 65535), "PNG"), GREY),
        ("grey1.png", saved(picture(colour=BLACK).convert("1"), "PNG"), BLACK),
        ("grey8.png", saved(picture(colour=GREY).convert("L"), "PNG"), GREY),
        ("palette.png", saved(picture().quantize(4), "PNG"), RED),
        (
            "palette-transparent.png",
            saved(transparent().convert("P"), "PNG", transparency=transparent().convert("P").getpixel((90, 1))),
            RED,
        ),
        ("rgba.png", saved(transparent(), "PNG"), RED),
        ("grey-alpha.png", saved(transparent(GREY).convert("LA"), "PNG"), GREY),
        (
            "key-colour.png",
            saved(
                Image.composite(picture(), Image.new("RGB", (96, 64), (1, 2, 3)), transparent().getchannel("A")),
                "PNG",
                transparency=(1, 2, 3),
            ),
            RED,
        ),
        ("animated.png", animated("PNG"), RED),
        ("text-bomb.png", text_bomb(), "is damaged"),
        ("bad-crc.png", bad_crc(), "is damaged"),
        ("bomb.png", bomb(), "has 3,600,000,000 pixels"),
        ("zero.png", png(0, 5, 8, 2, b""), "is damaged"),
        ("no-data.png", png(8, 8, 8, 2, b""), "is truncated"),
        ("plain.gif", saved(picture(), "GIF"), RED),
        ("animated.gif", animated("GIF"), RED),
        ("transparent.gif", saved(transparent(), "GIF"), RED),
        ("plain.bmp", saved(picture(), "BMP"), RED),
        ("palette.bmp", saved(picture().quantize(4), "BMP"), RED),
        ("bit.bmp", saved(picture(colour=BLACK).convert("1"), "BMP"), BLACK),
        ("plain.ppm", saved(picture(), "PPM"), RED),
        ("grey.pgm", saved(picture(colour=GREY).convert("L"), "PPM"), GREY),
        ("icon.ico", saved(picture((64, 64)), "ICO", sizes=[(64, 64)]), RED),
        ("plain.webp", saved(picture(), "WEBP", quality=95), RED),
        ("lossless.webp", saved(picture(), "WEBP", lossless=True), RED),
        ("alpha.webp", saved(transparent(), "WEBP", lossless=True), RED),
        ("animated.webp", animated("WEBP", lossless=True), RED),
        ("plain.tif", saved(picture(), "TIFF"), RED),
        ("lzw.tif", saved(picture(), "TIFF", compression="tiff_lzw"), RED),
        ("pages.tif", saved(picture(), "TIFF", save_all=True, append_images=[picture(colour=GREY)]), RED),
        ("cmyk.tif", saved(picture().convert("CMYK"), "TIFF"), RED),
        ("grey16.tif", saved(halves("I;16", 90 * 256 + 255, 65535), "TIFF"), GREY),
        ("float.tif", saved(halves("F", 0, 1), "TIFF"), "has 32-bit pixels"),
        ("int32.tif", saved(halves("I", 0, 70000), "TIFF"), "has 32-bit pixels"),
        ("plain.jp2", saved(picture(), "JPEG2000"), RED),
        ("empty.jpg", b"", "is empty"),
        ("one-byte.jpg", b"\xff", "is no image"),
        ("header-only.jpg", jpeg()[:2], "is no image"),
        ("quarter.jpg", jpeg()[: len(jpeg()) // 4], "is "),
        ("truncated.jpg", jpeg()[: int(len(jpeg()) * 0.9)], "is truncated"),
        ("truncated.png", saved(picture(), "PNG")[:-40], "is truncated"),
        ("truncated.gif", saved(picture(), "GIF")[:-60], "is "),
        ("truncated.webp", saved(picture(), "WEBP")[:-20], "is damaged"),
        ("truncated.tif", saved(picture(), "TIFF")[:-9000], "is "),
        ("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        ("drawing.svg", b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is SVG"),
        ("notes.jpg", b"these are no pixels", "is text"),
        ("pointer.jpg", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n", "is a Git LFS pointer"),
        ("photo.heic", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic", "is HEIC"),
        ("film.mp4", b"\x00\x00\x00\x18ftypmp42\x00\x00\x00\x00mp42isom", "is a video"),
        ("paper.pdf", b"%PDF-1.7\n", "is a PDF"),
        ("archive.jpg", zipped(), "is a ZIP archive"),
        ("packed.jpg", gzip.compress(jpeg()), "is a gzip archive"),
        ("object.jpg", pickle.dumps({"a": 1}, protocol=4), "is a pickle"),
        ("layers.psd", b"8BPS\x00\x01" + b"\x00" * 20, "is a Photoshop file"),
        ("print.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is PostScript"),
        ("noise.jpg", bytes(np.random.default_rng(0).integers(128, 256, 5000, dtype=np.uint8)), "is no image"),
        ("zeros.jpg", b"\x00" * 5000, "is text"),
    ]
    found += [(f"orientation-{value}.jpg", oriented(value, quality=95, subsampling=0), RED) for value in range(1, 9)]
    found += [
        ("orientation-6.png", oriented(6, "PNG"), RED),
        ("orientation-6.webp", oriented(6, "WEBP", lossless=True), RED),
    ]
    found += [("orientation-99.jpg", oriented(99, quality=95, subsampling=0), RED)]
    if "AVIF" in Image.SAVE:
        found.append(("plain.avif", saved(picture(), "AVIF", quality=95), RED))
    return found
