"""Whether connections to PostgreSQL and Redis verify whom they reach, as their addresses say."""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

OURS = ("prepare_threshold",)
"""What may stand in DATABASE_URL and is not libpq's."""
_POSTGRES = "Add ?sslmode=verify-full&sslrootcert=/run/ca.pem to its address."
_REDIS = "Write it as rediss://…:6380/0?ssl_ca_certs=/run/ca.pem."


def verifying(url: str) -> str:
    """A Redis's address under which every client verifies, unless it says something else: where it
    says nothing, redis-py's do, and Celery's accept any certificate."""
    parts = urlsplit(url)
    if parts.scheme != "rediss" or "ssl_cert_reqs" in dict(parse_qsl(parts.query)):
        return url
    query = f"{parts.query}&ssl_cert_reqs=required".removeprefix("&")
    return urlunsplit(parts._replace(query=query))


def libpq(url: str) -> str:
    """DATABASE_URL as psycopg takes it, without what only Django's connections are told."""
    parts = urlsplit(url)
    pairs = [pair for pair in parts.query.split("&") if pair.partition("=")[0] not in OURS]
    return urlunsplit(parts._replace(query="&".join(pairs)))


def postgres_flaws(name: str, database: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What is wrong with an entry of Django's DATABASES, and what to do."""
    options, hosts = database["OPTIONS"], str(database["HOST"])
    if all(_is_here(host) for host in hosts.split(",")):
        return
    mode = options.get("sslmode", "prefer")
    if mode != "verify-full":
        yield (
            f"{name} reaches {hosts} without verifying that it is (sslmode={mode}).",
            _POSTGRES,
        )
    yield from _missing(name, "sslrootcert", options.get("sslrootcert", "system"))


def redis_flaws(name: str, url: str) -> Iterator[tuple[str, str]]:
    """What is wrong with a Redis's address, and what to do."""
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    host = unquote(parts.hostname or "")
    if parts.scheme == "unix" or _is_here(host):
        return
    lax = [
        f"{option}={query[option]}"
        for option, strict in (("ssl_cert_reqs", "required"), ("ssl_check_hostname", "true"))
        if query.get(option, strict).lower() != strict
    ]
    if parts.scheme != "rediss":
        yield f"{name} reaches {host} in the clear.", _REDIS
    elif lax:
        yield f"{name} reaches {host} without verifying that it is ({lax[0]}).", _REDIS
    yield from _missing(name, "ssl_ca_certs", query.get("ssl_ca_certs", "system"))


def told(error: Exception) -> str:
    """Why a server was not reached, and what to do where its certificate is why."""
    said = str(error).strip()
    if "certificate" not in said.lower():
        return said
    return (
        f"{said}\nWhoever answers there has no certificate for that host by the CA that the "
        "address names (sslrootcert for PostgreSQL, ssl_ca_certs for Redis)."
    )


def _is_here(host: str) -> bool:
    """Whether what is sent there stays on this machine."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _missing(name: str, option: str, file: str) -> Iterator[tuple[str, str]]:
    if file != "system" and not Path(file).is_file():
        yield f"{name} names {file} as {option}, and there is no such file.", "Mount the CA there."
