"""The tree over an invoice's rows (RFC 6962 §2.1), and its check without the platform.

Standard library alone: copy this file anywhere. Download the proof, take the root from the PDF:

  python -m billing.merkle INV-2026-000042.ndjson --root 9f86d081…

The first line of the file says what the invoice says; every other line is a row of the ledger, as
hashed. Checked are the root, that each row's units at the rates of its price version come to its
parts and those to its amount, that what tiers and a minimum changed is what the month's units come
to, that the rows' amounts are the invoice's exact sum and, less what grants have paid and rounded
once, its net total, and that no request is charged twice. With --csv the usage that was downloaded
beside the invoice is held against the same rows. With --one the file is the proof of a single
request, and its path is followed to the root.
"""

import argparse
import csv
import json
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any

_TOGETHER = 1 << 10
_MILLION = 1_000_000
_ONE = 10**9
_BATCH = "batch_"
"""A meter of batches that a price list leaves out costs what it does outside them."""
_PARTS = {"cached_input_tokens": "input_tokens", "reasoning_tokens": "output_tokens"}
"""A part that a price list leaves out costs as its whole; the two are rounded together."""
_WRITTEN = ("output_tokens", "batch_output_tokens", "reasoning_tokens")


class Disproved(Exception):
    """What was checked is not so; the message says what."""


def leaf(row: bytes) -> bytes:
    """A row's hash: SHA-256 of a zero byte and the row."""
    return sha256(b"\x00" + row).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Two subtrees' hash: SHA-256 of a one byte and both."""
    return sha256(b"\x01" + left + right).digest()


def root(leaves: Iterable[bytes]) -> bytes:
    """The root over leaves in their order; SHA-256 of nothing where there are none.

    Keeps one hash for each complete subtree, so its memory grows with the logarithm of their
    number.
    """
    whole: list[tuple[int, bytes]] = []
    waiting = iter(leaves)
    while some := list(islice(waiting, _TOGETHER)):
        if len(some) == _TOGETHER:
            _join(whole, _TOGETHER, _reduced(some))
        else:
            for each in some:
                _join(whole, 1, each)
    if not whole:
        return sha256(b"").digest()
    hashed = whole.pop()[1]
    while whole:
        hashed = node(whole.pop()[1], hashed)
    return hashed


def _join(whole: list[tuple[int, bytes]], size: int, hashed: bytes) -> None:
    """Put a subtree behind complete ones, which are never smaller."""
    while whole and whole[-1][0] == size:
        hashed = node(whole.pop()[1], hashed)
        size *= 2
    whole.append((size, hashed))


def _reduced(level: list[bytes]) -> bytes:
    """The root over a power of two of hashes, level by level: quicker than one by one."""
    while len(level) > 1:
        pairs = zip(level[::2], level[1::2], strict=True)
        level = [sha256(b"\x01" + left + right).digest() for left, right in pairs]
    return level[0]


def path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The hashes that lead from a leaf to the root, the lowest first (RFC 6962 §2.1.1)."""
    if len(leaves) == 1:
        return []
    half = _half(len(leaves))
    if index < half:
        return [*path(leaves[:half], index), root(leaves[half:])]
    return [*path(leaves[half:], index - half), root(leaves[:half])]


def climb(hashed: bytes, index: int, size: int, steps: Sequence[bytes]) -> bytes:
    """The root to which a leaf's path leads; raises `Disproved` where the path doesn't fit."""
    if size == 1:
        if steps:
            raise Disproved("The path is too long for so few rows.")
        return hashed
    if not steps:
        raise Disproved("The path is too short for so many rows.")
    half = _half(size)
    if index < half:
        return node(climb(hashed, index, half, steps[:-1]), steps[-1])
    return node(steps[-1], climb(hashed, index - half, size - half, steps[:-1]))


def _half(size: int) -> int:
    """The largest power of two below `size`."""
    return 1 << (size - 1).bit_length() - 1


def check(lines: Sequence[bytes], expected: str) -> dict[str, Any]:
    """A whole invoice against the root on its PDF; what it says. Raises `Disproved`."""
    head, rows = json.loads(lines[0]), lines[1:]
    found = root(leaf(row) for row in rows).hex()
    if found != expected.lower():
        raise Disproved(f"The rows have the root {found}, the invoice says {expected}.")
    seen, total, month = "", 0, _Month(head.get("prices", {}))
    for row in map(json.loads, rows):
        if row["request"] <= seen:
            raise Disproved(f"{row['request']} is charged twice, or out of order.")
        seen = row["request"]
        _check_amount(row, head)
        month.add(row)
        total += row["amount"]
    if (total, len(rows)) != (head["exact_nanos"], head["rows"]):
        raise Disproved(
            f"{len(rows)} rows come to {total} nanos; the invoice says {head['rows']} rows and "
            f"{head['exact_nanos']} nanos."
        )
    if "prices" in head:
        month.check(head.get("minimum_nanos"))
    if (net := _net(head)) != head["net_minor"]:
        raise Disproved(f"The rows come to {net} net; the invoice charges {head['net_minor']}.")
    return dict(head)


def _check_amount(row: dict[str, Any], head: dict[str, Any]) -> None:
    """The parts come to the amount, and the units at their rates to the parts."""
    if sum(row["amounts"].values()) != row["amount"]:
        raise Disproved(f"{row['request']}: the parts do not come to {row['amount']}.")
    version = row.get("price_version")
    if version is None:
        return
    if str(version) not in head["prices"]:
        raise Disproved(f"{row['request']}: the proof lacks its price version {version}.")
    price = head["prices"][str(version)]
    if (price["model"], price["currency"]) != (row["model"], row["currency"]):
        raise Disproved(f"{row['request']}: price version {version} is another model's.")
    due = amounts(row, price["rates"])
    if due != row["amounts"]:
        raise Disproved(f"{row['request']}: at its rates it costs {due}, not {row['amounts']}.")


def amounts(row: dict[str, Any], rates: dict[str, int]) -> dict[str, int]:
    """What a row's units cost by meter, in nanos; rates are nanos for a million units.

    Nothing where it failed, or was cancelled before its first token.
    """
    units = row["units"]
    if _is_free(row):
        return dict.fromkeys(units, 0)
    found = {
        meter: _rounded(count * _rate(rates, meter), _MILLION) for meter, count in units.items()
    }
    for part, whole in _PARTS.items():
        if part in units and whole in units:
            both = sum(units[meter] * _rate(rates, meter) for meter in (part, whole))
            found[whole] = _rounded(both, _MILLION) - found[part]
    return found


def _is_free(row: dict[str, Any]) -> bool:
    is_stopped = row["state"] == "cancelled" and not any(row["units"].get(m) for m in _WRITTEN)
    return is_stopped or row["state"] == "failed"


class _Month:
    """What a month's units come to by tiers, and what its use comes to at least."""

    def __init__(self, prices: dict[str, Any]) -> None:
        self._prices = prices
        self._used: dict[tuple[str, str], dict[str, list[int]]] = defaultdict(dict)
        self._tiered: dict[tuple[str, str], int] = defaultdict(int)
        self._sums: dict[str, int] = defaultdict(int)

    def add(self, row: dict[str, Any]) -> None:
        """Count a row."""
        self._sums[row.get("kind", "use")] += row["amount"]
        if row.get("kind") == "tier":
            for meter, nanos in row["amounts"].items():
                self._tiered[row["model"], meter] += nanos
        version = row.get("price_version")
        if version is None or _is_free(row):
            return
        for meter, units in row["units"].items():
            named = meter
            if meter not in self._prices[str(version)]["rates"]:
                named = _PARTS.get(meter, meter)
            sums = self._used[row["model"], named].setdefault(str(version), [0, 0])
            sums[:] = [sums[0] + units, sums[1] + row["amounts"][meter]]

    def check(self, minimum: int | None) -> None:
        """Raise `Disproved` where the rows that tiers and a minimum wrote are others."""
        due = {which: nanos for which in self._used if (nanos := self._change(which))}
        for which in sorted(due.keys() | self._tiered.keys()):
            found, wanted = self._tiered.get(which, 0), due.get(which, 0)
            if found != wanted:
                named = " ".join(which)
                raise Disproved(f"The tiers of {named} change {wanted}; the invoice has {found}.")
        used = sum(self._sums[kind] for kind in ("use", "meter", "tier"))
        if minimum is not None and self._sums["minimum"] != max(0, minimum - used):
            raise Disproved(
                f"{used} were used and {minimum} are the minimum; the invoice adds "
                f"{self._sums['minimum']}."
            )

    def _change(self, which: tuple[str, str]) -> int:
        """What the price lists' tiers change of a meter, one after the other."""
        start = change = 0
        for version in sorted(self._used[which], key=self._since):
            units, nanos = self._used[which][version]
            tiers = self._prices[version].get("tiers", {}).get(which[1])
            if tiers:
                change += tiered(tiers, start + units) - tiered(tiers, start) - nanos
            start += units
        return change

    def _since(self, version: str) -> tuple[datetime, int]:
        return datetime.fromisoformat(self._prices[version]["effective_from"]), int(version)


def tiered(tiers: dict[str, Any], units: int) -> int:
    """What a month of so many units comes to by tiers, in nanos.

    Graduated: each unit at the rate of its own step. Volume: all at the rate of the step that was
    reached, but never more than the first units of a later step come to.
    """
    steps = tiers["steps"]
    if tiers["mode"] == "graduated":
        ends = [*(begin for begin, _ in steps[1:]), units]
        spans = zip(steps, ends, strict=True)
        parts = ((min(end, units) - begin) * rate for (begin, rate), end in spans if begin < units)
        return _rounded(sum(parts), _MILLION)
    reached = [rate for begin, rate in steps if begin <= units]
    later = [begin * rate for begin, rate in steps if begin > units]
    return _rounded(min([units * reached[-1], *later]), _MILLION)


def check_usage(lines: Sequence[bytes], usage: Iterable[str]) -> int:
    """Hold the CSV of an invoice's usage against the rows of its proof; how many they are.

    Raises `Disproved`.
    """
    due = {row["request"]: row for row in map(json.loads, lines[1:])}
    count = 0
    for said in csv.DictReader(usage):
        row = due.pop(said["request"], None)
        if row is None:
            raise Disproved(f"{said['request']} is in the usage and not on the invoice, or twice.")
        count += 1
        booked = {name: row.get(name, said[name]) for name in ("key", "state", "currency", "kind")}
        booked |= {meter: str(units) for meter, units in row["units"].items() if meter in said}
        whole, part = divmod(abs(row["amount"]), _ONE)
        booked["amount"] = f"{'-' if row['amount'] < 0 else ''}{whole}.{part:09d}"
        for name, value in booked.items():
            if said[name] != value:
                raise Disproved(f"{said['request']}: {name} is {said[name]}, booked was {value}.")
    if due:
        raise Disproved(f"{next(iter(due))} is on the invoice and not in the usage.")
    return count


def _rate(rates: dict[str, int], meter: str) -> int:
    whole = _PARTS[meter] if meter in _PARTS else meter.removeprefix(_BATCH)
    return rates.get(meter, rates.get(whole, 0))


def _net(head: dict[str, Any]) -> int:
    """What is left after grants, in the currency's smallest unit, rounded once."""
    unit = int(10 ** (9 - head["minor_exponent"]))
    return _rounded(head["exact_nanos"] - head["granted_nanos"], unit)


def _rounded(amount: int, unit: int) -> int:
    """So many units, half to even."""
    whole, rest = divmod(amount, unit)
    return whole + int(rest * 2 > unit or (rest * 2 == unit and whole % 2 == 1))


def check_one(proof: dict[str, Any], expected: str) -> dict[str, Any]:
    """A single request's proof against the root; its row. Raises `Disproved`."""
    steps = [bytes.fromhex(step) for step in proof["path"]]
    if not 0 <= proof["index"] < proof["rows"]:
        raise Disproved("The row is none of the invoice's.")
    hashed = leaf(proof["row"].encode())
    found = climb(hashed, proof["index"], proof["rows"], steps).hex()
    if found != expected.lower():
        raise Disproved(f"The path leads to {found}, the invoice says {expected}.")
    row = dict(json.loads(proof["row"]))
    _check_amount(row, proof)
    return row


def main(arguments: Sequence[str] | None = None) -> int:
    """0 where the file proves the root, 1 where it doesn't."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("file", type=Path, help="as /api/v1/invoices/{number}/proof gave it")
    parser.add_argument("--root", required=True, help="as it stands on the PDF")
    parser.add_argument(
        "--csv", type=Path, help="the usage, as /api/v1/invoices/{number}.csv gave it"
    )
    parser.add_argument("--one", action="store_true", help="the proof of a single request")
    options = parser.parse_args(arguments)
    data = options.file.read_bytes()
    try:
        if options.one:
            row = check_one(json.loads(data), options.root)
            said = f"{row['request']} is on the invoice, for {row['amount']} nanos."
        else:
            head = check(data.splitlines(), options.root)
            said = f"{head['number']}: {head['rows']} rows, {head['exact_nanos']} nanos: proved."
            if options.csv:
                with options.csv.open(encoding="utf-8", newline="") as usage:
                    said += f" The usage has the same {check_usage(data.splitlines(), usage)} rows."
    except (
        Disproved,
        OSError,
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
    ) as error:
        sys.stderr.write(f"Not proved: {error}\n")
        return 1
    sys.stdout.write(said + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
