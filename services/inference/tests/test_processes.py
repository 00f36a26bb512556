# SPDX-License-Identifier: Apache-2.0
"""What several processes of the service share: ports, memory, threads."""

import pytest
from pydantic import ValidationError

from headrace_inference.adapters.cpu_quota import cpus_allowed
from headrace_inference.adapters.process_memory import memory_allowed_bytes
from headrace_inference.settings import Settings


def test_one_process_has_all_memory_and_threads_for_itself():
    settings = Settings()

    assert 1 == settings.process_count
    assert memory_allowed_bytes() // 2 == settings.model_memory_share_bytes
    assert min(1 << 30, memory_allowed_bytes() // 8) == settings.run_memory_bytes_max
    assert cpus_allowed() == settings.threads_by_model


def test_several_have_equal_shares_of_the_memory_and_a_thread_each():
    settings = Settings(processes=4, model_memory_bytes_max=1000)

    assert 250 == settings.model_memory_share_bytes
    assert min(1 << 30, memory_allowed_bytes() // 32) == settings.run_memory_bytes_max
    assert 1 == settings.threads_by_model
    assert 3 == Settings(processes=4, model_threads=3).threads_by_model


def test_none_named_is_one_for_each_cpu():
    assert cpus_allowed() == Settings(processes=0).process_count


@pytest.mark.parametrize("processes", [-1, 65])
def test_number_out_of_bounds_is_refused(processes):
    with pytest.raises(ValidationError, match="processes"):
        Settings(processes=processes)


@pytest.mark.parametrize("port", ["grpc_port", "rest_port"])
def test_port_without_a_number_cannot_be_shared(port):
    assert 0 == getattr(Settings(**{port: 0}), port)
    with pytest.raises(ValidationError, match="share a port"):
        Settings(processes=2, **{port: 0})
