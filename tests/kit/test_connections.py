"""One address, or one key, cannot take every connection."""

from contextlib import ExitStack
from typing import Any

import pytest

from kit import connections
from kit.connections import TooManyConnections, connection


def test_an_address_holds_so_many_and_others_more(settings: Any) -> None:
    settings.CONNECTIONS_PER_ADDRESS = 2
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(connection("192.0.2.1"))
        with pytest.raises(TooManyConnections, match=r"192\.0\.2\.1 has 2 connections open"):
            stack.enter_context(connection("192.0.2.1"))
        stack.enter_context(connection("192.0.2.2"))
    with connection("192.0.2.1"):
        pass
    assert not connections._open


def test_a_key_holds_so_many_over_all_addresses(settings: Any) -> None:
    settings.CONNECTIONS_PER_KEY = 1
    with connection("192.0.2.1"):
        connections.belongs_to("key-a")
        connections.belongs_to("key-a")
        with connection("192.0.2.2"):
            with pytest.raises(TooManyConnections, match="API key key-a"):
                connections.belongs_to("key-a")
            connections.belongs_to("key-b")
    assert not connections._open


def test_outside_a_connection_nothing_is_counted() -> None:
    connections.belongs_to("key-a")
    assert not connections._open
