"""What a platform at rest must not have any more, and what it must have again: every process alive
and well; no lease, place, slot, stream, reader, connection or descriptor that nobody needs."""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import psutil
import requests

from config.drill.kills import BEAT, WEB, WORKER, Victim
from config.stack.apart import Stack

_MORE, _MORE_SHARE = 32, 0.5
"""How much more than in the beginning is no leak, which has one a request: pools still grow."""
_CLIENTS = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
_STUCK = """
SELECT pid, state, left(query, 80) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
  AND starts_with(state, 'idle in transaction') AND state_change < now() - interval '5 seconds'
"""

Resources = Mapping[str, int]
"""What is open, by whose and what it is; the most that any process of a kind has."""


def resources(state: Any, stack: Stack) -> dict[str, int]:
    """What is open now."""
    found = {
        f"descriptors of a {victim.name} process": max(_descriptors(stack, victim), default=0)
        for victim in (WEB, WORKER, BEAT)
    }
    found["connections of Valkey"] = int(state.info("clients")["connected_clients"])
    found["connections of PostgreSQL"] = int(stack.rows(_CLIENTS)[0][0])
    return found


def left_over(state: Any, stack: Stack, before: Resources) -> list[str]:
    """Each in words; nothing where all is well."""
    return [
        *_of_requests(state),
        *_of_workers(state, stack),
        *_of_processes(state, stack),
        *grown(before, resources(state, stack)),
        *(f"PostgreSQL's {pid} is {how}: {query}" for pid, how, query in stack.rows(_STUCK)),
    ]


def grown(before: Resources, now: Resources) -> Iterator[str]:
    """What is more than it was by more than pools grow."""
    for what, count in now.items():
        most = before[what] + max(_MORE, int(_MORE_SHARE * before[what]))
        if count > most:
            yield f"{count} {what} are open, {before[what]} in the beginning"


def _of_requests(state: Any) -> Iterator[str]:
    lists = [key.decode() for key in state.scan_iter("queue:*") if state.type(key) == b"list"]
    lines = [key for key in lists if not key.endswith(":bell")]  # it may ring for what has gone
    for key in ["leases", "sealed", *lines]:
        if state.exists(key):
            yield f"{key} is not empty"
    for key in state.scan_iter("limits:*:running"):
        # What runs no model is counted for two minutes where its process died (`tenants.upkeep`).
        if not key.startswith(b"limits:management:") and state.zcard(key):
            yield f"{key.decode()} still counts requests"
    for kind in ("job", "stream"):
        if endless := sum(state.ttl(key) < 0 for key in state.scan_iter(f"{kind}:*", count=1000)):
            yield f"{endless} keys {kind}:… are kept without end"


def _of_workers(state: Any, stack: Stack) -> Iterator[str]:
    reports = [json.loads(state.get(key) or "{}") for key in state.scan_iter("worker:*")]
    count = _formation(stack)[WORKER]
    if len(reports) != count:
        yield f"{len(reports)} workers report themselves, not {count}"
    for report in reports:
        for model, said in report.items():
            if said["running"]:
                yield f"a worker still runs {said['running']} requests of {model}"
            if not said["well"] or said["failing"]:
                yield f"a worker's {model} is not well"


def _of_processes(state: Any, stack: Stack) -> Iterator[str]:
    for victim, count in _formation(stack).items():
        found = stack.find_all(*victim.words)
        if len(found) != count:
            yield f"{len(found)} processes of {victim.name} run, not {count}"
        for process in found:
            with suppress(psutil.NoSuchProcess):
                yield from _of_process(process, f"{victim.name} {process.pid}", stack)
    readers, most = len(state.pubsub_channels("web:*")), _formation(stack)[WEB]
    if readers > most:
        yield f"{readers} web processes listen for streams, where {most} run"
    yield from _of_health(stack)


def _of_process(process: psutil.Process, name: str, stack: Stack) -> Iterator[str]:
    if process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE):
        yield f"{name} is {process.status()}"
    if clients := _clients(process, stack):
        yield f"{name} has {clients} clients connected"


def _of_health(stack: Stack) -> Iterator[str]:
    try:
        said = requests.get(f"{stack.url}/health", timeout=10)
    except requests.RequestException as error:
        yield f"/health does not answer: {error}"
    else:
        if said.status_code != 200 or said.json()["status"] != "ok":
            yield f"/health says {said.status_code} {said.text[:200]}"


def _formation(stack: Stack) -> dict[Victim, int]:
    """How many processes of a kind the platform was told to run."""
    told = dict(each.partition("=")[::2] for each in stack.environment["FORMATION"].split(","))
    return {victim: int(told.get(victim.name, 1)) for victim in (WEB, WORKER, BEAT)}


def _descriptors(stack: Stack, victim: Victim) -> Iterator[int]:
    for process in stack.find_all(*victim.words):
        with suppress(psutil.NoSuchProcess):
            yield process.num_fds()


def _clients(process: psutil.Process, stack: Stack) -> int:
    """How many are connected, but for the supervisor, which asks for the health."""
    port = int(stack.url.rpartition(":")[2])
    open_ones = [
        each
        for each in process.net_connections("tcp")
        if each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
    ]
    return max(0, len(open_ones) - 1)
