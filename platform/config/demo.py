"""The organization that a fresh installation begins with: people, a key, credit, a priced model."""

import json
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction

from billing.models import Account, PriceVersion
from billing.offers import PlanTerms
from inference.catalog.models import Model
from inference.engine.manifest import Manifest, NotPrepared, read_manifest
from kit.embedded import write_private
from kit.money import NANOS
from tenants import keys
from tenants.accounts import addresses
from tenants.models import ApiKey, Membership, Organization, Plan, Role, User

SLUG = "demo"
_LIMITS = {"requests_per_minute": 600, "tokens_per_minute": 500_000, "concurrent_requests": 64}
_CREDIT = 100 * NANOS
_CURRENCY = "EUR"
_RATES = {
    "input_tokens": 50_000_000,
    "output_tokens": 200_000_000,
    "response_cache_tokens": 5_000_000,
    "batch_input_tokens": 25_000_000,
    "batch_output_tokens": 100_000_000,
}
"""EUR 0.05 and 0.20 for a million tokens; in batches half of it; 0.005 where a cache has them."""
_EMBEDDING_RATES = {"embedding_tokens": 20_000_000, "batch_embedding_tokens": 10_000_000}
"""EUR 0.02 for a million, in batches half of it."""
_ABOUT: Mapping[str, Mapping[str, Any]] = {
    "smollm2-135m-instruct": {
        "title": "SmolLM2 135M Instruct",
        "owner": "HuggingFaceTB",
        "default_temperature": 0.2,
        "default_top_p": 0.9,
    },
    "all-minilm-l6-v2": {"title": "all-MiniLM-L6-v2", "owner": "sentence-transformers"},
}
"""What the catalog says of the models that we ship; sampling as their makers advise."""
_PLANS: Mapping[str, Mapping[str, Any]] = {
    "Free": {"allowance": NANOS, "summary": "A euro of use a month, to try things out."},
    "Pay as you go": {"summary": "What you use, and nothing else."},
    "Team": {
        "fee": 30 * NANOS,
        "seat_fee": 10 * NANOS,
        "included_seats": 3,
        "allowance": 20 * NANOS,
        "trial_days": 14,
        "summary": "For people who build together.",
    },
    "Enterprise": {
        "fee": 500 * NANOS,
        "minimum": 1_000 * NANOS,
        "self_service": False,
        "summary": "By contract.",
    },
}
"""What a fresh installation offers; the admin has the rest."""
_BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Demo:
    """What the banner shows; kept in a file that its owner alone may read."""

    portal: str
    owner_email: str
    owner_password: str
    admin_email: str
    admin_password: str
    api_key: str


def seed(path: Path) -> Demo:
    """Make what is missing, and write it to `path`. What stands already stays."""
    known = _read(path)
    organization = Organization.objects.filter(slug=SLUG).first()
    if organization is None:
        organization = Organization.objects.create(slug=SLUG, name="Demo", **_LIMITS)
    with transaction.atomic():
        owner = _user("owner@demo.example", known.get("owner_password"))
        admin = _user("operator@demo.example", known.get("admin_password"), operator=True)
        for person, _ in (owner, admin):
            addresses.confirm(person)
        Membership.objects.for_org(organization).get_or_create(
            user=owner[0], organization=organization, defaults={"role": Role.OWNER}
        )
        Account.objects.for_org(organization).get_or_create(
            organization=organization,
            defaults={"currency": _CURRENCY, "credit_limit": _CREDIT},
        )
        for manifest in _prepared():
            offer(manifest)
        _offer_plans()
        key = _key(organization, owner[0], known.get("api_key"))
    demo = Demo("/o/", owner[0].email, owner[1], admin[0].email, admin[1], key)
    write_private(path, json.dumps(asdict(demo), indent=1) + "\n")
    return demo


def offer(manifest: Manifest) -> Model:
    """The prepared model in the catalog, published and priced."""
    prepared = {
        "backend": manifest.backend,
        "folder": manifest.name,
        "version": manifest.version,
        "context": manifest.context,
    }
    about = _ABOUT.get(manifest.name, {"title": manifest.name})
    model, _ = Model.objects.update_or_create(
        name=manifest.name,
        defaults=prepared,
        create_defaults={**prepared, **about, "published": True},
    )
    PriceVersion.objects.get_or_create(
        model=manifest.name,
        currency=_CURRENCY,
        effective_from=_BEGINNING,
        defaults={"rates": _EMBEDDING_RATES if manifest.dimensions else _RATES},
    )
    return model


def _prepared() -> Iterator[Manifest]:
    """The language model, and the sentence encoder where there is one."""
    yield read_manifest(settings.MODELS_DIR / settings.DEFAULT_MODEL)
    with suppress(NotPrepared):
        yield read_manifest(settings.MODELS_DIR / settings.DEFAULT_EMBEDDING_MODEL)


def _offer_plans() -> None:
    """Four to choose from, where nobody has made any."""
    if PlanTerms.objects.exists():
        return
    for name, terms in _PLANS.items():
        plan, _ = Plan.objects.get_or_create(name=name)
        PlanTerms.objects.create(plan=plan, currency=_CURRENCY, effective_from=_BEGINNING, **terms)


def _user(email: str, password: str | None, *, operator: bool = False) -> tuple[User, str]:
    user = User.objects.filter(email=email).first()
    if user is not None and password and user.check_password(password):
        return user, password
    made = secrets.token_urlsafe(12)
    if user is None:
        create = User.objects.create_superuser if operator else User.objects.create_user
        return create(email, made), made
    user.set_password(made)
    user.save(update_fields=["password"])
    return user, made


def _key(organization: Organization, owner: User, text: str | None) -> str:
    if text:
        shown = keys.parse(text)
        row = ApiKey.objects.for_org(organization).filter(pk=shown.id, revoked_at=None).first()
        if row is not None and shown.is_of(row.secret_hash):
            return text
    _, made = keys.mint(organization=organization, name="quickstart", created_by=owner)
    return made


def _read(path: Path) -> Mapping[str, str]:
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return found if isinstance(found, dict) else {}
