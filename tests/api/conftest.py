# SPDX-License-Identifier: Apache-2.0
import pytest

from harness import Client, Contract, Server


@pytest.fixture(scope="session")
def contract():
    return Contract()


@pytest.fixture(scope="module")
def server():
    """The default model with default options, for all tests of a file."""
    with Server() as running:
        yield running


@pytest.fixture(scope="module")
def client(server, contract):
    return Client(server, contract)


@pytest.fixture
def start(contract):
    """start(OPTION...) -> client of a server of its own, stopped after the test."""
    running = []

    def start_server(*options, headers=None, **how):
        running.append(Server(*options, **how))
        return Client(running[-1], contract, headers)

    yield start_server
    for one in running:
        if one.process.poll() is None:
            one.stop()
        one.check_log()
