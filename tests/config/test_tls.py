"""Every way by which the platform reaches PostgreSQL and Redis verifies whom it reaches."""

import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from celery import Celery
from django.conf import settings
from redis import Redis, RedisError

from config.settings import _database
from kit.transit import libpq, postgres_flaws, redis_flaws, verifying
from tests.tls import Authority, Front, authority


@dataclass(frozen=True, slots=True)
class Fronts:
    """TLS in front of this run's PostgreSQL and Valkey."""

    postgres: Front
    redis: Front
    right: Authority
    wrong: Authority
    folder: Path

    def addresses(self, ca: Path) -> dict[str, str]:
        """Environment of a process that trusts this CA."""
        database, state = (urlsplit(os.environ[name]) for name in ("DATABASE_URL", "REDIS_URL"))
        known = f"{database.username}:{database.password}@127.0.0.1:{self.postgres.port}"
        query = f"sslmode=verify-full&sslrootcert={ca}&prepare_threshold=0"
        redis = f":{state.password}@127.0.0.1:{self.redis.port}{state.path}"
        return {
            "DATABASE_URL": f"postgresql://{known}{database.path}?{query}",
            "REDIS_URL": f"rediss://{redis}?ssl_ca_certs={ca}",
            "VAR_DIR": str(self.folder),
        }

    def counts(self) -> tuple[int, int]:
        """Handshakes that came to their end: PostgreSQL's, Redis's."""
        return self.postgres.opened, self.redis.opened


@pytest.fixture(scope="module")
def fronts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fronts]:
    """Both, with the certificate of the right CA."""
    folder = tmp_path_factory.mktemp("tls")
    right, wrong = authority(folder / "right"), authority(folder / "wrong")
    servers = (os.environ[name] for name in ("DATABASE_URL", "REDIS_URL"))
    database, state = (urlsplit(url).port or 0 for url in servers)
    both = Front(database, right, postgres=True), Front(state, right)
    yield Fronts(*both, right, wrong, folder)
    for each in both:
        each.close()


def went(fronts: Fronts, ca: Path) -> dict[str, str]:
    """What comes of every way, of who trusts this CA."""
    kept = {k: v for k, v in os.environ.items() if k not in {"CACHE_URL", "BROKER_URL"}}
    paths = f"{settings.BASE_DIR}:{settings.BASE_DIR / 'platform'}"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.config.ways"],
        cwd=settings.BASE_DIR,
        env={**kept, **fronts.addresses(ca), "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_by_every_way_a_server_with_the_right_certificate_is_reached(fronts: Fronts) -> None:
    found = went(fronts, fronts.right.ca)
    assert set(found.values()) == {"reached"}, found
    postgres, redis = fronts.counts()
    assert postgres >= 4, "the start, Django's threads, psycopg"
    assert redis >= 10, "each client has connections of its own"
    assert (fronts.postgres.refused, fronts.redis.refused, fronts.postgres.plain) == (0, 0, 0)


def test_by_no_way_is_one_reached_with_a_certificate_of_another_ca(fronts: Fronts) -> None:
    before = fronts.counts()
    found = went(fronts, fronts.wrong.ca)
    assert fronts.counts() == before, "nobody was let in, nor told the password"
    assert "reached" not in found.values(), found
    for name, error in found.items():
        pooled = name.startswith("Django,") or name in {"Django", "health"}
        assert pooled or "certificate verify failed" in error, (name, error)
    for name in ("start", "start, Redis"):
        assert "sslrootcert for PostgreSQL, ssl_ca_certs for Redis" in found[name]
    assert found["health"].endswith("redis and database down")


def test_nor_with_the_certificate_of_another_host(fronts: Fronts) -> None:
    elsewhere = authority(fronts.folder / "elsewhere", host="127.0.0.2")
    both = fronts.addresses(elsewhere.ca)
    for front in (fronts.postgres, fronts.redis):
        front.show(elsewhere)
    try:
        with pytest.raises(
            psycopg.OperationalError, match=r"does not match host name|verify failed"
        ):
            psycopg.connect(libpq(both["DATABASE_URL"]))
        with pytest.raises(RedisError, match="IP address mismatch"):
            Redis.from_url(verifying(both["REDIS_URL"])).ping()
    finally:
        for front in (fronts.postgres, fronts.redis):
            front.show(fronts.right)


def test_celery_verifies_too_where_the_address_leaves_it_open() -> None:
    def how(url: str) -> Any:
        return Celery(broker=url).connection_for_write().ssl

    bare = "rediss://:p@state:6380/0"
    assert how(bare) == {"ssl_cert_reqs": ssl.CERT_NONE}, "why addresses are completed"
    assert how(verifying(bare)) == {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    named = verifying(f"{bare}?ssl_ca_certs=/run/ca.pem")
    assert named == f"{bare}?ssl_ca_certs=/run/ca.pem&ssl_cert_reqs=required"
    for as_it_is in ("redis://state:6379/0", f"{bare}?ssl_cert_reqs=none"):
        assert verifying(as_it_is) == as_it_is


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:p@db.example/x", "(sslmode=prefer)"),
        ("postgresql://u:p@10.0.0.5/x?sslmode=require", "(sslmode=require)"),
        ("postgresql://u:p@db.example/x?sslmode=verify-full&sslrootcert=/no/ca", "/no/ca"),
        ("postgresql://u:p@db.example/x?sslmode=verify-full&sslrootcert=system", ""),
        ("postgresql://u:p@127.0.0.1/x", ""),
        ("postgresql:///x?host=/run/postgresql", ""),
        ("redis://state.example:6379/0", "in the clear"),
        ("rediss://state.example:6380/0?ssl_cert_reqs=none", "(ssl_cert_reqs=none)"),
        ("rediss://state.example:6380/0?ssl_check_hostname=False", "(ssl_check_hostname=False)"),
        ("rediss://state.example:6380/0?ssl_ca_certs=/no/ca", "/no/ca"),
        ("rediss://state.example:6380/0", ""),
        ("redis://[::1]:6379/0", ""),
        ("unix:///run/valkey.sock", ""),
    ],
)
def test_an_address_that_does_not_verify_is_named(url: str, said: str) -> None:
    if url.startswith("postgresql"):
        found = list(postgres_flaws("DATABASE_URL", _database(url)))
    else:
        found = list(redis_flaws("REDIS_URL", url))
    assert len(found) == bool(said), found
    for message, _hint in found:
        assert said in message
        assert ":p@" not in message


def test_what_is_djangos_alone_is_not_told_to_psycopg() -> None:
    url = "postgresql://u:p@db/x?sslmode=verify-full&prepare_threshold=0&connect_timeout=3"
    assert libpq(url) == "postgresql://u:p@db/x?sslmode=verify-full&connect_timeout=3"
    assert libpq("postgresql://u@db/x?prepare_threshold=0") == "postgresql://u@db/x"
