"""The double over HTTP: keys, idempotency, faults on demand, signed webhooks, a page for cards.

`python -m tests.stripe.server --port 12111 --webhook http://127.0.0.1:8000/stripe/webhook` serves
it by hand; tests start `Double` in a thread. `make run STRIPE=local` puts it behind the platform.
"""

import argparse
import hmac
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import parse_qsl, urlsplit
from urllib.request import Request, urlopen

from tests.stripe import customers, shapes
from tests.stripe.routes import ROUTES, Route
from tests.stripe.state import CARDS, Failure, State, copied

KEY = "sk_test_double"
SECRET = "whsec_double"
_TRIES = 5
_KEYS_LAST = 86_400
_PAGE = """<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Test payment</title><style>body{{font:16px/1.5 system-ui;max-width:32rem;margin:4rem auto;
padding:0 1rem}}button{{display:block;width:100%;margin:.5rem 0;padding:.8rem;font:inherit;
text-align:left}}</style><h1>{title}</h1><p>{text}</p>{body}"""


@dataclass(slots=True)
class Fault:
    """What goes wrong with the next requests whose method and path match.

    `error` answers 500 and does nothing; `error_after` does it first. `cut` closes the connection
    at once, `cut_after` once it is done: to the client both are a time-out; so is `late`, which is
    done when `finish` is called, its key in flight until then. A status (`401`) is answered, and
    nothing done.
    """

    kind: str
    pattern: str
    times: int = 1


@dataclass(slots=True)
class Double:
    """A server on a port of its own. `state` may be read; requests change it one at a time."""

    clock: Callable[[], float] = time.time
    webhook: str = ""
    faults: list[Fault] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    state: State = field(init=False)
    _answers: dict[str, tuple[int, str, int, bytes]] = field(default_factory=dict)
    _flying: set[str] = field(default_factory=set)
    _late: list[tuple[str, str, str, str]] = field(default_factory=list)
    _keys: Lock = field(default_factory=Lock)
    _server: ThreadingHTTPServer | None = None
    _lock: Lock = field(default_factory=Lock)
    _due: "SimpleQueue[dict[str, Any]]" = field(default_factory=SimpleQueue)
    _told: int = 0

    def __post_init__(self) -> None:
        self.state = State(self.clock)

    def start(self, port: int = 0) -> str:
        """Serve in a thread; the address."""
        double = self

        class Handler(_Handler):
            owner = double

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, args=[0.05], daemon=True).start()
        if self.webhook:
            Thread(target=self._post_events, daemon=True).start()
        return self.url

    def stop(self) -> None:
        """End it."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()

    @property
    def url(self) -> str:
        """Where it answers."""
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def reset(self) -> None:
        """Forget everything."""
        self.state = State(self.clock)
        self._answers.clear()
        self._flying.clear()
        self._late.clear()
        self.faults.clear()
        self.calls.clear()
        self._told = 0

    def fail(self, kind: str, pattern: str, times: int = 1) -> None:
        """Have the next requests go wrong; `pattern` is searched in `POST /v1/…`."""
        self.faults.append(Fault(kind, pattern, times))

    def signed(
        self, event: dict[str, Any], *, at: int | None = None, secret: str = SECRET
    ) -> tuple[bytes, str]:
        """A webhook's body and its `Stripe-Signature`."""
        body = json.dumps(event, separators=(",", ":")).encode()
        moment = self.state.now() if at is None else at
        digest = hmac.new(secret.encode(), f"{moment}.".encode() + body, sha256).hexdigest()
        return body, f"t={moment},v1={digest}"

    def of(self, kind: str, **fields: Any) -> list[dict[str, Any]]:
        """The objects of a kind with these fields."""
        return list(self.state.of(kind, **fields))

    def give_card(self, session: str, number: str) -> None:
        """What a person does on Checkout's page; raises `Failure` as the page would show it."""
        with self._lock:
            customers.complete(self.state, self.state.get("checkout.session", session), number)
        self._announce()

    def finish(self) -> None:
        """What was to be late is done now."""
        with self._lock:
            for key, method, path, raw in self._late:
                status, body = self._do(method, path, raw)
                self._answers[key] = self.state.now(), f"{method} {path} {raw}", status, body
                self._flying.discard(key)
            self._late.clear()
        self._announce()

    def answer(self, method: str, path: str, raw: str, headers: Any) -> tuple[int, bytes] | None:
        """What a request gets; None: nothing, the connection is cut."""
        key = str(headers.get("Idempotency-Key", "")) if method == "POST" else ""
        with self._keys:
            if key in self._flying:
                return 409, _error(_IN_FLIGHT)
            self._flying |= {key} - {""}
        with self._lock:
            self.calls.append(f"{method} {path}")
            found = self._answer(method, path, raw, headers)
        with self._keys:
            self._flying -= {key} - {late[0] for late in self._late}
        self._announce()
        return found

    def _answer(self, method: str, path: str, raw: str, headers: Any) -> tuple[int, bytes] | None:
        try:
            _require_key(headers)
        except Failure as failure:
            return failure.status, _error(failure)
        key, print_ = headers.get("Idempotency-Key"), f"{method} {path} {raw}"
        if method == "POST" and not key:
            return 400, _error(Failure("The platform sends an Idempotency-Key with every POST."))
        if method == "POST" and (known := self._answered(key, print_)):
            return known
        fault = self._fault(method, path)
        if fault.isdecimal():
            return int(fault), _error(Failure("Not so.", status=int(fault)))
        if fault == "late":
            self._late.append((key, method, path, raw))
        if fault in ("cut", "late"):
            return None
        found = self._do(method, path, raw) if fault != "error" else _WRONG
        status, body = found if fault != "error_after" else _WRONG
        if method == "POST":
            self._answers[key] = self.state.now(), print_, status, body
        return None if fault == "cut_after" else (status, body)

    def _answered(self, key: str, print_: str) -> tuple[int, bytes] | None:
        """What the key was answered before, within a day."""
        at, before, status, body = self._answers.get(key, (-_KEYS_LAST, "", 0, b""))
        if self.state.now() - at >= _KEYS_LAST:
            return None
        if before == print_:
            return status, body
        reused = Failure(f"The key {key} had other parameters.", kind="idempotency_error")
        return 400, _error(reused)

    def _do(self, method: str, path: str, raw: str) -> tuple[int, bytes]:
        while self.state.later:
            self.state.later.pop(0)()
        before, told = copied(self.state.objects), len(self.state.events)
        try:
            return 200, self._run(method, path, raw)
        except Failure as failure:
            if failure.status != 402:
                self.state.objects = before
                del self.state.events[told:]
            return failure.status, _error(failure)
        except shapes.Unfit as unfit:
            self.state.objects = before
            del self.state.events[told:]
            return 400, _error(Failure(f"{unfit.why}: {unfit.field}", param=unfit.field))

    def _run(self, method: str, path: str, raw: str) -> bytes:
        route, ids = _find(method, path)
        form = shapes.request(route.params, shapes.decode(parse_qsl(raw, keep_blank_values=True)))
        found = route.handler(self.state, form, ids, self.url)
        for each in found["data"] if found["object"] == "list" else [found]:
            try:
                self.state.checked(each)
            except shapes.Unfit as unfit:
                raise Failure(f"The double is wrong: {unfit}", status=500) from unfit
        return json.dumps(found).encode()

    def _fault(self, method: str, path: str) -> str:
        for fault in self.faults:
            if fault.times and re.search(fault.pattern, f"{method} {path}"):
                fault.times -= 1
                return fault.kind
        return ""

    def _announce(self) -> None:
        if self.webhook:
            events = self.state.events
            while self._told < len(events):
                self._due.put(events[self._told])
                self._told += 1

    def _post_events(self) -> None:
        while True:
            event = self._due.get()
            for attempt in range(_TRIES):
                if _posted(self.webhook, *self.signed(event)):
                    break
                time.sleep(2**attempt)


_IN_FLIGHT = Failure(
    "There is currently another in-progress request using this key.",
    status=409,
    kind="idempotency_error",
    code="idempotency_key_in_use",
)


def _find(method: str, path: str) -> tuple[Route, list[str]]:
    for route in ROUTES:
        ids = route.matches(method, path)
        if ids is not None:
            return route, ids
    raise Failure(f"Unrecognized request URL ({method}: {path}).", status=404)


def _require_key(headers: Any) -> None:
    if headers.get("Authorization") != f"Bearer {KEY}":
        raise Failure("Invalid API Key provided.", status=401)


def _error(failure: Failure) -> bytes:
    return json.dumps({"error": failure.error}).encode()


def _posted(url: str, body: bytes, signature: str) -> bool:
    headers = {"Content-Type": "application/json", "Stripe-Signature": signature}
    try:
        with urlopen(Request(url, body, headers), timeout=10):  # noqa: S310
            return True
    except (HTTPError, URLError, OSError):
        return False


_WRONG = 500, _error(Failure("Something went wrong.", status=500, kind="api_error"))


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, hands it on, and writes the answer."""

    owner: Double
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """The API's reads, and the pages that people see."""
        url = urlsplit(self.path)
        if url.path.startswith(("/pay/", "/portal/")):
            self._page(url.path)
        else:
            self._api(url.path, url.query)

    def do_POST(self) -> None:
        """The API's writes, and the card a person chose."""
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path.startswith("/pay/"):
            self._choose(self.path.removeprefix("/pay/"), dict(parse_qsl(raw)).get("card", ""))
        else:
            self._api(self.path, raw)

    def do_DELETE(self) -> None:
        """What the API takes away."""
        self._api(self.path, "")

    def _api(self, path: str, raw: str) -> None:
        found = self.owner.answer(self.command, path, raw, self.headers)
        if found is None:
            self.close_connection = True
            self.connection.close()
            return
        more = [("Stripe-Should-Retry", "false")] if found[0] >= 500 else []
        self._write(*found, "application/json", more)

    def _page(self, path: str) -> None:
        if path.startswith("/portal/"):
            session = self.owner.state.get("billing_portal.session", path.removeprefix("/portal/"))
            back = escape(session["return_url"] or "/")
            page = _PAGE.format(
                title="Customer portal", text="Of the double.", body=f'<a href="{back}">Back</a>'
            )
        else:
            session = self.owner.state.get("checkout.session", path.removeprefix("/pay/"))
            buttons = "".join(
                f'<button name="card" value="{card.number}">{card.number}: {card.about}</button>'
                for card in CARDS.values()
                if card.kind in session["payment_method_types"]
            )
            page = _PAGE.format(
                title="Choose a test card",
                text="This is not Stripe but its double; no money moves.",
                body=f'<form method="post">{buttons}</form>',
            )
        self._write(200, page.encode(), "text/html; charset=utf-8")

    def _choose(self, session: str, number: str) -> None:
        try:
            self.owner.give_card(session, number)
        except (Failure, KeyError) as error:
            page = _PAGE.format(title="Declined", text=escape(str(error)), body="")
            self._write(402, page.encode(), "text/html; charset=utf-8")
            return
        success = self.owner.state.get("checkout.session", session)["success_url"]
        location = success.replace("{CHECKOUT_SESSION_ID}", session)
        self._write(303, b"", "text/plain", [("Location", location)])

    def _write(
        self, status: int, body: bytes, kind: str, more: Iterable[tuple[str, str]] = ()
    ) -> None:
        self.send_response(status)
        for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))), *more):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def main() -> None:
    """Serve until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=12111)
    parser.add_argument("--webhook", default="", help="where events are posted")
    arguments = parser.parse_args()
    double = Double(webhook=arguments.webhook)
    double.start(arguments.port)
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
