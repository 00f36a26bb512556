# SPDX-License-Identifier: Apache-2.0
"""A held port is shared by those who ask to, and taken for everybody else."""

import socket
from contextlib import ExitStack, closing

import pytest

from headrace.errors import Unavailable
from headrace_kit.listening import HeldPort, check_free

HOST = "127.0.0.1"


def a_server(port, *, reuse_port=True):
    return socket.create_server((HOST, port), reuse_port=reuse_port)


@pytest.fixture
def port():
    with a_server(0) as found:
        number = found.getsockname()[1]
    return number


@pytest.fixture
def held(port):
    made = HeldPort(HOST, port)
    made.start()
    yield made
    made.stop(1.0)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_held_port_is_taken_for_a_service_however_many_workers_listen(held, port, workers):
    with ExitStack() as listening:
        for _ in range(workers):
            listening.enter_context(a_server(port))

        with pytest.raises(Unavailable, match="PORT_TAKEN"):
            check_free(HOST, port)
        with pytest.raises(Unavailable, match="PORT_TAKEN"):
            HeldPort(HOST, port).start()
        with pytest.raises(OSError, match="in use"):
            a_server(port, reuse_port=False)


@pytest.mark.parametrize("reuse_port", [False, True])
def test_port_that_another_service_listens_on_cannot_be_held(port, reuse_port):
    second = HeldPort(HOST, port)
    with a_server(port, reuse_port=reuse_port):
        with pytest.raises(Unavailable, match="PORT_TAKEN"):
            second.check_port()
        with pytest.raises(Unavailable, match="PORT_TAKEN"):
            second.start()


def test_connections_reach_the_workers_and_never_the_holder(held, port):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((HOST, port), 5.0)

    with a_server(port) as one, a_server(port) as two:
        one.settimeout(0.0)
        two.settimeout(0.0)
        callers = [socket.create_connection((HOST, port), 5.0) for _ in range(64)]
        found = {id(each): _accepted(each) for each in (one, two)}
        for caller in callers:
            caller.close()

    assert 64 == sum(found.values())
    assert all(found.values())


def _accepted(server):
    count = 0
    while True:
        try:
            accepted, _ = server.accept()
        except BlockingIOError:
            return count
        accepted.close()
        count += 1


def test_port_is_free_when_its_holder_and_the_workers_have_gone(held, port):
    with a_server(port), closing(socket.create_connection((HOST, port), 5.0)):
        held.stop(1.0)

    check_free(HOST, port)
    a_server(port, reuse_port=False).close()


def test_workers_may_listen_where_connections_of_a_service_before_wait_for_their_end(port):
    with a_server(port, reuse_port=False) as before:
        caller = socket.create_connection((HOST, port), 5.0)
        before.accept()[0].close()  # the side that closes first waits: TIME_WAIT
        caller.close()

    held = HeldPort(HOST, port)
    held.start()
    with closing(a_server(port)):
        held.stop(1.0)


def test_taken_port_of_an_address_in_brackets_is_told():
    try:
        server = socket.create_server(("::1", 0), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server, pytest.raises(Unavailable, match="PORT_TAKEN"):
        check_free("[::1]", server.getsockname()[1])
