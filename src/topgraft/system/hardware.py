"""Features of the processor that determine speed and rounding, its name, and the memory of the machine."""

from __future__ import annotations

import functools
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

# Sizes and names are not instruction sets: they tell machines apart that compute alike.
_NOT_FEATURES = ("architecture", "cpu_name", "num_", "l1", "l2", "l3")


def has_bf16() -> bool:
    """Whether the processor multiplies bfloat16 natively: AVX-512 BF16 or AMX on x86, BF16 on ARM.

    An x86 processor with AVX-512 alone can emulate it, more slowly than float32.
    """
    features = _capabilities()
    return any(features.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def bf16_pays() -> bool:
    """Whether the processor multiplies bfloat16 faster than float32.

    Intel's AVX-512 BF16 does not, where the AMX units are missing or, as in many virtual machines, switched off: a
    Xeon of 2023 without them did 165 billion operations a second in bf16 and 316 in fp32, AMD's 381 and 176.
    """
    features = _capabilities()
    return has_bf16() and not (is_x86() and _is_intel() and not features.get("amx_bf16", False))


def is_x86() -> bool:
    """Whether this is an Intel or AMD processor of 64 bits."""
    return platform.machine().lower() in ("x86_64", "amd64")


def processor_features() -> tuple[str, ...]:
    """The architecture and the sorted instruction sets, which select the kernels and so the rounding."""
    names = [
        f"{name}={value}" if not isinstance(value, bool) else name
        for name, value in _capabilities().items()
        if value and not name.startswith(_NOT_FEATURES)
    ]
    return (platform.machine().lower(), torch.backends.cpu.get_cpu_capability(), *sorted(names))


def processor_name() -> str:
    """The name of the processor as the system reports it."""
    name = _capabilities().get("cpu_name") or _linux_name() or platform.processor() or platform.machine()
    return str(name).strip()


def memory_bytes() -> int | None:
    """Memory of the machine in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return _windows_memory()


@functools.cache
def _capabilities() -> Mapping[str, Any]:
    if hasattr(torch.cpu, "get_capabilities"):  # newer than 2.6
        features: Mapping[str, Any] = torch.cpu.get_capabilities()
        return features
    older = {
        "avx2": "_is_avx2_supported",
        "avx512_f": "_is_avx512_supported",
        "avx512_bf16": "_is_avx512_bf16_supported",
        "avx512_vnni": "_is_vnni_supported",
        "amx_tile": "_is_amx_tile_supported",
        # So far every processor with AMX tiles multiplies bfloat16 with them.
        "amx_bf16": "_is_amx_tile_supported",
    }
    return {name: bool(getattr(torch.cpu, check, lambda: False)()) for name, check in older.items()}


def _is_intel() -> bool:
    return "intel" in f"{processor_name()} {platform.processor()}".lower()  # Windows says GenuineIntel


def _linux_name() -> str | None:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    match = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return match.group(1) if match else None


def _windows_memory() -> int | None:
    try:
        import ctypes

        kilobytes = ctypes.c_ulonglong(0)
        kernel = ctypes.windll.kernel32  # type: ignore[attr-defined]
        return kilobytes.value * 1024 if kernel.GetPhysicallyInstalledSystemMemory(ctypes.byref(kilobytes)) else None
    except (ImportError, AttributeError, OSError):
        return None
