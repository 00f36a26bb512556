# SPDX-License-Identifier: Apache-2.0
"""What models run on is what the settings say, or the start and the loads say why not."""

import pytest
from pydantic import ValidationError

from headrace.errors import Unavailable
from headrace_inference.adapters.onnx_providers import PROVIDERS, providers
from headrace_inference.adapters.onnx_runtime import OnnxModelRuntime
from headrace_inference.settings import Settings
from headrace_inference.testing import a_model, a_served_version


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
    runtime = OnnxModelRuntime(threads=1, providers=[PROVIDERS["cuda"], PROVIDERS["cpu"]])

    with pytest.warns(UserWarning, match="CUDA"), pytest.raises(Unavailable, match="PROVIDER_UN"):
        runtime.load(a_model(1.0), a_served_version(1))
