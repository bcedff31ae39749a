from datetime import UTC, datetime
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from hypothesis import assume, given
from hypothesis import strategies as st
from redis import Redis

from tenants import keys
from tenants.keys import Unauthenticated
from tenants.models import ApiKey, Environment, Organization, Scope
from tests import factories

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = keys._spell("live", "0aZ9" * 3, "s3cr" * 8)


@given(st.integers(0, len(KEY) - 1), st.characters())
def test_a_mistyped_character_is_refused_before_any_look_up(place: int, typed: str) -> None:
    assume(KEY[place] != typed)
    with pytest.raises(Unauthenticated):
        keys.parse(KEY[:place] + typed + KEY[place + 1 :])


@given(st.integers(0, len(KEY) - 2))
def test_two_swapped_characters_are_refused(place: int) -> None:
    first, second = KEY[place], KEY[place + 1]
    assume(first != second)
    with pytest.raises(Unauthenticated):
        keys.parse(KEY[:place] + second + first + KEY[place + 2 :])


@given(st.text() | st.text("aip_live0", max_size=80))
def test_anything_else_is_refused_with_a_reason(text: str) -> None:
    with pytest.raises(Unauthenticated, match="keys begin with aip_live_"):
        keys.parse(text)


@pytest.mark.parametrize("cut", [KEY[:-1], KEY[1:], KEY + "0", f" {KEY}", f"{KEY}\n", ""])
def test_a_cut_or_padded_key_is_refused(cut: str) -> None:
    with pytest.raises(Unauthenticated):
        keys.parse(cut)


def test_a_whole_key_parses() -> None:
    assert keys.parse(KEY).id == "0aZ9" * 3


def test_a_minted_key_keeps_only_its_hash(redis: Redis, acme: Organization) -> None:
    key, text = keys.mint(organization=acme, name="ci", environment=Environment.TEST)
    stored = ApiKey.objects.for_org(acme).values().get()
    secret = text.rsplit("_", 1)[1][:32]
    assert text.startswith(f"aip_test_{key.id}_")
    assert not any(secret in str(value) for value in stored.values())
    assert keys.parse(text).is_of(stored["secret_hash"])
    assert set(key.scopes) == {"inference", "usage"}


def test_the_hash_depends_on_the_pepper(settings: pytest.FixtureRequest) -> None:
    before = keys.parse(KEY).hash()
    settings.KEY_PEPPER = "another"  # type: ignore[attr-defined]
    assert not keys.parse(KEY).is_of(before)


def test_revoking_twice_keeps_the_first_time(redis: Redis, acme: Organization) -> None:
    key, _ = factories.api_key(acme)
    keys.revoke(key, now=NOW)
    keys.revoke(key, now=NOW.replace(year=2031))
    assert key.revoked_at == NOW


def test_the_command_prints_the_key_once(redis: Redis, acme: Organization) -> None:
    out, err = StringIO(), StringIO()
    arguments = ["--organization", "acme", "--name", "ci", "--scopes", "inference"]
    call_command("create_key", *arguments, stdout=out, stderr=err)
    text = out.getvalue().strip()
    key = ApiKey.objects.for_org(acme).get(pk=keys.parse(text).id)
    assert (key.name, key.scopes, key.models) == ("ci", [Scope.INFERENCE], [])
    assert "not shown again" in err.getvalue()


def test_the_command_names_the_organizations_there_are(acme: Organization) -> None:
    with pytest.raises(CommandError, match="No organization 'acne'; there are: acme"):
        call_command("create_key", "--organization", "acne", "--name", "ci")
