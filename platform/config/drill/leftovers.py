"""What a platform at rest must not have any more: leases, places, slots, streams, connections."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil

from config.drill.kills import BEAT, WEB, WORKER
from config.stack.apart import Stack

_MOST_DESCRIPTORS = 200
"""Of a process at rest, its pools and files; a leak has a descriptor a request."""


def left_over(state: Any, stack: Stack) -> list[str]:
    """Each in words; nothing where all is well."""
    return [*_of_requests(state), *_of_workers(state), *_of_processes(stack)]


def _of_requests(state: Any) -> Iterator[str]:
    lines = [key.decode() for key in state.scan_iter("queue:*") if state.type(key) == b"list"]
    for key in ["leases", "sealed", *lines]:
        if state.exists(key):
            yield f"{key} is not empty"
    for key in state.scan_iter("limits:*:running"):
        if state.zcard(key):
            yield f"{key.decode()} still counts requests"
    for kind in ("job", "stream"):
        if endless := sum(state.ttl(key) < 0 for key in state.scan_iter(f"{kind}:*", count=1000)):
            yield f"{endless} keys {kind}:… are kept without end"


def _of_workers(state: Any) -> Iterator[str]:
    for key in state.scan_iter("worker:*"):
        for model, report in json.loads(state.get(key) or "{}").items():
            if report["running"]:
                yield f"{key.decode()} still runs {report['running']} requests of {model}"


def _of_processes(stack: Stack) -> Iterator[str]:
    port = int(stack.url.rpartition(":")[2])
    for victim in (WEB, WORKER, BEAT):
        for process in stack.find_all(*victim.words):
            with suppress(psutil.NoSuchProcess):
                count = process.num_fds()
                if count > _MOST_DESCRIPTORS:
                    yield f"{victim.name} {process.pid} has {count} descriptors open"
                clients = [
                    each
                    for each in process.net_connections("tcp")
                    if each.laddr.port == port and each.status == psutil.CONN_ESTABLISHED
                ]
                if len(clients) > 1:  # the supervisor asks for its health
                    yield f"{victim.name} {process.pid} has {len(clients)} clients connected"
