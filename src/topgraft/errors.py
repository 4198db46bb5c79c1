"""What Topgraft raises. Every message says what is wrong, where, and what to do next."""

from __future__ import annotations


class TopgraftError(Exception):
    """Base of all errors that Topgraft raises on purpose; the command line exits with 1."""


class UsageError(TopgraftError):
    """A choice that cannot work: an unknown name, a value out of range; the command line exits with 2."""


class DataError(TopgraftError):
    """Images or labels that cannot be used: none found, one class, unreadable under ``--strict``."""


class WeightsError(TopgraftError):
    """Weights that are not here, are damaged, or do not fit the network."""


class ArtifactError(TopgraftError):
    """An artifact that is damaged, is from a newer version, or is no artifact."""


class DownloadError(TopgraftError):
    """A download that could not be finished: no network, offline asked for, wrong checksum, full disk."""


class CacheError(TopgraftError):
    """Features that cannot be kept: they do not fit the stored precision, or the disk does not take them."""


class ImageError(TopgraftError):
    """One image that cannot be read; the message is the reason in one line, without the name."""
