"""What nobody reads ends too when its caller is shut out."""

from collections.abc import Callable
from typing import Any

import pytest

from inference import jobs
from inference.tasks import stop_refused
from kit.redis import state
from tenants import keys, known, members, organizations, shutting
from tenants.audit import Actor
from tenants.models import ApiKey, Organization, Role, User
from tests import factories
from tests.inference.parts import NOW, job, submit

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """Tasks that were announced, instead of a broker that nobody consumes."""
    said: list[tuple[str, Any]] = []

    def send(name: str, **said_with: Any) -> None:
        said.append((name, said_with["kwargs"]))

    monkeypatch.setattr("tenants.shutting.current_app.send_task", send)
    return said


def _revoke(key: ApiKey) -> None:
    keys.revoke(key, now=NOW)


def _suspend(key: ApiKey) -> None:
    organizations.suspend(key.organization, now=NOW)


def _deactivate(key: ApiKey) -> None:
    assert key.person is not None
    key.person.is_active = False
    key.person.save()


def _leave(key: ApiKey) -> None:
    assert key.person_id is not None
    by = factories.caller(organization=key.organization_id, user=key.person_id)
    members.leave(by, Actor("user:1", "x"), user=key.person_id, now=NOW)


@pytest.mark.parametrize("shut", [_revoke, _suspend, _deactivate, _leave])
def test_what_is_in_line_and_running_ends_with_its_caller(
    account: Any, acme: Organization, alice: User, sent: Any, shut: Callable[[ApiKey], None]
) -> None:
    dora = factories.user("dora")
    factories.member(dora, acme, Role.DEVELOPER)
    key, _ = factories.api_key(acme, person=dora)
    other, _ = factories.api_key(acme)
    running, waiting = (job(organization=acme.pk, key=key.pk) for _ in range(2))
    others = job(organization=acme.pk, key=other.pk)
    submit(running, web="")
    claim = jobs.claim(model=running.model, worker="w")
    assert claim is not None
    submit(waiting, others, web="")
    assert stop_refused(organization=acme.pk) == 0
    sent.clear()
    shut(key)
    assert sent[:2] == [(shutting.TASK, {"organization": acme.pk})] * 2
    _forget()
    assert stop_refused(**sent[0][1]) == (3 if shut is _suspend else 2)
    assert jobs.renew([(running.id, claim.attempt, True)]) == ["cancelled"]
    assert state().hget(f"job:{waiting.id}", "state") == b"sealed"
    left = b"sealed" if shut is _suspend else b"waiting"
    assert state().hget(f"job:{others.id}", "state") == left


def _forget() -> None:
    """A process holds records for half a second."""
    for records in (known.KEYS, known.MEMBERS, known.ORGANIZATIONS):
        records.forget()
