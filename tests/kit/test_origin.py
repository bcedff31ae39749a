"""The client's address is believed only as far as our own proxies vouch for it."""

from typing import Any

import pytest

from kit import origin

PROXIES = ["10.0.0.0/8", "2001:db8::/32"]


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1,2001:db8::5", "198.51.100.1"),
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1, unknown", "None"),
        ("::ffff:10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("2001:db8::1", "2001:DB9::0001", "2001:db9::1"),
        ("", "198.51.100.1", "None"),
        ("testclient", "198.51.100.1", "None"),
    ],
)
def test_an_address_is_read_from_the_right_through_trusted_proxies(
    settings: Any, peer: str, forwarded: str, address: str
) -> None:
    settings.TRUSTED_PROXIES = PROXIES
    found = origin.of_meta({"REMOTE_ADDR": peer, "HTTP_X_FORWARDED_FOR": forwarded})
    assert str(found.address) == address


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:2::/64"),
        ("2001:db8:1:3::", "2001:db8:1:3::/64"),
        ("::ffff:198.51.100.1", "198.51.100.1"),
        ("198.51.100.1", "198.51.100.1"),
        ("nobody's", "None"),
    ],
)
def test_who_has_a_network_of_ipv6_is_counted_once(text: str, name: str) -> None:
    assert origin.counted_as(origin.address(text)) == name


def test_nobody_is_trusted_unless_it_is_said() -> None:
    found = origin.of_meta({"REMOTE_ADDR": "127.0.0.1", "HTTP_X_FORWARDED_FOR": "198.51.100.1"})
    assert str(found.address) == "127.0.0.1"


def test_an_agent_is_cut_and_cleaned() -> None:
    found = origin.of_meta({"HTTP_USER_AGENT": "cu\0rl\n" + "x" * 1000})
    assert found.agent.startswith("curlx")
    assert len(found.agent) <= 200


async def test_a_websockets_origin_is_known_inside() -> None:
    seen: list[origin.Origin] = []

    async def app(*_: Any) -> None:
        seen.append(origin.current())

    headers = [(b"User-Agent", b"ws"), (b"x-organization", b"acme")]
    scope = {"type": "websocket", "client": ("203.0.113.9", 7), "headers": headers}
    await origin.known(app)(scope, None, None)
    assert (str(seen[0].address), seen[0].agent, seen[0].organization) == (
        "203.0.113.9",
        "ws",
        "acme",
    )
