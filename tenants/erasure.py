"""Erasing an organization: its schema, its data keys, its people's and programs' ways in.

Every public table with rows of it is emptied of them, but those that say why they are kept: what
the law or an auditor wants (`tenants.owned`). Everything that was sealed under the organization's
data keys, in backups and in Redis as well, is noise from then on.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog
from celery import current_app
from django.core.mail import EmailMessage
from django.db import connection, models, transaction
from psycopg import sql
from redis.exceptions import RedisError

from kit.redis import state
from tenants import answers, audit, certificates, datakeys, organizations, owned
from tenants.audit import Actor, Change
from tenants.models import (
    ApiKey,
    AuditEntry,
    AuditHead,
    DataKey,
    Membership,
    Organization,
    Role,
)
from tenants.owned import Table

_ACTION = "organization.erased"
_REASON = "erased"
_NAMES_THE_REST = "id, slug and name: what is kept refers to them"
_IN_REDIS = (
    "credit:{pk}",
    "credit:{pk}:held",
    "datakeys:{pk}",
    "idempotency:{pk}:*",
    "limits:organization:{pk}:*",
)
"""Keys that carry an organization; `docs/architecture.md` has all. `job:…` names it in a field."""
_SCANNED = 1000

log = structlog.get_logger()


def erase(organization: Organization, *, now: datetime, by: Actor) -> dict[str, Any]:
    """Erase all that the organization owns, and return the signed certificate of it.

    Its callers are refused within a second; requests still running end, are booked, and leave no
    history. All or nothing; again returns the first certificate. See `tenants.certificates`.
    """
    with transaction.atomic():
        organization = Organization.objects.select_for_update(no_key=True).get(pk=organization.pk)
        if organization.erased_at is None:
            certificate = _erase(organization, now, by)
        else:
            certificate = certificate_of(organization)
        keys = list(certificate["statement"]["erased"]["api_keys"])
        transaction.on_commit(lambda: _forget(organization.pk, keys))
    return certificate


def certificate_of(organization: Organization) -> dict[str, Any]:
    """The certificate of an erased organization, from the audit log. Raises DoesNotExist."""
    entry = AuditEntry.objects.for_org(organization).get(action=_ACTION)
    certificate: dict[str, Any] = entry.after["certificate"]
    return certificate


def tell(organization: int) -> int:
    """Send its former owners the certificate; how many letters.

    Raises DoesNotExist, and OSError where the mail server takes none of them.
    """
    entry = AuditEntry.objects.for_org(organization).get(action=_ACTION)
    certificate = entry.after["certificate"]
    whose = certificate["statement"]["organization"]
    subject = f"{whose['name']} was erased: its certificate"
    text = (
        f"The organization {whose['name']!r} ({whose['slug']}) was erased on "
        f"{entry.at:%Y-%m-%d at %H:%M} UTC.\nWhat went, how many rows of each table, and what has "
        "to be kept and why, is in the certificate attached.\n\n"
        f"It is signed with {certificate['algorithm']} by the key\n\n"
        f"    {certificate['public_key']}\n\n"
        "which the platform publishes at /api/v1/certificates/keys. Keep that key beside the "
        "certificate:\nwith the two anyone can check it, without us "
        "(docs/examples/verify_certificate.py).\n"
    )
    attached = json.dumps(certificate, indent=2, ensure_ascii=False)
    sent, failed = 0, None
    for address in entry.after.get("told", ()):
        message = EmailMessage(" ".join(subject.split()), text, to=[address])
        message.attach(f"certificate-{whose['slug']}.json", attached, "application/json")
        try:
            sent += message.send()
        except OSError as error:
            log.error("a certificate could not be sent", error=str(error))
            failed = error
    if failed is not None and not sent:
        raise failed
    return sent


def _have_told(organization: Organization) -> None:
    try:
        current_app.send_task(
            "tenants.send_certificate", kwargs={"organization": organization.pk}, retry=False
        )
    except Exception as error:
        how = f"manage.py certificates send {organization.slug}"
        log.error("the certificate was not sent", error=str(error), send_it_by=how)


def _erase(organization: Organization, now: datetime, by: Actor) -> dict[str, Any]:
    told = sorted(
        Membership.objects.for_org(organization)
        .filter(role=Role.OWNER)
        .values_list("user__email", flat=True)
    )
    if organization.suspended_at is None:
        organization.suspended_at = now
    organization.erased_at, organization.suspended_reason = now, _REASON
    organization.ready_at = None
    organization.save(update_fields=["erased_at", "suspended_at", "suspended_reason", "ready_at"])
    keys = ApiKey.objects.for_org(organization).order_by("pk").values_list("pk", flat=True)
    erased = {
        "tables": _drop(organization.schema_name),
        "data_keys": datakeys.destroy(organization.pk),
        "api_keys": list(keys),
        "rows": _empty(organization.pk),
    }
    certificate = certificates.sign(_statement(organization, erased, now, by), now=now)
    after = {"certificate": certificate, "told": told}
    fact = Change(_ACTION, organizations.target(organization), after=after)
    audit.record(fact, by=by, organization=organization.pk, now=now)
    transaction.on_commit(lambda: _have_told(organization))
    return certificate


def _statement(
    organization: Organization, erased: Mapping[str, Any], now: datetime, by: Actor
) -> dict[str, Any]:
    head = AuditHead.objects.filter(chain=organization.pk).first()
    return {
        "kind": "certificate of erasure",
        "organization": {
            "id": organization.pk,
            "slug": organization.slug,
            "name": organization.name,
        },
        "erased_at": now.astimezone(UTC).isoformat(timespec="microseconds"),
        "by": {"id": by.id, "name": by.name},
        "schema": organization.schema_name,
        "erased": dict(erased),
        "kept": {Organization._meta.label_lower: _NAMES_THE_REST}
        | {each.label: each.kept for each in owned.tables() if each.kept},
        "audit_head": {"sequence": head.sequence, "hash": head.hash} if head else None,
    }


def _drop(schema: str) -> dict[str, int]:
    """Drop the schema; its tables, and how many rows each had."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY tablename", [schema]
        )
        tables = {name: 0 for (name,) in cursor.fetchall()}
        for name in tables:
            count = sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(schema, name))
            cursor.execute(count)
            tables[name] = cursor.fetchone()[0]
        cursor.execute(sql.SQL("DROP SCHEMA IF EXISTS {} CASCADE").format(sql.Identifier(schema)))
    return tables


def _empty(organization: int) -> dict[str, int]:
    """Delete its rows of the public tables, whose data keys are gone; how many of each."""
    tables = [each for each in owned.tables() if not each.kept and each.model is not DataKey]
    gone = Counter({each.label: 0 for each in tables})
    for table in tables:
        gone.update(_delete(table, organization))
    return dict(sorted(gone.items()))


def _delete(table: Table, organization: int) -> Counter[str]:
    """Where a row's own `delete` lets every process know, each by itself."""
    rows, gone = table.rows(organization), Counter[str]()
    each_by_itself = table.model.delete is not models.Model.delete
    for deleted in (row.delete() for row in rows) if each_by_itself else (rows.delete(),):
        gone.update({label.lower(): count for label, count in deleted[1].items()})
    return gone


def _forget(organization: int, keys: list[str]) -> None:
    """Take out of Redis what carries the organization; what still runs goes with its end."""
    try:
        answers.forget(organization)
    except RedisError as error:
        log.warning(
            "an erased organization's answers stay in the cache, as noise", error=str(error)
        )
    for name in _names(organization, keys):
        state().delete(name)
    for name in state().scan_iter(match="job:*", count=_SCANNED):
        whose, how = state().hmget(name, ["org", "state"])
        if whose == str(organization).encode() and how == b"done":
            state().delete(name, name.replace(b"job:", b"stream:", 1))


def _names(organization: int, keys: list[str]) -> Iterator[str | bytes]:
    for pattern in _IN_REDIS:
        name = pattern.format(pk=organization)
        if "*" in name:
            yield from state().scan_iter(match=name, count=_SCANNED)
        else:
            yield name
    for key in keys:
        yield from state().scan_iter(match=f"limits:key:{key}:*", count=_SCANNED)
