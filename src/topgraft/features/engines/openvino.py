"""The OpenVINO engine: the network compiled for this processor, several requests in flight."""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from topgraft.data.loader import Batch
from topgraft.errors import TopgraftError, UsageError
from topgraft.system.files import atomic_write
from topgraft.system.hardware import has_bf16, is_x86, processor_features
from topgraft.system.threads import torch_threads

from .base import EngineChoice, EngineKind, Precision, Rows, Tolerance, by_speed, installed_version, parts

# Four images keep a core's caches full and the overhead of a request small: EfficientNet-Lite0 loses a tenth
# with 1 or 8 (benchmarks/engines.py --batch-sizes).
_BATCH_SIZE = 4
# Twice as many requests as OpenVINO computes at a time, so that none waits for Python to bring the next.
_REQUESTS_PER_STREAM = 2
_HINT = {"bf16": "bf16", "fp32": "f32"}
_FORMAT = "1"  # of the files below


@dataclass(frozen=True)
class OpenvinoEngine:
    """A compiled network. See `topgraft.features.engines.base.Engine`."""

    choice: EngineChoice
    version: str
    compiled: Any

    def run(self, batches: Iterable[Batch]) -> Iterator[Rows]:
        """See `topgraft.features.engines.base.Engine.run`."""
        shape = tuple(self.compiled.output(0).shape)[1:]
        size = self.choice.batch_size
        streams = self.compiled.get_property("NUM_STREAMS")
        # Requests without callbacks: a callback needs Python's lock in OpenVINO's thread, and AsyncInferQueue was
        # seen to wait for ever when it went away while one still held on.
        free = [self.compiled.create_infer_request() for _ in range(_REQUESTS_PER_STREAM * streams)]
        running: deque[tuple[Any, _Pending, int]] = deque()
        waiting: deque[_Pending] = deque()

        def collect() -> None:
            request, pending, start = running[0]
            request.wait()  # without holding Python's lock
            running.popleft()
            _store(request, (pending, start))
            free.append(request)

        try:
            for batch in batches:
                if len(batch.indices) == 0:
                    continue
                pending = _Pending.of(batch, shape, size)
                waiting.append(pending)
                for start, part in pending.parts:
                    if not free:
                        collect()
                    request = free.pop()
                    request.start_async({0: part}, share_inputs=True)
                    running.append((request, pending, start))
                while waiting and waiting[0].is_done:
                    yield waiting.popleft().result
            while running:
                collect()
            while waiting:
                yield waiting.popleft().result
        finally:
            # A request that still runs reads pixels that are about to go.
            for request, _, _ in running:
                request.wait()


@dataclass(frozen=True, eq=False)
class _Pending:
    """A batch whose parts are being computed; it keeps their pixels alive."""

    indices: NDArray[np.int64]
    rows: NDArray[np.float32]
    parts: tuple[tuple[int, NDArray[np.uint8]], ...]
    done: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, batch: Batch, shape: tuple[int, ...], size: int) -> _Pending:
        rows = np.empty((len(batch.indices), *shape), dtype=np.float32)
        return cls(batch.indices, rows, tuple(parts(batch, size)))

    @property
    def is_done(self) -> bool:
        return len(self.done) == len(self.parts)

    @property
    def result(self) -> Rows:
        return self.indices, self.rows


def _store(request: Any, place: tuple[_Pending, int]) -> None:
    pending, start = place
    rows = pending.rows[start:]
    output = request.get_output_tensor(0).data
    rows[: len(output)] = output[: len(rows)]
    pending.done.append(start)


def import_openvino() -> ModuleType:
    """The module `openvino`, with its usage telemetry off.

    On import, and at every conversion, the package reports to its maker through ``openvino_telemetry``, and
    writes an identity to the home folder. Where that module cannot be imported it falls back to a stub that
    does nothing (``openvino/tools/ovc/telemetry_stub.py``); so it is made unimportable first.

    Raises:
        TopgraftError: it is installed, but cannot be imported.
    """
    if "openvino.tools.ovc" in sys.modules:
        _silence_imported()
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    try:
        import openvino
    except (ImportError, OSError) as error:
        raise TopgraftError(
            f"OpenVINO is installed but cannot be imported ({error}); use PyTorch with --engine torch"
        ) from error
    module: ModuleType = openvino
    return module


def _silence_imported() -> None:
    """It was imported before in this process: put the stub where its modules hold the real thing."""
    from openvino.tools.ovc import telemetry_stub

    for name, module in list(sys.modules.items()):
        if name.startswith("openvino.tools.ovc") and hasattr(module, "tm"):
            vars(module)["tm"] = telemetry_stub


def devices() -> tuple[str, ...]:
    """``cpu`` where OpenVINO is installed."""
    return ("cpu",) if installed_version("openvino") is not None else ()


def precisions(device: str) -> tuple[Precision, ...]:
    """``bf16`` on an x86 processor that has it, first where it pays; OpenVINO does not use that of ARM processors."""
    if not (is_x86() and has_bf16()):
        return ("fp32",)
    return by_speed()


def batch_size(device: str) -> int:
    """Images of one request."""
    return _BATCH_SIZE


def build(choice: EngineChoice, prefix: nn.Module, input_size: int, key: str, folder: Path) -> OpenvinoEngine:
    """See `topgraft.features.engines.choose.build_engine`. The compiled network is kept in `folder`."""
    version = str(installed_version("openvino"))
    openvino = import_openvino()
    core = openvino.Core()
    if choice.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise UsageError("OpenVINO cannot compute in bf16 on this processor; use --precision fp32")
    options = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": _HINT[choice.precision],
        "INFERENCE_NUM_THREADS": choice.threads,
        # Threads decode images meanwhile; cores given to one or the other for good would wait.
        "ENABLE_CPU_PINNING": False,
    }
    record = json.dumps([_FORMAT, key, version, asdict(choice), input_size, processor_features()])
    path = folder / f"{hashlib.sha256(record.encode()).hexdigest()[:32]}.openvino"
    compiled = _load(core, path, options)
    if compiled is None:
        compiled = core.compile_model(_convert(openvino, prefix, choice.batch_size, input_size), "CPU", options)
        _save(compiled, path)
    return OpenvinoEngine(choice, version, compiled)


def _convert(openvino: ModuleType, prefix: nn.Module, size: int, side: int) -> Any:
    pixels = torch.zeros(size, side, side, 3, dtype=torch.uint8)
    # One thread: others decode images meanwhile.
    with torch_threads(1), torch.no_grad(), warnings.catch_warnings():
        # Deprecated, but the one way in that takes half a second; torch.export takes ten.
        for kind in (DeprecationWarning, FutureWarning):  # the second from PyTorch 2.14 on
            warnings.filterwarnings("ignore", category=kind)
        warnings.filterwarnings("ignore", category=torch.jit._trace.TracerWarning)
        # Without the check, which runs the network twice more: the engines' contract test compares the numbers.
        traced = torch.jit.trace(prefix, pixels, check_trace=False)  # type: ignore[no-untyped-call]
        return openvino.convert_model(traced, input=openvino.PartialShape([size, side, side, 3]))


def _save(compiled: Any, path: Path) -> None:
    blob = compiled.export_model().getvalue()
    try:
        with atomic_write(path) as file:
            file.write(hashlib.sha256(blob).digest())
            file.write(blob)
    except OSError:
        return  # a full disk or a read-only folder costs a conversion at the next start, and nothing now


def _load(core: Any, path: Path, options: dict[str, Any]) -> Any | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, blob = data[:32], data[32:]
    if hashlib.sha256(blob).digest() != digest:
        return None
    try:
        return core.import_model(blob, "CPU", options)
    except RuntimeError:  # made by a build of OpenVINO that says it is the same and is not
        return None


KIND = EngineKind(
    package="openvino",
    devices=devices,
    precisions=precisions,
    batch_size=batch_size,
    tolerance={"fp32": Tolerance(0.9999, 0.9999, 0.005), "bf16": Tolerance(0.99, 0.999, 0.02)},
    build=build,
)
