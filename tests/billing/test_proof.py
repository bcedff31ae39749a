"""Invoices that their customers can check without us."""

import re
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import orjson
import pytest
from asgiref.sync import async_to_sync
from django.test import AsyncClient
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings
from redis import Redis

from billing import lifecycle, merkle, pricing, proof
from billing.documents import as_data
from billing.merkle import Disproved
from billing.models import WRITTEN, Account, Invoice, Meter, tokens
from kit.ids import request_id
from kit.money import NANOS, minor_exponent, to_minor
from tests import factories
from tests.billing import rows
from tests.billing.rows import NOW, entry
from tests.billing.test_api import ask
from tests.billing.test_invoicing import AFTER, close
from tests.billing.test_ledger import booked

LEAVES = st.lists(st.binary(min_size=32, max_size=32), max_size=40)


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, to the letter."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    half = 1
    while half * 2 < len(leaves):
        half *= 2
    return sha256(b"\x01" + by_definition(leaves[:half]) + by_definition(leaves[half:])).digest()


def test_many_leaves_at_once_come_to_what_few_do() -> None:
    leaves = [sha256(bytes([n % 256, n >> 8])).digest() for n in range(2 * merkle._TOGETHER + 5)]
    for count in (merkle._TOGETHER - 1, merkle._TOGETHER, merkle._TOGETHER + 1, len(leaves)):
        assert merkle.root(leaves[:count]) == by_definition(leaves[:count])


@given(
    whole=st.integers(-(10**12), 10**12),
    granted=st.integers(0, 10**12),
    currency=st.sampled_from(["EUR", "JPY", "KWD"]),
)
def test_the_checker_rounds_as_invoices_do(whole: int, granted: int, currency: str) -> None:
    head = {
        "minor_exponent": minor_exponent(currency),
        "exact_nanos": whole,
        "granted_nanos": granted,
    }
    assert merkle._net(head) == sum(to_minor([whole - granted], currency))


@given(leaves=LEAVES)
def test_the_root_is_that_of_the_rfc(leaves: list[bytes]) -> None:
    assert merkle.root(leaves) == by_definition(leaves)


def test_known_roots_come_out() -> None:
    """Of the test vectors that Certificate Transparency's implementations share."""
    inputs = ["", "00", "10", "2021", "3031", "40414243", "5051525354555657"]
    leaves = [merkle.leaf(bytes.fromhex(each)) for each in inputs]
    assert merkle.root(leaves[:1]).hex() == (
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"
    )
    assert merkle.root(leaves[:7]).hex() == (
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"
    )


@given(
    data=st.data(), leaves=st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40)
)
def test_each_leaf_has_a_path_to_the_root_and_to_no_other(
    data: st.DataObject, leaves: list[bytes]
) -> None:
    index = data.draw(st.integers(0, len(leaves) - 1))
    steps = merkle.path(leaves, index)
    whole = merkle.root(leaves)
    assert merkle.climb(leaves[index], index, len(leaves), steps) == whole
    assert merkle.climb(b"another" * 4, index, len(leaves), steps) != whole
    with pytest.raises(Disproved):
        merkle.climb(leaves[index], index, len(leaves), [*steps, whole])
    if steps:
        with pytest.raises(Disproved):
            merkle.climb(leaves[index], index, len(leaves), steps[1:])


@pytest.fixture
def account(transactional_db: None, redis: Redis) -> Account:
    """Acme's, with five rows in November, booked out of order."""
    price = rows.price("echo", rates={"input_tokens": 100 * NANOS})
    found = rows.account("acme")
    made = [
        entry(
            found.organization_id,
            label=f"é {n}",
            price_version=price.pk,
            units={"input_tokens": 10_000 * n},
            amounts={"input_tokens": n * NANOS},
        )
        for n in range(5)
    ]
    booked(*reversed(made))
    return found


@pytest.fixture
def invoice(account: Account) -> Invoice:
    """November's."""
    return close(account)


@pytest.fixture
def printed(invoice: Invoice) -> str:
    """The root on the PDF."""
    return str(as_data(invoice)["root"])


@pytest.fixture
def key(account: Account) -> str:
    """Of acme's."""
    return factories.api_key(account.organization)[1]


pytestmark = [pytest.mark.urls("tests.billing.urls"), pytest.mark.django_db(transaction=True)]


async def downloaded(key: str, number: str = "INV-2026-000001") -> bytes:
    answer = await ask(f"invoices/{number}/proof", key)
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/x-ndjson")
    return b"".join([piece async for piece in answer.streaming_content])


def checked(tmp_path: Path, data: bytes, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The checker as its user runs it: one file, no packages."""
    file = tmp_path / "proof"
    file.write_bytes(data)
    command = [sys.executable, "-I", merkle.__file__, str(file), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


async def test_an_invoice_is_proved_against_the_root_on_its_pdf(
    invoice: Invoice, printed: str, key: str, tmp_path: Path
) -> None:
    data = await downloaded(key)
    assert len(data.splitlines()) == 6
    done = checked(tmp_path, data, "--root", printed)
    assert (done.returncode, done.stdout) == (
        0,
        f"INV-2026-000001: 5 rows, {10 * NANOS} nanos: proved.\n",
    )
    answer = await ask("invoices/INV-2026-000001.csv", key)
    usage = b"".join([piece async for piece in answer.streaming_content])
    file, lines = tmp_path / "usage", usage.splitlines(keepends=True)
    file.write_bytes(usage)
    done = checked(tmp_path, data, "--root", printed, "--csv", str(file))
    assert done.stdout.endswith("proved. The usage has the same 5 rows.\n")
    for other in (lines[:-1], [*lines, lines[-1]], [*lines[:-1], lines[-1].replace(b".0", b".1")]):
        file.write_bytes(b"".join(other))
        done = checked(tmp_path, data, "--root", printed, "--csv", str(file))
        assert (done.returncode, done.stderr[:12]) == (1, "Not proved: ")


def tampered(data: bytes) -> list[bytes]:
    """What somebody could make of a proof."""
    head, *lines = data.splitlines()
    cheaper = lines[4].replace(b'"units":{"input_tokens":', b'"units":{"input_tokens":1')
    assert cheaper != lines[4]
    wrong = orjson.dumps({**orjson.loads(head), "exact_nanos": 1})
    rounded = orjson.dumps({**orjson.loads(head), "net_minor": 1_001})
    return [
        b"\n".join([rounded, *lines]),
        b"\n".join([head, *lines[:4]]),
        b"\n".join([head, *lines[:4], cheaper]),
        b"\n".join([head, *lines, lines[4]]),
        b"\n".join([head, lines[1], lines[0], *lines[2:]]),
        b"\n".join([wrong, *lines]),
        b"",
        b"no json",
        b"[]",
    ]


async def test_whatever_is_changed_is_not_proved(
    invoice: Invoice, key: str, tmp_path: Path
) -> None:
    for forged in tampered(await downloaded(key)):
        done = checked(tmp_path, forged, "--root", invoice.merkle_root)
        assert done.returncode == 1
        assert done.stderr.startswith("Not proved: ")


def proof_of(lines: list[dict[str, Any]]) -> tuple[list[bytes], str]:
    """A forger's own tree over rows of his."""
    texts = [orjson.dumps(line, option=orjson.OPT_SORT_KEYS) for line in lines]
    sums = {"exact_nanos": sum(each["amount"] for each in lines), "granted_nanos": 0}
    head = {"number": "X", "rows": len(lines), **sums, "net_minor": 0, "minor_exponent": 2}
    whole = merkle.root(merkle.leaf(text) for text in texts).hex()
    return [orjson.dumps(head), *texts], whole


def test_a_right_root_over_wrong_rows_is_not_enough() -> None:
    row = {"request": "a", "amount": 5, "amounts": {"input_tokens": 5}}
    lines, whole = proof_of([row, {**row, "request": "b"}])
    assert merkle.check(lines, whole)["rows"] == 2
    with pytest.raises(Disproved, match="twice"):
        merkle.check(*proof_of([row, row]))
    with pytest.raises(Disproved, match="parts"):
        merkle.check(*proof_of([{**row, "amount": 6}]))


RATES_OF = st.dictionaries(st.sampled_from(list(Meter)), st.integers(0, 10**12), min_size=1)


@given(
    rates=RATES_OF,
    units=st.dictionaries(st.sampled_from(list(Meter)), st.integers(0, 10**7)),
    state=st.sampled_from(["finished", "failed", "cancelled"]),
)
def test_the_checker_prices_units_as_the_platform_does(
    rates: dict[Meter, int], units: dict[Meter, int], state: str
) -> None:
    price = pricing.Price(1, "echo", "EUR", NOW, {str(k): v for k, v in rates.items()})
    row = {"units": {str(k): v for k, v in units.items()}, "state": state}
    free = state == "failed" or (state == "cancelled" and tokens(row["units"], *WRITTEN) == 0)  # type: ignore[arg-type]
    due = pricing.charge(price, row["units"], free=free)  # type: ignore[arg-type]
    assert merkle.amounts(row, dict(price.rates)) == due.amounts


def priced(lines: list[dict[str, Any]], prices: dict[str, Any]) -> tuple[list[bytes], str]:
    """A proof of rows that name price versions."""
    (head, *texts), whole = proof_of(lines)
    return [orjson.dumps({**orjson.loads(head), "prices": prices}), *texts], whole


def test_an_amount_that_is_not_units_at_their_rates_is_not_proved() -> None:
    price = {"model": "echo", "currency": "EUR", "effective_from": NOW.isoformat()}
    prices = {"7": {**price, "rates": {"input_tokens": 3_000_000}}}
    row = {
        "request": "a",
        "model": "echo",
        "currency": "EUR",
        "state": "finished",
        "price_version": 7,
        "units": {"input_tokens": 2},
        "amount": 6,
        "amounts": {"input_tokens": 6},
    }
    assert merkle.check(*priced([row], prices))["rows"] == 1
    dearer = {**row, "amount": 7, "amounts": {"input_tokens": 7}}
    with pytest.raises(Disproved, match="at its rates"):
        merkle.check(*priced([dearer], prices))
    with pytest.raises(Disproved, match="lacks its price"):
        merkle.check(*priced([{**row, "price_version": 8}], prices))
    with pytest.raises(Disproved, match="another model"):
        merkle.check(*priced([{**row, "model": "other"}], prices))


@pytest.mark.urls("config.urls")
def test_members_download_all_that_a_check_needs_from_the_billing_page(
    invoice: Invoice, settings: Settings, tmp_path: Path
) -> None:
    settings.STATIC_ROOT = tmp_path
    person = factories.user("alice")
    factories.member(person, invoice.organization)
    browser = AsyncClient()
    browser.force_login(person)

    @async_to_sync
    async def saved(path: str) -> str:
        answer: Any = await browser.get(path)
        assert answer.status_code == 200
        _, name = answer["Content-Disposition"].split("filename=")
        file = tmp_path / name.strip('"')
        file.write_bytes(
            b"".join([part async for part in answer]) if answer.streaming else answer.content
        )
        return str(file)

    page = async_to_sync(browser.get)("/o/acme/billing").content.decode()
    links = re.findall(r'href="([^"]+\.(?:py|ndjson|csv))"', page)
    usage, whole, checker = (saved(each) for each in links)
    command = [sys.executable, "-I", checker, whole, "--root", invoice.merkle_root, "--csv", usage]
    assert "proved" in subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


@pytest.fixture
def former(invoice: Invoice) -> Invoice:
    """November's, as it was closed before price versions were hashed."""
    invoice.proof_format = "ledger-rows-2"
    invoice.merkle_root, _ = proof.root(invoice.organization_id, invoice.month, "ledger-rows-2")
    invoice.save()
    return invoice


async def test_a_proof_of_the_former_format_is_checked_as_before(
    former: Invoice, key: str, tmp_path: Path
) -> None:
    data = await downloaded(key)
    assert b"price" not in data
    assert checked(tmp_path, data, "--root", former.merkle_root).returncode == 0


async def test_one_request_is_proved_by_its_path(
    invoice: Invoice, key: str, tmp_path: Path
) -> None:
    for line in (await downloaded(key)).splitlines()[1:]:
        request = orjson.loads(line)["request"]
        answer = await ask("invoices/INV-2026-000001/proof", key, request=request)
        assert len(answer.json()["path"]) <= 3
        done = checked(tmp_path, answer.content, "--one", "--root", invoice.merkle_root)
        assert done.returncode == 0
        assert request in done.stdout
        forged = answer.content.replace(b'amount\\":', b'amount\\":1')
        assert checked(tmp_path, forged, "--one", "--root", invoice.merkle_root).returncode == 1


async def test_what_is_not_on_the_invoice_has_no_path(invoice: Invoice, key: str) -> None:
    stranger = str(request_id(NOW))
    answer = await ask("invoices/INV-2026-000001/proof", key, request=stranger)
    assert answer.status_code == 404
    answer = await ask("invoices/INV-2026-000001/proof", key, request="x")
    assert (answer.status_code, answer.json()["param"]) == (400, "request")


@pytest.fixture
def strangers_key(transactional_db: None) -> str:
    """Bob's."""
    return factories.api_key(rows.account("globex").organization)[1]


async def test_others_and_nobody_get_no_proof(invoice: Invoice, strangers_key: str) -> None:
    assert (await ask("invoices/INV-2026-000001/proof", strangers_key)).status_code == 404
    assert (await ask("invoices/INV-2026-000001/proof", None)).status_code == 401
    answer = await AsyncClient().post("/api/v1/invoices/INV-2026-000001/proof")
    assert answer.status_code == 405


@pytest.fixture
def note(invoice: Invoice) -> Invoice:
    """A credit note, which has no rows of its own."""
    return lifecycle.credit_note(invoice=invoice.pk, reason="r", now=AFTER, minor=1)


async def test_a_credit_note_has_no_rows_to_prove(note: Invoice, key: str) -> None:
    assert (await ask(f"invoices/{note.number}/proof", key)).status_code == 404


def test_many_pages_make_the_same_root(invoice: Invoice, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_PAGE", "_MANY"):
        monkeypatch.setattr(proof, name, 2)
    assert proof.root(invoice.organization_id, invoice.month) == (invoice.merkle_root, 5)
    assert len(list(proof.whole(invoice))) == 3
