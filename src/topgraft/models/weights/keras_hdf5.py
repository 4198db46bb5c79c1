"""Find the arrays of a Keras file. Run as a program in a separate process; see `topgraft.models.weights.keras`.

    python -P keras_hdf5.py FILE

prints one line of JSON: the result of `find_arrays`, or ``{"error": …}``. Offsets are in bytes from the start of the
HDF5 file: of FILE itself, or of `ARCHIVED` in a ``.keras`` archive.

It imports h5py and nothing of Topgraft. Links and data in other files are refused, and so is what Keras never writes
(chunks, compression), so that the arrays are plain bytes at an offset.
"""

from __future__ import annotations

import io
import json
import math
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

HDF5_START = b"\x89HDF\r\n\x1a\n"
"""The first bytes of an HDF5 file: section II.A of its file format specification."""
ARCHIVED = "model.weights.h5"
"""The file with the weights in a ``.keras`` archive."""

_LARGEST_CONFIG = 64 << 20  # bytes; that of ResNet50 has 0.2 MB
_LARGEST_GAIN = 4  # a zip gains 10 % on the bits of float weights; one made to fill the memory gains a thousandfold


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5; an archive that contains one is not."""
    with path.open("rb") as file:
        return file.read(len(HDF5_START)) == HDF5_START


def open_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of a ``.keras`` archive, its CRC checked.

    Raises:
        ValueError: it would unpack to more than it can have.
        KeyError, RuntimeError, zipfile.BadZipFile: it is not there, encrypted, or damaged.
    """
    member = archive.getinfo(name)
    if member.file_size > max(_LARGEST_CONFIG, _LARGEST_GAIN * member.compress_size):
        raise ValueError(f"{name} would unpack to {member.file_size:,} bytes, far more than it can have")
    return archive.read(member)  # reads no more than file_size


def find_arrays(path: Path) -> dict[str, Any]:
    """Where the arrays of a file are.

    Returns:
        ``layers``: name and ``arrays`` of each layer, and of each array its shape, type (NumPy's, or ``bfloat16``) and
        offset. ``numbered``: whether the names are classes with numbers, as in files of Keras 3.

    Raises:
        Exception: of many kinds; the file is damaged, or holds what no weights need.
    """
    import h5py

    source: Any = path
    if not is_hdf5(path):
        with zipfile.ZipFile(path) as archive:
            source = io.BytesIO(open_member(archive, ARCHIVED))
    with h5py.File(source, "r") as file:
        numbered = not _is_older(file)
        layers = _by_number(file) if numbered else _by_name(file)
        return {
            "numbered": numbered,
            "layers": [{"name": name, "arrays": [_place(array) for array in arrays]} for name, arrays in layers],
        }


# --- Files of Keras 3, whose layers have numbers --------------------------------------------------------------------


def _by_number(file: h5py.File) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    groups = _group(file, "layers")
    for number in groups:
        group = _group(groups, number)
        variables = _group(group, "vars") if "vars" in group else ()
        yield number, [_array(variables, str(index)) for index in range(len(variables))]


# --- Older files, whose layers have names ---------------------------------------------------------------------------


def _is_older(file: h5py.File) -> bool:
    return any(name.startswith(("layer_names", "model_config")) for name in file.attrs)


def _by_name(file: h5py.File) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    root = _group(file, "model_weights") if "model_weights" in file else file
    if "backend" in root.attrs and _strings(root, "backend") == ["theano"]:
        raise ValueError("its backend was Theano, which mirrors kernels; load and save it with Keras on another one")
    for layer in _strings(root, "layer_names"):
        group = _group(root, layer)
        yield layer, [_array(group, name) for name in _strings(group, "weight_names")]


def _strings(group: h5py.Group, name: str) -> list[str]:
    """Strings of an attribute; Keras cuts one of more than 64 kB into ``NAME0``, ``NAME1`` …"""
    parts = [name] if name in group.attrs else []
    while parts[:1] != [name] and f"{name}{len(parts)}" in group.attrs:
        parts.append(f"{name}{len(parts)}")
    if not parts:
        raise ValueError(f"{group.name} has no attribute {name}")
    result: list[str] = []
    for part in parts:
        value = group.attrs[part]
        values = [value] if isinstance(value, (str, bytes)) else value.ravel().tolist()
        result += [item.decode("utf-8") if isinstance(item, bytes) else str(item) for item in values]
    return result


# --- HDF5 without links to other places -----------------------------------------------------------------------------


def _child(group: h5py.Group, name: str) -> Any:
    import h5py

    for part in name.split("/"):
        if not isinstance(group, h5py.Group):
            raise ValueError(f"{group.name} is not a group")
        link = group.get(part, getlink=True) if part not in ("", ".") else None
        place = f"{group.name.rstrip('/')}/{part}"
        if link is None:
            raise ValueError(f"it lacks {place}")
        if not isinstance(link, h5py.HardLink):
            raise ValueError(f"{place} is a link to another place, which is not followed")
        group = group[part]
    return group


def _group(group: h5py.Group, name: str) -> h5py.Group:
    import h5py

    child = _child(group, name)
    if not isinstance(child, h5py.Group):
        raise ValueError(f"{child.name} is not a group")
    return child


def _array(group: h5py.Group, name: str) -> h5py.Dataset:
    import h5py

    child = _child(group, name)
    if not isinstance(child, h5py.Dataset) or child.shape is None:
        raise ValueError(f"{child.name} is not an array")
    return child


def _place(array: h5py.Dataset) -> dict[str, Any]:
    """Shape, type and offset of an array whose values are plain bytes in this file."""
    import h5py

    if array.external or array.is_virtual:
        raise ValueError(f"the values of {array.name} are in another file, which is not opened")
    if array.chunks or array.id.get_create_plist().get_nfilters():
        raise ValueError(
            f"{array.name} is compressed or in chunks, as Keras never writes it; unpack the file with "
            "h5repack --filter=NONE --layout=CONTI"
        )
    declared, stored = math.prod(array.shape) * array.dtype.itemsize, array.id.get_storage_size()
    offset = array.id.get_offset()
    if offset is None or declared != stored:
        raise ValueError(f"{array.name} declares {declared:,} bytes and has {stored:,}")
    kind = array.dtype.str
    if array.attrs.get("dtype") == "bfloat16" and array.dtype.itemsize == 2:  # Keras's mark on bytes without a type
        kind = "bfloat16"
    elif not array.id.get_type().equal(h5py.h5t.py_create(array.dtype)):
        raise ValueError(f"{array.name} has numbers of an uncommon kind")
    return {"shape": list(array.shape), "type": kind, "offset": offset}


def main() -> None:
    """Print the arrays of the file named on the command line."""
    try:
        result = find_arrays(Path(sys.argv[1]))
    except Exception as error:  # h5py raises nearly every kind of exception for damaged files
        result = {"error": str(error) or type(error).__name__}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
