"""A file that is not an image is told by its first bytes."""

from __future__ import annotations

import pytest

from topgraft.data.file_types import name_other


@pytest.mark.parametrize(
    ("data", "start"),
    [
        (b"\0\0\0\x18ftypheic\0\0", "is HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0", "is HEIF"),
        (b"\0\0\0\x18ftypavif\0\0", "is AVIF that cannot be read"),
        (b"\0\0\0\x18ftypcrx \0\0", "is a camera raw file"),
        (b"\0\0\0\x18ftypisom\0\0", "is a video (MP4"),
        (b"RIFF\0\0\0\0WEBP", "is WebP that cannot be read"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video (AVI)"),
        (b"RIFF\0\0\0\0WAVEfmt ", "is sound (WAV)"),
        (b"%PDF-1.7", "is a PDF"),
        (b"PK\x03\x04rest", "is a ZIP archive"),
        (b"\x1f\x8b\x08", "is a gzip archive"),
        (b"\x80\x04\x95", "is a pickle"),
        (b"\x93NUMPY\x01", "is a NumPy array"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        (b"\0" * 2000, "holds only zeros"),
        (b"\xef\xbb\xbf  <svg xmlns='x'>", "is SVG"),
        (b"\r\n<!DOCTYPE html><html>", "is a web page or XML"),
        (b"<?xml version='1.0'?><svg/>", "is SVG"),
        (b"image,label\na.png,cat\n", "is text"),
        ("Käfer ".encode() * 400, "is text"),
        (("x" * 1023 + "ä").encode(), "is text"),  # the last character is cut in two
        (b"\xff\xfe\x01\x02binary", "is not an image in a format that can be read"),
        (b"\x01\x02\x03", "is not an image in a format that can be read"),
    ],
)
def test_the_reason_says_what_it_is(data: bytes, start: str) -> None:
    reason = name_other(data)
    assert reason.startswith(start)
    assert "\n" not in reason
