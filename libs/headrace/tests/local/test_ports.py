# SPDX-License-Identifier: Apache-2.0
import os
import socket

import pytest

from headrace.errors import Unavailable
from headrace.local import ports
from headrace.local.locks import lock_for_good
from headrace.local.ports import check_free, pick_ports, taken


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_picked_ports_are_distinct_and_free():
    picked = pick_ports(20)
    assert 20 == len(set(picked))
    assert not any(map(taken, picked))


def test_picked_port_is_picked_by_nobody_else_though_nothing_listens_there():
    (port,) = pick_ports(1)
    assert not lock_for_good(ports.RESERVATIONS / str(port))


def test_taken_port_names_setting_port_and_holder(listener):
    with pytest.raises(Unavailable) as caught:
        check_free({"kafka": listener})
    assert "PORT_TAKEN" == caught.value.reason
    assert str(listener) == caught.value.metadata["port"]
    assert "kafka" == caught.value.metadata["setting"]
    assert f"pid {os.getpid()} " in caught.value.metadata["holder"]


def test_port_taken_on_all_addresses_is_taken():
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104, that is what is tested
        assert taken(server.getsockname()[1])


def test_default_ports_are_distinct():
    assert len(ports.DEFAULT_PORTS) == len(set(ports.DEFAULT_PORTS.values()))
