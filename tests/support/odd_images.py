"""Bad and odd image files, each with what must come of it.

A case shows one color on its left half and white on its right, or has a reason why it cannot be read. Sizes do not
matter, as all are resized.
"""

from __future__ import annotations

import gzip
import json
import os
import pickle
import struct
import zlib
from typing import NamedTuple

import numpy as np
from PIL import Image
from support.image_files import (
    BLACK,
    GRAY,
    RED,
    WHITE,
    Color,
    animated,
    bitmap,
    box,
    chunk,
    cmyk,
    cmyk_without_mark,
    gray,
    halves,
    interlaced,
    jpeg,
    key,
    oriented,
    patched,
    picture,
    png,
    saved,
    tiff,
    transparent,
    turned,
    wide_row,
    with_segment,
    ycck,
    zipped,
)

Image.init()  # so that Image.SAVE knows all formats
LOSSY = 8  # levels of 255 that a lossy format may be off in a flat region

HEADER = "is damaged (its header is wrong)"
TRUNCATED = "is truncated: the file ends before the picture does; copy or download it again"
NO_RANGE = "has values without a defined black and white (signed, 32-bit or floating-point); convert it to 8 or 16 bits"
NO_FORMAT = "is not an image in a format that can be read; convert it to JPEG or PNG"
WEB_PAGE = "is a web page or XML, no image; the download probably failed"


class Case(NamedTuple):
    """A file. `reason` is how the reason starts, where it cannot be read; else the colors of its halves."""

    name: str
    data: bytes
    reason: str = ""
    left: Color = RED
    right: Color = WHITE
    within: int = 1


def names() -> list[Case]:
    """A good file under odd names."""
    data = jpeg()
    odd = (
        "no-extension",
        "wrong-extension.png",
        "ünï-çødé 写真 📷.jpg",
        "n" * (100 if os.name == "nt" else 200),
        "leading space .JPG",
    )
    return [Case(name, data, within=LOSSY) for name in odd]


def jpegs() -> list[Case]:
    corrupt = b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\xff\xff" + b"\x01\x12" * 40
    good = {
        "plain": jpeg(),
        "progressive": jpeg(progressive=True),
        "subsampled": jpeg(subsampling=2),
        "stored-as-rgb": jpeg(keep_rgb=True),
        "cmyk-adobe": jpeg(cmyk()),
        "cmyk-unmarked": cmyk_without_mark(),
        "ycck-adobe": ycck(),
        "trailing-garbage": jpeg() + b"garbage" * 1000,
        "padding-before-a-marker": jpeg()[:2] + b"\xff" * 40 + jpeg()[2:],
        "corrupt-exif": with_segment(0xE1, corrupt),
        "empty-exif": with_segment(0xE1, b"Exif\x00\x00"),
        "exif-in-a-circle": with_segment(0xE1, b"Exif\x00\x00II*\x00\x08\x00\x00\x00\x00\x00\x08\x00\x00\x00"),
        "corrupt-profile": with_segment(0xE2, b"ICC_PROFILE\x00\x09\x01" + b"\xff" * 90),
        "corrupt-mpo": with_segment(0xE2, b"MPF\x00II*\x00\xff\xff\xff\xff"),
        "long-comment": with_segment(0xFE, b"x" * 65000),
        "large": jpeg(picture((3000, 2000))),
        "very-wide": jpeg(picture((65500, 8))),
        "mpo": saved(picture(), "MPO", save_all=True, append_images=[picture(color=GRAY)]),
    }
    good |= {f"orientation-{value}": oriented(value, "JPEG", quality=95) for value in (*range(10), 99)}
    start = jpeg().index(b"\xff\xc0")
    bad = {
        "truncated-in-the-header": (jpeg()[:30], TRUNCATED),
        "truncated-at-half": (jpeg()[: len(jpeg()) // 2], TRUNCATED),
        "truncated-at-the-end": (jpeg()[:-20], TRUNCATED),
        "truncated-progressive": (jpeg(progressive=True)[:-20], TRUNCATED),
        "missing-end-marker": (jpeg()[:-2], TRUNCATED),
        "12-bit": (patched(jpeg(), b"\xff\xc0", 4, b"\x0c"), "is of a kind that Pillow cannot read ("),
        "two-channels": (patched(jpeg(), b"\xff\xc0", 9, b"\x02"), "is of a kind that Pillow cannot read ("),
        "zero-size": (patched(jpeg(), b"\xff\xc0", 5, b"\x00\x00\x00\x00"), HEADER),
        "bomb": (patched(jpeg(), b"\xff\xc0", 5, b"\xff\xdc\xff\xdc"), "has 4,290,250,000 pixels (65500×65500)"),
        "no-frame": (jpeg()[:start], HEADER),
        "two-bytes": (b"\xff\xd8", NO_FORMAT),
    }
    return [
        *[Case(f"{name}.jpg", data, within=LOSSY) for name, data in good.items()],
        Case("gray.jpg", jpeg(gray()), left=GRAY, within=LOSSY),
        Case("gray-progressive.jpg", jpeg(gray(), progressive=True), left=GRAY, within=LOSSY),
        *[Case(f"{name}.jpg", data, reason) for name, (data, reason) in bad.items()],
    ]


def pngs() -> list[Case]:
    eight = png((16, 4), 8, 2, halves(bytes(RED), b"\xff" * 3))
    noisy = bytes(v for channel in RED for v in (channel, 77))  # 16 bits: the lower ones are noise
    image, exif = turned(6)
    palette = chunk(b"PLTE", bytes((*RED, 0, 0, 0)))
    indexed = halves(b"\x00", b"\x01")
    text = chunk(b"zTXt", b"Comment\x00\x00" + zlib.compress(b"\x00" * (3 << 20)))
    good = {
        "plain": saved(picture(), "PNG"),
        "tiny": eight,
        "interlaced": interlaced(),
        "16-bit": png((16, 4), 16, 2, halves(noisy, b"\xff" * 6)),
        "16-bit-alpha": png((16, 4), 16, 6, halves(noisy + b"\xff\xff", b"\x00" * 8)),
        "alpha": saved(transparent(), "PNG"),
        "palette": saved(picture().quantize(4), "PNG"),
        "palette-alpha": png((16, 4), 8, 3, indexed, palette + chunk(b"tRNS", b"\xff\x00")),
        "color-key": png((16, 4), 8, 2, halves(bytes(RED), b"\x01\x02\x03"), key(1, 2, 3)),
        "16-bit-color-key": png((16, 4), 16, 2, halves(noisy, b"\x01\x02" * 3), key(258, 258, 258)),
        "animated": animated("PNG"),
        "orientation-6": oriented(6, "PNG"),
        "orientation-behind-the-pixels": png(
            image.size,
            8,
            2,
            b"".join(b"\x00" + row.tobytes() for row in np.asarray(image)),
            after=chunk(b"eXIf", exif.removeprefix(b"Exif\x00\x00")),
        ),
        "corrupt-exif": png((16, 4), 8, 2, halves(bytes(RED), b"\xff" * 3), chunk(b"eXIf", b"MM\x00*\xff\xff")),
        "trailing-garbage": eight + b"garbage" * 99,
        "without-end": eight[:-12],
        "high": saved(picture((2, 5000)), "PNG"),
        "wide": saved(picture((5000, 2)), "PNG"),
    }
    grays = {
        "gray": saved(gray(), "PNG"),
        "gray-16-bit": png((16, 4), 16, 0, halves(b"\x5a\xff", b"\xff\xff")),
        "gray-alpha": saved(transparent(GRAY).convert("LA"), "PNG"),
        "gray-alpha-16-bit": png((16, 4), 16, 4, halves(b"\x5a\xff\xff\xff", b"\x00" * 4)),
        "gray-key": png((16, 4), 8, 0, halves(b"\x5a", b"\x07"), key(7)),
        "gray-key-16-bit": png((16, 4), 16, 0, halves(b"\x5a\xff", b"\x07\x01"), key(0x0701)),
    }
    black = {
        "1-bit": png((16, 4), 1, 0, halves(b"\x00", b"\xff", 1)),
        "1-bit-key": png((8, 4), 1, 0, halves(b"", b"\x00", 1), key(0)),
        "2-bit-key": png((16, 4), 2, 0, halves(b"\x00", b"\x55", 2), key(1)),
        "4-bit-key": png((16, 4), 4, 0, halves(b"\x00", b"\x33", 4), key(3)),
    }
    bad = {
        "bomb": (png((60000, 60000), 8, 2, b""), "has 3,600,000,000 pixels (60000×60000), more than 178,956,970; it"),
        "zero-size": (png((0, 5), 8, 2, b""), HEADER),
        "no-pixels": (png((8, 8), 8, 2, b""), TRUNCATED),
        "bad-checksum-of-the-header": (patched(eight, b"IHDR", 17, b"\x00\x00"), "is damaged (broken PNG file"),
        "bad-checksum-of-pixels": (patched(eight, b"IDAT", 12, b"\x00\x00\x00"), "is damaged ("),
        "unknown-colors": (png((16, 4), 8, 5, halves(bytes(RED), b"\xff" * 3)), HEADER),
        "truncated": (saved(picture(), "PNG")[:-40], TRUNCATED),
        "signature-only": (eight[:8], HEADER),
        "text-bomb": (png((16, 4), 8, 2, halves(bytes(RED), b"\xff" * 3), text), "may be a decompression bomb ("),
    }
    cases = [Case(f"{name}.png", data) for name, data in good.items()]
    cases += [Case(f"{name}.png", data, left=GRAY) for name, data in grays.items()]
    cases += [Case(f"{name}.png", data, left=BLACK) for name, data in black.items() if name != "1-bit-key"]
    cases += [Case(f"{name}.png", data, reason) for name, (data, reason) in bad.items()]
    return [
        *cases,
        Case("1-bit-key.png", black["1-bit-key"], left=WHITE),
        Case("half-transparent.png", saved(Image.new("RGBA", (9, 9), (0, 0, 0, 128)), "PNG"), "", *[(127,) * 3] * 2),
        Case("one.png", saved(Image.new("RGB", (1, 1), RED), "PNG"), right=RED),
        Case("png-called.jpg", good["plain"]),
    ]


def tiffs() -> list[Case]:
    eight = bytes(RED) * 8 + b"\xff" * 24
    good = {
        "plain": saved(picture(), "TIFF"),
        "lzw": saved(picture(), "TIFF", compression="tiff_lzw"),
        "deflate": saved(picture(), "TIFF", compression="tiff_adobe_deflate"),
        "16-bit": tiff((16,) * 3, 2, struct.pack("<3H", *(v * 256 + 9 for v in RED)) * 8 + b"\xff" * 48),
        "pages": saved(picture(), "TIFF", save_all=True, append_images=[picture(color=GRAY)]),
        "cmyk": saved(cmyk(), "TIFF"),
        "alpha": saved(transparent(), "TIFF"),
        "palette": saved(picture().quantize(4), "TIFF"),
        "orientation-0": tiff((8,) * 3, 2, eight, t274=0),
        "orientation-1": tiff((8,) * 3, 2, eight, t274=1),
        "orientation-2": tiff((8,) * 3, 2, eight[24:] + eight[:24], t274=2),
        "orientation-3": tiff((8,) * 3, 2, eight[24:] + eight[:24], t274=3),
        "orientation-4": tiff((8,) * 3, 2, eight, t274=4),
        "orientation-6": oriented(6, "TIFF"),
        "orientation-8": oriented(8, "TIFF"),
    }
    grays = {
        "gray-16-bit": tiff((16,), 1, wide_row(0x5AFF, 0xFFFF)),
        "gray-16-bit-from-the-other-end": tiff((16,), 1, wide_row(0x5AFF, 0xFFFF, ">H"), ">"),
        "gray-16-bit-counted-from-white": tiff((16,), 0, wide_row(0xA5FF, 0)),
        "gray-12-bit": tiff((12,), 1, b"\x5a\xf5\xaf" * 4 + b"\xff" * 12),
        "gray-counted-from-white": tiff((8,), 0, b"\xa5" * 8 + b"\x00" * 8),
    }
    bad = {
        "float": (tiff((32,), 1, wide_row(0, 1, "<f"), t339=3), NO_RANGE),
        "32-bit": (tiff((32,), 1, wide_row(0, 70000, "<I")), NO_RANGE),
        "signed": (tiff((16,), 1, wide_row(-5, 300, "<h"), t339=2), NO_RANGE),
        "preview-first": (tiff((8,) * 3, 2, eight, t254=1), "holds a small preview as its first page"),
        "truncated": (saved(picture(), "TIFF")[:-9000], TRUNCATED),
        "truncated-lzw": (
            saved(picture(), "TIFF", compression="tiff_lzw")[:-30],
            "is damaged (unknown data ",
        ),
        "header-only": (b"II*\x00\x08\x00\x00\x00", "is damaged ("),
        "bomb": (tiff((8,) * 3, 2, eight, t256=60000, t257=60000), "has 3,600,000,000 pixels"),
    }
    return [
        *[Case(f"{name}.tif", data) for name, data in good.items()],
        *[Case(f"{name}.tif", data, left=GRAY) for name, data in grays.items()],
        Case("fax.tif", saved(gray(BLACK).convert("1"), "TIFF", compression="group4"), left=BLACK),
        Case("jpeg-inside.tif", saved(picture(), "TIFF", compression="jpeg"), within=LOSSY),
        Case("lab.tif", saved(Image.new("LAB", (9, 9), (255, 128, 128)), "TIFF"), left=WHITE),
        *[Case(f"{name}.tif", data, reason) for name, (data, reason) in bad.items()],
    ]


def other_formats() -> list[Case]:
    flat = bytes(reversed(RED))
    good = {
        "plain.gif": saved(picture(), "GIF"),
        "gif-called.jpg": saved(picture(), "GIF"),
        "animated.gif": animated("GIF"),
        "transparent.gif": saved(transparent(), "GIF"),
        "without-end.gif": saved(picture(), "GIF")[:-1],
        "plain.bmp": saved(picture(), "BMP"),
        "palette.bmp": saved(picture().quantize(4), "BMP"),
        "32-bit.bmp": bitmap(32, (flat + b"\x00") * 8 + b"\xff" * 32),
        "from-the-top.bmp": bitmap(24, flat * 8 + b"\xff" * 24, -4),
        "plain.ppm": saved(picture(), "PPM"),
        "written-out.ppm": b"P3 16 4 255 " + (b"200 30 40 " * 8 + b"255 255 255 " * 8) * 4,
        "16-bit.ppm": b"P6 16 4 65535\n" + (struct.pack(">3H", *(v * 257 for v in RED)) * 8 + b"\xff" * 48) * 4,
        "icon.ico": saved(picture((64, 64)), "ICO", sizes=[(16, 16), (64, 64)]),
        "icon-of-bitmaps.ico": saved(picture((64, 64)), "ICO", sizes=[(64, 64)], bitmap_format="bmp"),
        "lossless.webp": saved(picture(), "WEBP", lossless=True),
        "alpha.webp": saved(transparent(), "WEBP", lossless=True),
        "animated.webp": animated("WEBP", lossless=True),
        "orientation-6.webp": oriented(6, "WEBP", lossless=True),
        "plain.jp2": saved(picture(), "JPEG2000"),
        "alpha.jp2": saved(transparent(), "JPEG2000"),
    }
    bad = {
        "truncated.gif": (saved(picture(), "GIF")[:-60], TRUNCATED),
        "bomb.gif": (patched(saved(picture(), "GIF"), b"GIF8", 6, b"\xff\xff\xff\xff"), "has 4,294,836,225 pixels"),
        "truncated.bmp": (saved(picture(), "BMP")[:-99], TRUNCATED),
        "bomb.bmp": (patched(saved(picture(), "BMP"), b"BM", 18, b"\x00\x00\x01\x00" * 2), "has 4,294,967,296 pixels"),
        "odd-depth.bmp": (bitmap(7, b"\x00" * 16), "is of a kind that Pillow cannot read ("),
        "truncated.ppm": (saved(picture(), "PPM")[:-99], TRUNCATED),
        "bomb.ppm": (b"P6 99999 99999 255\n", "has 9,999,800,001 pixels"),
        "no-number.ppm": (b"P6 a 4 255\n", "is damaged ("),
        "float.pfm": (b"Pf 2 1 -1.0\n" + struct.pack("<2f", 0.5, 1), NO_RANGE),
        "truncated.webp": (saved(picture(), "WEBP")[:-20], "is damaged ("),
        "truncated.jp2": (saved(picture(), "JPEG2000")[:-20], "is damaged ("),
        "no-icons.ico": (b"\x00\x00\x01\x00\x00\x00" + b"\x00" * 20, HEADER),
    }
    cases = [Case(name, data) for name, data in good.items()]
    cases += [Case(name, data, reason) for name, (data, reason) in bad.items()]
    if "AVIF" in Image.SAVE:
        cases += [
            Case("plain.avif", saved(picture(), "AVIF", quality=95), within=LOSSY),
            Case("alpha.avif", saved(transparent(), "AVIF", quality=95), within=LOSSY),
            Case("orientation-6.avif", oriented(6, "AVIF", quality=95), within=LOSSY),
            Case("truncated.avif", saved(picture(), "AVIF")[:-20], TRUNCATED),
        ]
    return [
        *cases,
        Case("plain.webp", saved(picture(), "WEBP", quality=95), within=LOSSY),
        Case("gray.pgm", saved(gray(), "PPM"), left=GRAY),
        Case("16-bit.pgm", b"P5 16 4 65535\n" + (b"\x5a\xff" * 8 + b"\xff" * 16) * 4, left=GRAY),
        Case("bits.pbm", b"P4 16 4\n" + b"\xff\x00" * 4, left=BLACK),
        Case("bits.bmp", saved(gray(BLACK).convert("1"), "BMP"), left=BLACK),
        Case("16-bit.jp2", saved(Image.fromarray(np.full((9, 9), 0x5AFF, np.uint16)), "JPEG2000"), "", GRAY, GRAY),
    ]


def no_images() -> list[Case]:
    """What is found among photos and is none."""
    found = {
        "empty.jpg": (b"", "is empty (0 bytes)"),
        "one-byte.jpg": (b"\xff", NO_FORMAT),
        "zeros.jpg": (b"\x00" * 5000, "holds only zeros: it was never fully written; copy or download it again"),
        "noise.jpg": (np.random.default_rng(0).integers(128, 255, 5000, dtype=np.uint8).tobytes(), NO_FORMAT),
        "page.jpg": (b"<!DOCTYPE html><html><body>404</body></html>", WEB_PAGE),
        "page-after-a-line.jpg": (b"\xef\xbb\xbf\r\n  <HTML><body>403</body></HTML>", WEB_PAGE),
        "denied.jpg": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", WEB_PAGE),
        "drawing.svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "is SVG, a drawing; export"),
        "notes.jpg": (b"these are not pixels", "is text, no image"),
        "notes-in-greek.jpg": ("εικόνα".encode() * 300, "is text, no image"),
        "data.json": (json.dumps({"error": "not found"}).encode(), "is text, no image"),
        "drawing.xpm": (b'/* XPM */ static char *a[] = {"1 1 1 1", "a c #ff0000", "a"};', "is text, no image"),
        "pointer.jpg": (b"version https://git-lfs.github.com/spec/v1\nsize 3\n", "is a Git LFS pointer, not the image"),
        "photo.heic": (box(b"heic"), "is HEIC, which Pillow cannot read; convert it to JPEG"),
        "photo.heif": (box(b"mif1"), "is HEIF, which Pillow cannot read; convert it to JPEG"),
        "photo.cr3": (box(b"crx "), "is a camera raw file; export it as JPEG"),
        "damaged.avif": (box(b"avif"), "is "),
        "film.mp4": (box(b"mp42"), "is a video (MP4 or QuickTime), no image"),
        "film.mov": (box(b"qt  "), "is a video (MP4 or QuickTime), no image"),
        "film.avi": (b"RIFF\x00\x00\x00\x00AVI LIST", "is a video (AVI), no image"),
        "film.webm": (b"\x1aE\xdf\xa3\x9fB\x86\x81\x01", "is a video (Matroska or WebM), no image"),
        "photo.jxl": (b"\xff\x0a\xfa\x7f\x01\x90", "is JPEG XL, which Pillow cannot read; convert"),
        "broken.webp": (b"RIFF\x10\x00\x00\x00WEBPVP9 ", "is WebP that cannot be read"),
        "paper.pdf": (b"%PDF-1.7\n", "is a PDF, no image"),
        "layers.psd": (b"8BPS\x00\x01" + b"\x00" * 20, "is a Photoshop file; export it as JPEG or PNG"),
        "print.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is PostScript, no image"),
        "targa.tga": (saved(picture(), "TGA"), NO_FORMAT),
        "archive.jpg": (zipped(), "is a ZIP archive, no image; unpack it"),
        "packed.jpg": (gzip.compress(jpeg()), "is a gzip archive, no image; unpack it"),
        "object.jpg": (pickle.dumps({"a": 1}), "is a pickle, no image"),
        "array.npy": (b"\x93NUMPY\x01\x00", "is a NumPy array, no image; load it in Python and give the array"),
        "._photo.jpg": (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "is a Mac's notes about a file (AppleDouble)"),
        "Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an Office document or Windows' Thumbs.db, no image"),
    }
    return [Case(name, data, reason) for name, (data, reason) in found.items()]


def cases() -> list[Case]:
    """The whole corpus."""
    return [*names(), *jpegs(), *pngs(), *tiffs(), *other_formats(), *no_images()]
