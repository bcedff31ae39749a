"""Nobody has the platform call its own network."""

import ast
import asyncio
import socket
from ipaddress import ip_address
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from django.conf import settings

from kit import outbound

NOT_PUBLIC = (
    "127.0.0.1", "10.0.0.5", "172.16.3.4", "192.168.1.1", "169.254.169.254", "100.64.0.1",
    "0.0.0.0",  # noqa: S104  as a target
    "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fd00:ec2::254", "ff02::1",
    "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
)  # fmt: skip


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_may_not_be_called(address: str, settings: Any) -> None:
    settings.OUTBOUND_NETWORKS = []
    assert not outbound.may_call(ip_address(address))


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f::1", "::ffff:93.184.215.14"])
def test_a_public_address_may(address: str, settings: Any) -> None:
    settings.OUTBOUND_NETWORKS = []
    assert outbound.may_call(ip_address(address))


def test_the_operator_allows_networks(settings: Any) -> None:
    settings.OUTBOUND_NETWORKS = ["10.1.0.0/16", "fd00::/8"]
    assert outbound.may_call(ip_address("10.1.2.3"))
    assert outbound.may_call(ip_address("fd00::7"))
    assert not outbound.may_call(ip_address("10.2.0.1"))


class Rebinding(AbstractResolver):
    """A name that is public whenever somebody looks first, and here when it is connected to."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=port, family=family, proto=0, flags=0
            )
        ]

    async def close(self) -> None:
        pass


@pytest.mark.parametrize("host", ["rebinds.example", "127.0.0.1", "localhost", "2130706433"])
async def test_a_name_that_leads_here_is_never_connected_to(host: str, settings: Any) -> None:
    settings.OUTBOUND_NETWORKS = []
    reached = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        reached.set()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    connector = outbound.connector(resolver=Rebinding())
    async with server, aiohttp.ClientSession(connector=connector) as session:
        with pytest.raises(aiohttp.ClientError) as error:
            await session.get(f"http://{host}:{port}/")
    if isinstance(error.value, aiohttp.ClientConnectorError):
        assert isinstance(error.value.os_error, outbound.AddressRefused)
    assert not reached.is_set()


CALLERS = {
    "billing/gateway.py": "Stripe, at an address that the operator sets",
    "platform/config/drill/batches.py": "this installation, by the operator's command",
    "platform/config/drill/client.py": "this installation, by the operator's command",
    "platform/config/drill/load.py": "this installation, by the operator's command",
    "platform/config/drill/leftovers.py": "this installation, by the operator's command",
    "platform/config/stack/readiness.py": "this machine",
    "platform/kit/keepers/kms.py": "KMS, at an address that the operator sets",
    "platform/kit/keepers/vault.py": "Vault, at an address that the operator sets",
    "platform/kit/outbound.py": "it is the guard",
    "tenants/views/single_sign_on.py": "nobody: it names a client's errors",
}
"""Who may call without the guard, and whom."""
CLIENTS = frozenset(
    {"aiohttp", "botocore.session", "http.client", "httpx", "requests", "stripe", "urllib.request"}
)


def test_whoever_calls_out_goes_through_the_guard() -> None:
    bare = set()
    for package in ("analytics", "billing", "celery_app", "inference", "platform", "tenants"):
        for path in (settings.BASE_DIR / package).rglob("*.py"):
            text = path.read_text()
            name = str(path.relative_to(settings.BASE_DIR))
            if _imports(text) & CLIENTS and "import outbound" not in text:
                bare.add(name)
    assert bare == set(CALLERS)


def _imports(text: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
    return found
