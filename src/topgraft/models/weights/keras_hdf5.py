"""Find out where the arrays of a Keras file lie. Run as a program, in a process of its own; see
`topgraft.models.weights.keras`.

    python -P keras_layout.py FILE

prints one line of JSON: ``{"arrays": [{"name", "shape", "type", "offset"}, …]}`` or ``{"error": …}``. Offsets are in
bytes from the start of the HDF5 file: of FILE itself, or of `ARCHIVED` inside a ``.keras`` archive.

It imports h5py and nothing of Topgraft. Nothing in the file leads it elsewhere: links and data in other files are
refused, and so is what Keras never writes (chunks, compression), so that the arrays are plain bytes at an offset.
"""

from __future__ import annotations

import io
import json
import math
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import h5py

HDF5_START = b"\x89HDF\r\n\x1a\n"
"""The first bytes of an HDF5 file: section II.A of its file format specification."""
ARCHIVED = "model.weights.h5"
"""The file with the weights in a ``.keras`` archive."""
CONFIG = "config.json"
"""The file with the layers in a ``.keras`` archive."""

# What Keras numbers a layer by: its class in snake case. These are the classes that have weights here.
_NUMBERED = {"Conv2D": "conv2d", "Dense": "dense", "BatchNormalization": "batch_normalization"}
# In the order of `layer.weights`, which is the order of `vars` and of `weight_names`.
_DENSE = ("kernel", "bias")
_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

_LARGEST_CONFIG = 64 << 20  # bytes; that of ResNet50 has 0.2 MB
_LARGEST_GAIN = 4  # a zip gains 10 % on the bits of float weights; one made to fill the memory gains a thousandfold


def is_hdf5(path: Path) -> bool:
    """Whether a file is HDF5 itself; an archive is not."""
    with path.open("rb") as file:
        return file.read(len(HDF5_START)) == HDF5_START


def open_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A file of a ``.keras`` archive, its CRC checked.

    Raises:
        ValueError: it would unpack to more than it can have.
        KeyError, RuntimeError, zipfile.BadZipFile: it is not there, encrypted, or damaged.
    """
    found = archive.getinfo(name)
    if found.file_size > max(_LARGEST_CONFIG, _LARGEST_GAIN * found.compress_size):
        raise ValueError(f"{name} would unpack to {found.file_size:,} bytes, far more than it can have")
    return archive.read(found)  # reads no more than file_size


def find_arrays(path: Path) -> list[dict[str, Any]]:
    """Where each array of a file lies: its name, shape, type (NumPy's, or ``bfloat16``) and offset.

    Raises:
        Exception: of many kinds; the file is damaged, or holds what no weights need.
    """
    import h5py

    with ExitStack() as opened:
        source: Any = path
        layers = None
        if not is_hdf5(path):
            archive = opened.enter_context(zipfile.ZipFile(path))
            layers = _layers(json.loads(open_member(archive, CONFIG)))
            source = io.BytesIO(open_member(archive, ARCHIVED))
        file = opened.enter_context(h5py.File(source, "r"))
        found = _by_name(file) if _is_older(file) else _by_number(file, layers)
        return [
            {"name": f"{layer}.{kind}", **_place(array)}
            for layer, arrays in found
            for kind, array in zip(_kinds([array.shape for array in arrays]), arrays, strict=True)
        ]


def _kinds(shapes: Sequence[tuple[int, ...]]) -> Sequence[str]:
    """What the weights of a layer are; numbers where it is none of the layers that are known here."""
    if len(shapes) == len(_NORM) and all(len(shape) == 1 for shape in shapes):
        return _NORM
    if 1 <= len(shapes) <= len(_DENSE) and len(shapes[0]) > 1:
        return _DENSE[: len(shapes)]
    return [str(number) for number in range(len(shapes))]


# --- Keras 3: classes and numbers -----------------------------------------------------------------------------------


def _layers(config: Any) -> list[tuple[str, str]]:
    """Class and name of each layer of a functional or sequential model, in Keras's order."""
    try:
        return [(str(layer["class_name"]), str(layer["config"]["name"])) for layer in config["config"]["layers"]]
    except (KeyError, TypeError) as error:
        raise ValueError(f"{CONFIG} lists no layers: the model is neither functional nor sequential") from error


def _by_number(file: h5py.File, layers: Sequence[tuple[str, str]] | None) -> Iterator[tuple[str, list[h5py.Dataset]]]:
    groups = _group(file, "layers")
    names = _names_of_numbers(layers or (), tuple(groups))
    for number in groups:
        if "vars" in (group := _group(groups, number)):
            variables = _group(group, "vars")
            yield (
                names.get(number, f"layers/{number}"),
                [_array(variables, str(index)) for index in range(len(variables))],
            )


def _names_of_numbers(layers: Sequence[tuple[str, str]], groups: Sequence[str]) -> Mapping[str, str]:
    """``conv2d_10`` → the name of the eleventh Conv2D."""
    names = {name for _, name in layers}
    if names.issuperset(groups):  # a file that has the names already
        return {name: name for name in names}
    seen: Counter[str] = Counter()
    result = {}
    for kind, name in layers:
        if kind in _NUMBERED:
            number = f"_{seen[kind]}" if seen[kind] else ""
            result[_NUMBERED[kind] + number] = name
            seen[kind] += 1
    return result


# --- Older files: names ---------------------------------------------------------------------------------------------


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


# --- HDF5, with nothing in it that leads elsewhere ------------------------------------------------------------------


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

    found = _child(group, name)
    if not isinstance(found, h5py.Group):
        raise ValueError(f"{found.name} is not a group")
    return found


def _array(group: h5py.Group, name: str) -> h5py.Dataset:
    import h5py

    found = _child(group, name)
    if not isinstance(found, h5py.Dataset) or found.shape is None:
        raise ValueError(f"{found.name} is not an array")
    return found


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
    """Print the arrays of the file that is named on the command line."""
    answer: dict[str, Any]
    try:
        answer = {"arrays": find_arrays(Path(sys.argv[1]))}
    except Exception as error:  # h5py raises nearly every kind for damage; all of it is said to who asked
        answer = {"error": str(error) or type(error).__name__}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
