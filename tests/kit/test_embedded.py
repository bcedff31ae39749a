"""The embedded servers: they keep their data, replace a left-over, and say why they fail."""

import os
import signal
from pathlib import Path

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from kit.embedded import LOCAL, ServerFailed, Valkey, free_port, write_private


def test_what_was_written_survives_a_kill_and_a_new_port(tmp_path: Path) -> None:
    first = Valkey(tmp_path, port=free_port())
    first.start()
    with redis.Redis.from_url(first.url) as client:
        client.set("kept", "yes")
        client.execute_command("WAITAOF", 1, 0, 5000)
    second = Valkey(tmp_path, port=free_port())
    second.start()
    with redis.Redis.from_url(second.url) as client:
        assert client.get("kept") == b"yes"
    assert not first.alive()
    second.stop()
    assert not second.alive()


def test_a_stranger_without_the_password_is_turned_away(tmp_path: Path) -> None:
    server = Valkey(tmp_path, port=free_port())
    server.start()
    stranger = redis.Redis(host=LOCAL, port=server.port, retry=Retry(NoBackoff(), 0))
    with stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()
    server.stop()


def test_a_server_that_cannot_start_ends_with_its_last_words(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "one", port=free_port())
    server.start()
    other = Valkey(tmp_path / "other", port=server.port)
    with pytest.raises(ServerFailed, match=r"(?s)ended while starting.*already in use"):
        other.start()
    server.stop()


def test_a_folder_with_spaces_and_a_long_path_will_do(tmp_path: Path) -> None:
    folder = tmp_path / ("long " * 30) / "valkey"
    server = Valkey(folder, port=free_port())
    server.start()
    server.stop()


def test_a_private_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    write_private(path, "old")
    (tmp_path / "secret.new").write_text("half of a killed wri")
    write_private(path, "new")
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_server_is_noticed(tmp_path: Path) -> None:
    server = Valkey(tmp_path, port=free_port())
    server.start()
    assert server._process is not None
    os.kill(server._process.pid, signal.SIGKILL)
    server._process.wait()
    assert not server.alive()
    server.stop()
