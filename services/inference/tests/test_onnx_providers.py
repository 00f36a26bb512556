# SPDX-License-Identifier: Apache-2.0
"""What models run on is what the settings say, or the start and the loads say why not."""

from types import SimpleNamespace

import onnxruntime
import pytest
from pydantic import ValidationError

from headrace.errors import HeadraceError, Invalid, Unavailable
from headrace_inference.adapters.onnx_providers import PROVIDERS, providers
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime, OnnxSession
from headrace_inference.settings import Settings
from headrace_inference.testing import a_model, a_served_version
from headrace_kit.error_status import retry_after_s


@pytest.fixture
def installed(monkeypatch):
    """Sets what the runtime says that it has."""

    def install(*names):
        found = [PROVIDERS[name] for name in names]
        monkeypatch.setattr("onnxruntime.get_available_providers", lambda: found)

    return install


def test_providers_keep_the_order_of_preference(installed):
    installed("cpu", "cuda", "tensorrt")

    expected = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")
    assert expected == providers("tensorrt, cuda,cpu")


@pytest.mark.parametrize("names", ["", "gpu", "cpu,cpu", "cpu,"])
def test_provider_that_is_none_is_refused_with_those_that_are(names):
    with pytest.raises(ValidationError, match="none of tensorrt, cuda, cpu"):
        Settings(model_providers=names)


def test_provider_that_is_not_installed_is_refused_with_what_to_do(installed):
    installed("cpu")

    with pytest.raises(ValidationError, match="has no cuda: install onnxruntime-gpu in place of"):
        Settings(model_providers="cuda,cpu")


def test_model_is_not_run_silently_on_something_else():
    """The runtime here has no CUDA, and falls back to the CPU, as it does without a driver."""
    runtime = OnnxModelRuntime(
        threads=1, run_bytes_max=1 << 30, providers=[PROVIDERS["cuda"], PROVIDERS["cpu"]]
    )

    with pytest.warns(UserWarning, match="CUDA"), pytest.raises(Unavailable, match="PROVIDER_UN"):
        runtime.load(a_model(1.0), a_served_version(1))


def test_no_session_spins_or_has_an_arena(monkeypatch):
    """By what the runtime tells of each; a thread that spins takes a core from other models."""
    made, real = [], onnxruntime.InferenceSession

    def session(*given, **words):
        made.append(real(*given, **words))
        return made[-1]

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    runtime = OnnxModelRuntime(threads=2, run_bytes_max=1 << 30, providers=[PROVIDERS["cpu"]])
    runtime.load(a_model(1.0), a_served_version(1))

    assert made
    for options in (each.get_session_options() for each in made):
        assert not options.enable_cpu_mem_arena
        for threads in ("intra", "inter"):
            entry = f"session.{threads}_op.allow_spinning"
            assert "0" == options.get_session_config_entry(entry)


@pytest.mark.parametrize("bytes_max", [1 << 30, None])
def test_arena_of_cuda_is_bounded_by_what_the_settings_say(bytes_max, monkeypatch):
    told = {}

    def session(*_, **words):
        told.update(words)
        raise RuntimeError("no device")

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    on = (PROVIDERS["tensorrt"], PROVIDERS["cuda"], PROVIDERS["cpu"])
    runtime = OnnxModelRuntime(
        threads=1, run_bytes_max=1 << 30, providers=on, device_memory_bytes_max=bytes_max
    )
    with pytest.raises(Invalid):
        runtime.load(a_model(1.0), a_served_version(1))

    bounded = {"gpu_mem_limit": bytes_max, "arena_extend_strategy": "kSameAsRequested"}
    assert [{}, bounded if bytes_max else {}, {}] == told["provider_options"]
    assert list(on) == told["providers"]


def test_bound_of_a_device_that_no_model_runs_on_is_refused(installed):
    installed("cpu", "cuda")

    assert (
        1 << 30
        == Settings(
            model_providers="cuda,cpu", model_device_memory_bytes_max=1 << 30
        ).model_device_memory_bytes_max
    )
    with pytest.raises(ValidationError, match="bounds cuda, which no model runs on"):
        Settings(model_device_memory_bytes_max=1 << 30)


def a_session(error, *, on_device):
    """Whose runs raise this."""

    def fails(*_):
        raise error

    return OnnxSession(
        SimpleNamespace(
            get_inputs=list,
            get_outputs=list,
            _sess=SimpleNamespace(run=fails),
        ),
        digest="",
        run_bytes_max=1 << 30,
        on_device=on_device,
    )


FULL = [
    "Status Message: bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 8192",
    "BFCArena::AllocateRawInternal Available memory of 16 is smaller than requested bytes of 512",
    "CUDA failure 2: out of memory ; GPU=0 ; hostname=h ; expr=cudaMalloc((void**)&p, size);",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0 ; hostname=h ; expr=cublasCreate(&h);",
]


@pytest.mark.parametrize("words", FULL)
@pytest.mark.parametrize(("on_device", "reason"), [(True, "DEVICE_MEMORY"), (False, "MODEL_ERROR")])
def test_device_that_is_full_is_told_as_a_limit(words, on_device, reason):
    """Words of a file that runs on the CPU, in the names of its nodes, are none of a device."""
    with pytest.raises(HeadraceError, match=reason) as raised:
        a_session(RuntimeError(words), on_device=on_device).run({}, [])

    assert not on_device or retry_after_s(raised.value) is None


def test_other_failure_on_a_device_is_the_models():
    with pytest.raises(HeadraceError, match="MODEL_ERROR"):
        a_session(RuntimeError("CUDA failure 700"), on_device=True).run({}, [])
