# SPDX-License-Identifier: Apache-2.0
"""What ONNX Runtime may run models on, checked against what this installation of it has.

The runtime itself falls back to the CPU without a word that a caller hears: a wrong list would be
found by the bill. It is imported only when something else than the CPU is wanted.
"""

from __future__ import annotations

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


def _check_installed(wanted: list[str]) -> None:
    import onnxruntime

    there = onnxruntime.get_available_providers()
    for name in wanted:
        if PROVIDERS[name] not in there:
            raise ValueError(
                f"this ONNX Runtime has no {name}: install onnxruntime-gpu in place of onnxruntime,"
                " never both, or set cpu"
            )
