"""The isolation drill sees what it looks for, and takes nothing else for it."""

import asyncio
import runpy
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from django.conf import settings

from benchmarks.canaries.answers import Unanswered, streamed, whole
from benchmarks.canaries.client import Client
from benchmarks.canaries.drill import Drill
from benchmarks.canaries.findings import Findings, Kind, Where
from benchmarks.canaries.platform import Tenant

OURS, THEIRS = "canary-aaaaaaaaaaaa", "canary-bbbbbbbbbbbb"
ACME = Tenant("acme", OURS, 1, "org_acme", f"aip_live_{'a' * 12}_x")
GLOBEX = Tenant("globex", THEIRS, 2, "org_globex", f"aip_live_{'b' * 12}_x")

Answers = Callable[[web.Request], Awaitable[web.Response]]


def drilled(act: str, answer: Answers) -> Findings:
    """What a client of acme's finds by one act, at a platform that answers so."""

    async def run() -> Findings:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(application) as server, aiohttp.ClientSession() as session:
            drill = Drill(str(server.make_url("")).rstrip("/"), [ACME, GLOBEX], pause=0)
            drill.session, drill.tokens = session, {"acme": "x"}
            drill.things["globex"] = ["/v1/files/file-1"]
            client = Client(drill, ACME, 0)
            await client.do(getattr(client, act))
            return drill.found

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "must", "kinds"),
    [
        (f"{OURS} said", True, []),
        ("nothing", False, []),
        ("nothing", True, [Kind.MISSING]),
        (f"{OURS} and {THEIRS}", True, [Kind.LEAK]),
        (f"key={THEIRS}", False, [Kind.LEAK]),
    ],
)
def test_a_foreign_canary_is_found_and_a_missing_one_missed(
    text: str, must: bool, kinds: list[Kind]
) -> None:
    found = Findings({OURS: "acme", THEIRS: "globex"})
    found.look(Where("acme", "here"), text, OURS, must=must)
    assert [each.kind for each in found.wrong] == kinds
    assert all(each.other == "globex" for each in found.wrong if each.kind == Kind.LEAK)


def test_a_streams_text_is_put_together_before_it_is_searched() -> None:
    events = "".join(f'data: {{"text":"{part}"}}\n\n' for part in (THEIRS[:9], THEIRS[9:]))
    assert THEIRS not in events
    assert streamed(events + 'data: {"finish_reason":"stop"}\n\n').checked() == THEIRS


@pytest.mark.parametrize(
    "events",
    [
        'data: {"type":"about:blank","status":503,"detail":"x","code":"overloaded"}\n\n',
        'data: {"error":{"message":"x","type":"server_error","param":null,"code":"overloaded"}}\n',
        'data: {"text":"canary"}\n\n',
    ],
)
def test_a_stream_that_did_not_come_to_its_own_end_is_refused_and_not_missing(
    events: str,
) -> None:
    with pytest.raises(Unanswered):
        streamed('data: {"request_id":"x"}\n\n' + events).checked()

    async def answer(request: web.Request) -> web.Response:
        return web.Response(text=events, content_type="text/event-stream")

    found = drilled("events", answer)
    assert (found.wrong, found.answers.total(), found.refused.total()) == ([], 0, 1)


def test_an_error_of_the_platforms_own_is_wrong_whoever_it_meets() -> None:
    async def answer(request: web.Request) -> web.Response:
        broken = 'data: {"status":500,"detail":"x","code":"internal_error"}\n\n'
        return web.Response(text=broken, content_type="text/event-stream")

    assert [each.kind for each in drilled("events", answer).wrong] == [Kind.UNEXPECTED]


def test_a_background_request_that_was_shed_is_refused_and_not_missing() -> None:
    async def answer(request: web.Request) -> web.Response:
        shed = {"request_id": "x", "state": "done", "text": "", "finish_reason": "shed"}
        return web.json_response(shed)

    found = drilled("background", answer)
    assert (found.wrong, dict(found.refused)) == ([], {"ended shed": 1})


def test_an_answer_that_ended_without_its_canary_is_missing_it() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"text": "hello", "finish_reason": "length"})

    assert [each.kind for each in drilled("whole", answer).wrong] == [Kind.MISSING]
    assert whole('{"text": "hello", "finish_reason": "stop"}').checked() == "hello"


def test_a_busy_platform_decides_no_reach_and_is_asked_again() -> None:
    asked = dict[str, int]()

    async def answer(request: web.Request) -> web.Response:
        name = f"{request.method} {request.path}"
        asked[name] = asked.get(name, 0) + 1
        if asked[name] == 1:
            return web.Response(status=429, headers={"Retry-After": "0"})
        return web.Response(status=403 if request.path.endswith("members") else 404)

    found = drilled("reach", answer)
    assert (found.wrong, dict(found.reached)) == ([], {"decided": len(asked)})
    assert set(asked.values()) == {2}


def test_a_platform_that_never_decides_makes_no_whole_drill() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=503, headers={"Retry-After": "0"})

    found = drilled("reach", answer)
    found.answers["whole"] += 1
    assert (found.wrong, found.decided, found.is_whole) == ([], 0.0, False)


def test_success_for_anothers_thing_is_a_leak_and_any_other_answer_unexpected() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=200 if "/files/" in request.path else 500)

    found = drilled("reach", answer)
    leaks = [each for each in found.wrong if each.kind == Kind.LEAK]
    assert {each.path for each in leaks} == {"/v1/files/file-1", "/v1/files/file-1/content"}
    assert {each.status for each in found.wrong if each.kind == Kind.UNEXPECTED} == {500}
    assert {each.other for each in found.wrong} == {"globex"}


def test_a_client_that_breaks_or_hangs_is_told_of() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"no": "id"})

    async def run() -> Findings:
        application = web.Application()
        application.router.add_route("*", "/{path:.*}", answer)
        async with TestServer(application) as server, aiohttp.ClientSession() as session:
            drill = Drill(str(server.make_url("")).rstrip("/"), [ACME, GLOBEX], pause=0)
            drill.session, drill.tokens = session, {"acme": "x"}
            broken, hanging = Client(drill, ACME, 0), Client(drill, ACME, 1)
            hanging.doing = "background"
            await asyncio.wait_for(broken.run(), 30)
            never = asyncio.create_task(asyncio.sleep(3600))
            await drill.ended({never: hanging}, within=0.01)
            return drill.found

    dead = [each for each in asyncio.run(run()).wrong if each.kind == Kind.DEAD]
    assert len(dead) == 2
    assert "KeyError" in dead[0].excerpt
    assert "did not come to its end" in dead[1].excerpt


def test_the_limits_hammer_sees_one_too_many_and_one_refused_too_early() -> None:
    check = runpy.run_path(str(settings.BASE_DIR / "benchmarks" / "limits.py"))["check"]
    good = [(1, "admitted", 5), (2, "admitted", 5), (3, "refused requests_per_minute", 5)]
    bounds = (2, 100, 9)
    assert (check(good, bounds)["over a limit"], check(good, bounds)["refused below it"]) == (0, 0)
    assert check([*good, (4, "admitted", 5)], bounds)["over a limit"] == 1
    early = [(1, "admitted", 5), (2, "refused requests_per_minute", 5)]
    assert check(early, bounds)["refused below it"] == 1
