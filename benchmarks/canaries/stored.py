"""All that is stored, searched: every row of every table of every schema, every key in Redis.

Run in a process of its own, with the platform's environment: tenants come as JSON on its standard
input, what is wrong goes out as JSON lines, with a last one of what was looked at. With `redis` as
an argument that alone is searched, as may be done while the platform works.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import django

django.setup()

import redis  # noqa: E402
from django.conf import settings  # noqa: E402
from django.db import connection  # noqa: E402

from benchmarks.canaries import opened  # noqa: E402
from benchmarks.canaries.findings import CANARY, Findings, Kind, Where, around  # noqa: E402
from benchmarks.canaries.platform import Tenant  # noqa: E402

_BYTES = re.compile(r"\\\\x([0-9a-f]{2,})")
_OF_AN_ORGANIZATION = re.compile(
    r"(?:idempotency|answer|organization|model|person|datakeys)[a-z:]*?:(\d+)(?::|$)"
)
_ROW_MUST = frozenset({"inference_request"})


class Search:
    """Through what is stored of the drill's organizations."""

    def __init__(self, tenants: Iterable[Tenant]) -> None:
        self.tenants = {each.pk: each for each in tenants}
        self.found = Findings({each.canary: each.slug for each in self.tenants.values()})

    def postgres(self) -> None:
        """Rows as they lie there, and what is sealed in them."""
        for schema, table in _tables():
            self._rows(schema, table)
        for tenant in self.tenants.values():
            self._open(tenant, opened.in_postgres(tenant))

    def redis(self, url: str) -> None:
        """Every key of every database of a server."""
        base = url.rpartition("/")[0]
        for name in redis.Redis.from_url(url).info("keyspace"):
            client: Any = redis.Redis.from_url(f"{base}/{name.removeprefix('db')}")
            for key in client.scan_iter(count=1000):
                self._key(client, key)

    def look(self, what: str, text: str, tenant: Tenant | None, *, must: bool = False) -> None:
        """For no canary but the tenant's; for one at most where it is nobody's."""
        if tenant is not None:
            at = Where(tenant.slug, what)
            self.found.look(at, text, tenant.canary, must=must)
            return
        self.found.checked[what] += 1
        canaries = dict.fromkeys(CANARY.findall(text))
        if len(canaries) > 1:
            first, second, *_ = canaries
            names = self.found.names
            excerpt = around(text, text.index(second))
            self.found.add(Kind.LEAK, Where(names[first], what), excerpt, names[second])

    def _rows(self, schema: str, table: str) -> None:
        by_schema = {each.schema: each for each in self.tenants.values()}
        owner = _owner(schema, table, "r", ()) if schema == "public" else None
        query = f'SELECT {owner or "NULL"}, to_jsonb(r)::text FROM "{schema}"."{table}" r'  # noqa: S608
        what = f"{table} rows"
        with connection.chunked_cursor() as cursor:
            cursor.execute(query)
            for organization, text in cursor:
                tenant = by_schema.get(schema) or self.tenants.get(organization)
                self.look(what, _clear(text), tenant, must=bool(tenant) and table in _ROW_MUST)

    def _key(self, client: Any, key: bytes) -> None:
        name = key.decode("utf-8", "replace")
        content = _content(client, key)
        tenant = self._owner_of(client, name, content)
        kind = name.partition(":")[0] if ":" in name else "other keys"
        said = f"{name}\n{_text(content)}"
        self.look(f"Redis {re.sub(r'[^a-z]+.*', '', kind) or 'other'}", said, tenant)
        if tenant is None:
            return
        head, _, rest = name.partition(":")
        match head:
            case "job":
                self._open(tenant, opened.in_job(tenant, rest, content))
            case "stream":
                self._open(tenant, opened.in_stream(tenant, rest, content))
            case "answer":
                entry = rest.partition(":")[2]
                self._open(tenant, opened.in_cache(tenant, entry, content))

    def _owner_of(self, client: Any, name: str, content: Any) -> Tenant | None:
        head, _, rest = name.partition(":")
        owner: Any = None
        if head == "job" and isinstance(content, dict):
            owner = content.get(b"org")
        elif head == "stream":
            owner = client.hget(f"job:{rest}", "org")
        elif matched := _OF_AN_ORGANIZATION.search(name):
            owner = matched[1]
        return self.tenants.get(int(owner)) if owner else None

    def _open(self, tenant: Tenant, texts: Iterator[opened.Opened]) -> None:
        try:
            for what, text, must in texts:
                self.look(what, text, tenant, must=must)
        except opened.Unreadable as error:
            self.found.add(Kind.UNEXPECTED, Where(tenant.slug, "opening"), repr(error))


def _tables() -> list[tuple[str, str]]:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = "
            "'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema') "
            "ORDER BY 1, 2"
        )
        return [(schema, table) for schema, table in cursor.fetchall()]


def _owner(schema: str, table: str, alias: str, seen: tuple[str, ...]) -> str | None:
    """SQL for whose a row is: by its column, or by what it belongs to."""
    if table == "tenants_organization":
        return f"{alias}.id"
    with connection.cursor() as cursor:
        columns = [
            each.name for each in connection.introspection.get_table_description(cursor, table)
        ]
        relations = connection.introspection.get_relations(cursor, table)
    if "organization_id" in columns:
        return f"{alias}.organization_id"
    for column, (other_column, other) in relations.items():
        if other not in seen and other != table:
            below = f"{alias}{len(seen)}"
            if owner := _owner(schema, other, below, (*seen, table)):
                inner = f'SELECT {owner} FROM "{schema}"."{other}" {below}'  # noqa: S608
                return f'({inner} WHERE {below}."{other_column}" = {alias}."{column}")'
    return None


def _clear(text: str) -> str:
    """A row, with its bytes as text."""
    return _BYTES.sub(lambda found: _bytes(found[1]), text)


def _bytes(digits: str) -> str:
    return bytes.fromhex(digits[: len(digits) // 2 * 2]).decode("utf-8", "replace")


def _content(client: Any, key: bytes) -> Any:
    match client.type(key):
        case b"string":
            return client.get(key)
        case b"hash":
            return client.hgetall(key)
        case b"list":
            return client.lrange(key, 0, -1)
        case b"set":
            return client.smembers(key)
        case b"zset":
            return client.zrange(key, 0, -1, withscores=True)
        case b"stream":
            return client.xrange(key)
        case _:  # It went meanwhile.
            return b""


def _text(content: Any) -> str:
    if isinstance(content, bytes):
        return content.decode("utf-8", "replace")
    if isinstance(content, dict):
        return "\n".join(f"{_text(name)} {_text(value)}" for name, value in content.items())
    if isinstance(content, list | tuple | set):
        return "\n".join(map(_text, content))
    return str(content)


def main() -> None:
    """Search, and tell."""
    search = Search(Tenant(**each) for each in json.load(sys.stdin))
    if "redis" not in sys.argv:
        search.postgres()
    for url in {settings.REDIS_URL, settings.CACHE_URL, settings.BROKER_URL}:
        search.redis(url)
    for each in search.found.wrong:
        print(json.dumps(asdict(each)))  # noqa: T201
    print(json.dumps({"checked": search.found.checked}))  # noqa: T201


if __name__ == "__main__":
    main()
