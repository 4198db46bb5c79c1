"""What a file is that is not an image, by its first bytes: so that the reason helps. No torch."""

from __future__ import annotations

_TRY_JPEG = "convert it to JPEG or PNG"

# Offset, bytes, and what to say. The first that fits wins.
_OTHERS: tuple[tuple[int, bytes, str], ...] = (
    (4, b"ftyphei", "is HEIC, which Pillow cannot read; convert it to JPEG"),
    (4, b"ftyphev", "is HEIC, which Pillow cannot read; convert it to JPEG"),
    (4, b"ftypmif1", "is HEIF, which Pillow cannot read; convert it to JPEG"),
    (4, b"ftypmsf1", "is HEIF, which Pillow cannot read; convert it to JPEG"),
    (4, b"ftypavi", "is AVIF that cannot be read: damaged, or Pillow is older than 11.3; convert it to JPEG"),
    (4, b"ftypcrx", "is a camera raw file; export it as JPEG"),
    (4, b"ftyp", "is a video (MP4 or QuickTime), no image"),
    (8, b"WEBP", "is WebP that cannot be read: damaged, or Pillow was built without it; " + _TRY_JPEG),
    (8, b"AVI ", "is a video (AVI), no image"),
    (8, b"WAVE", "is sound (WAV), no image"),
    (0, b"\x1aE\xdf\xa3", "is a video (Matroska or WebM), no image"),
    (0, b"\x00\x00\x01\xba", "is a video (MPEG), no image"),
    (0, b"\x00\x00\x01\xb3", "is a video (MPEG), no image"),
    (0, b"ID3", "is sound (MP3), no image"),
    (0, b"\xff\x0a", "is JPEG XL, which Pillow cannot read; " + _TRY_JPEG),
    (0, b"\x00\x00\x00\x0cJXL ", "is JPEG XL, which Pillow cannot read; " + _TRY_JPEG),
    (0, b"8BPS", "is a Photoshop file; export it as JPEG or PNG"),
    (0, b"gimp xcf", "is a GIMP file; export it as JPEG or PNG"),
    (0, b"%PDF", "is a PDF, no image"),
    (0, b"%!PS", "is PostScript, no image"),
    (0, b"\xc5\xd0\xd3\xc6", "is PostScript, no image"),
    (0, b"PK\x03\x04", "is a ZIP archive, no image; unpack it"),
    (0, b"\x1f\x8b", "is a gzip archive, no image; unpack it"),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive, no image; unpack it"),
    (0, b"Rar!", "is a RAR archive, no image; unpack it"),
    (0, b"\x28\xb5\x2f\xfd", "is a Zstandard archive, no image; unpack it"),
    (0, b"\x00\x05\x16\x07", "is a Mac's notes about a file (AppleDouble), no image; delete it"),
    (0, b"\xd0\xcf\x11\xe0", "is an Office document or Windows' Thumbs.db, no image"),
    (0, b"version https://git-lfs", "is a Git LFS pointer, not the image itself; run git lfs pull"),
    (0, b"\x93NUMPY", "is a NumPy array, no image; load it in Python and give the array"),
    (0, b"\x89HDF", "is HDF5, no image"),
    (0, b"SIMPLE  =", "is FITS, which has no defined black and white; " + _TRY_JPEG),
    (0, b"\x80\x02", "is a pickle, no image"),
    (0, b"\x80\x03", "is a pickle, no image"),
    (0, b"\x80\x04", "is a pickle, no image"),
    (0, b"\x80\x05", "is a pickle, no image"),
)


def name_other(data: bytes) -> str:
    """The reason why bytes are not an image that can be read: one line that says what they are, and what to do.

    Args:
        data: the file's bytes; the first thousand are looked at.
    """
    for offset, magic, reason in _OTHERS:
        if data.startswith(magic, offset):
            return reason
    start = data[:1024]
    if not start.strip(b"\x00"):
        return "holds only zeros: it was never fully written; copy or download it again"
    lower = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if b"<svg" in lower:
        return "is SVG, a drawing; export it as PNG"
    if lower.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<body")):
        return "is a web page or XML, no image; the download probably failed"
    if _is_text(start):
        return "is text, no image"
    return "is not an image in a format that can be read; convert it to JPEG or PNG"


def _is_text(start: bytes) -> bool:
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3 or not error.start:  # not merely a character cut in two
            return False
        text = start[: error.start].decode("utf-8")
    return all(character.isprintable() or character in "\t\r\n\f" for character in text)


# First bytes of the files, from the formats' specifications; ISO media files carry their brand behind a length.
_SIGNATURES = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF8", "GIF"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"\0\0\1\0", "ICO"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xffO\xffQ", "JPEG 2000"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    *((b"P" + digit, "PNM") for digit in (b"1", b"2", b"3", b"4", b"5", b"6")),
)

_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"mif1": "HEIF"}


def name_format(data: bytes) -> str:
    """The name of an image format by a file's first bytes; ``other`` where they are none of the known."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "other")
    return next((name for start, name in _SIGNATURES if data.startswith(start)), "other")
