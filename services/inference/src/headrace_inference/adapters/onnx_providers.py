# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime may run models on, checked against what this installation of it has.

The runtime itself falls back to the CPU without a word that a caller hears: a wrong list would be
found by the bill. It is imported only when something else than the CPU is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "cpu": "CPUExecutionProvider",
}


def providers(names: str) -> tuple[str, ...]:
    """The runtime's words for `tensorrt,cuda,cpu` or a part of it; raises ValueError."""
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in PROVIDERS or wanted.count(name) > 1:
            raise ValueError(f"{name!r} is none of {', '.join(PROVIDERS)}, or there twice")
    if wanted != ["cpu"]:
        _check_installed(wanted)
    return tuple(PROVIDERS[name] for name in wanted)


def provider_options(
    providers: Sequence[str], *, device_memory_bytes_max: int | None
) -> list[dict[str, object]]:
    """Of each, in order: https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html

    An arena that grows by powers of two would reach its bound with half of it unused.
    """
    if device_memory_bytes_max is None:
        return [{} for _ in providers]
    bounded: dict[str, object] = {
        "gpu_mem_limit": device_memory_bytes_max,
        "arena_extend_strategy": "kSameAsRequested",
    }
    return [bounded if name == PROVIDERS["cuda"] else {} for name in providers]


def _check_installed(wanted: list[str]) -> None:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    for name in wanted:
        if PROVIDERS[name] not in there:
            raise ValueError(
                f"this ONNX Runtime has no {name}: install onnxruntime-gpu in place of onnxruntime,"
                " never both, or set cpu"
            )
