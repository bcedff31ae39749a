"""Ports are kept from start to start, as long as they are free."""

import socket
from pathlib import Path

import pytest

from config.stack.ports import PortTaken, claim, is_free, remembered
from kit.embedded import LOCAL, free_port


def test_a_port_is_remembered(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    first = remembered(path, "valkey")
    assert remembered(path, "valkey") == first
    assert remembered(path, "postgres") != first
    assert remembered(path, "valkey") == first


def test_a_port_that_was_taken_meanwhile_is_chosen_again(tmp_path: Path) -> None:
    path = tmp_path / "ports.json"
    first = remembered(path, "valkey")
    with socket.create_server((LOCAL, first)):
        second = remembered(path, "valkey")
    assert second != first
    assert remembered(path, "valkey") == second


@pytest.mark.parametrize("text", ["", "{", "[]", '{"valkey": "x"}'])
def test_a_spoilt_file_is_written_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "ports.json"
    path.write_text(text)
    port = remembered(path, "valkey")
    assert remembered(path, "valkey") == port


def test_a_taken_web_port_is_refused_with_a_free_one() -> None:
    port = free_port()
    claim(LOCAL, port)
    with (
        socket.create_server((LOCAL, port)),
        pytest.raises(PortTaken, match=rf"Port {port} .* make run PORT=\d+"),
    ):
        claim(LOCAL, port)
    assert is_free(LOCAL, port)
