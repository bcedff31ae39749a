"""The catalog's life: models added, published, retired, and the names that stand for them.

Every change is in the platform's audit log, and every process knows of it within 5 seconds.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from billing.models import PriceVersion
from inference.catalog import offers
from inference.catalog.models import Alias, AliasTarget, Model
from inference.engine import NotPrepared, read_manifest
from inference.engine.prepare.quality import MOST, read_quality
from kit.errors import Refused
from tenants import audit
from tenants.audit import Actor, Change
from tenants.models import Organization, Plan


class NoModel(Refused):
    """Nothing of that name in the catalog."""

    status, code = 404, "model_not_found"


class NotFit(Refused):
    """A model that cannot be added, or published, as it is."""

    status, code = 409, "model_not_fit"


class StillNamed(Refused):
    """A model that others stand on."""

    status, code = 409, "model_still_named"


def one(name: str) -> Model:
    """Raises `NoModel`."""
    found = Model.objects.filter(name=name).first()
    if found is None:
        raise NoModel(f"There is no model {name!r}; `manage.py models list` has those there are.")
    return found


def owner(slug: str) -> Organization:
    """Raises `NotFit`."""
    found = Organization.objects.filter(slug=slug, erased_at=None).first()
    if found is None:
        raise NotFit(f"There is no organization {slug!r}; the admin lists those there are.")
    return found


def add(
    name: str, *, fields: Mapping[str, Any], plans: list[str], now: datetime, by: Actor
) -> Model:
    """A model in the catalog, not published yet.

    Of one that lies in `fields["folder"]` below MODELS_DIR, backend, version and context are as its
    manifest says. Raises `NotFit`.
    """
    values = {"title": name, **fields}
    if folder := values.get("folder"):
        try:
            manifest = read_manifest(settings.MODELS_DIR / folder)
        except NotPrepared as error:
            raise NotFit(str(error)) from error
        known = {
            "backend": manifest.backend,
            "version": manifest.version,
            "context": manifest.context,
        }
        values = {**known, **values}
    with transaction.atomic():
        row = Model(name=name, **values)
        try:
            row.full_clean()
        except ValidationError as error:
            raise NotFit(_said(error)) from error
        row.save()
        row.plans.set(_plans(plans))
        known_as = {name: getattr(value, "slug", value) for name, value in values.items()}
        _record("model.added", row.name, {}, {**known_as, "plans": plans}, now, by)
    return row


def publish(name: str, *, force: bool, now: datetime, by: Actor) -> None:
    """Let requests name it. Again changes nothing.

    Raises `NotFit` where it is not prepared, nobody has priced it, or it lost too much in being
    made smaller; the last may be forced.
    """
    with transaction.atomic():
        row = one(name)
        if not row.is_prepared:
            raise NotFit(f"{name} is not prepared: `manage.py models prepare {name}` makes it.")
        if not PriceVersion.objects.filter(model=name).exists():
            raise NotFit(f"{name} has no price: set one in the admin, or with `models price`.")
        quality = read_quality(settings.MODELS_DIR / row.folder) if row.folder else None
        if quality and quality.rise > MOST and not force:
            raise NotFit(
                f"{name} lost {quality.rise:.1%} of perplexity, more than {MOST:.0%}; --force "
                "publishes it all the same."
            )
        _set(row, True, "model.published", now, by)


def retire(name: str, *, force: bool, now: datetime, by: Actor) -> None:
    """Take no new requests for it; what runs goes on. Again changes nothing.

    Raises `StillNamed` for the last published model of an alias, unless forced.
    """
    with transaction.atomic():
        row = one(name)
        for alias in Alias.objects.filter(targets__model=row):
            others = alias.targets.filter(model__published=True, weight__gt=0).exclude(model=row)
            if not others.exists() and not force:
                raise StillNamed(
                    f"{alias} stands for {name} alone: point it elsewhere first (`models alias "
                    f"{alias} OTHER`), or --force."
                )
        _set(row, False, "model.retired", now, by)


def stand_for(alias: str, weights: Mapping[str, int], *, now: datetime, by: Actor) -> None:
    """Let a name stand for these models by weight, instead of what it stood for; {}: for none.

    Raises `NoModel`, and `NotFit` for a name that is a model's, or no name.
    """
    with transaction.atomic():
        if Model.objects.filter(name=alias).exists():
            raise NotFit(f"{alias} is a model's name; an alias needs one of its own.")
        row, _ = Alias.objects.select_for_update().get_or_create(name=alias)
        before = {each.model.name: each.weight for each in row.targets.select_related("model")}
        row.targets.all().delete()
        targets = [
            AliasTarget(alias=row, model=one(name), weight=weight)
            for name, weight in weights.items()
        ]
        try:
            row.full_clean()
            for each in targets:
                each.full_clean(validate_unique=False)
        except ValidationError as error:
            raise NotFit(_said(error)) from error
        AliasTarget.objects.bulk_create(targets)
        if not weights:
            row.delete()
        _record("alias.changed", alias, before, weights, now, by)


def shadow(name: str, other: str, percent: float, *, now: datetime, by: Actor) -> None:
    """Have another model answer that share of its requests again, or none: `other` is "".

    Raises `NoModel`, and `NotFit` for one that cannot.
    """
    with transaction.atomic():
        row = Model.objects.select_for_update().filter(pk=one(name).pk).get()
        before = {"shadow": row.shadow and row.shadow.name, "shadow_percent": row.shadow_percent}
        row.shadow, row.shadow_percent = (one(other), percent) if other else (None, 0)
        if row.shadow is not None and not row.shadow.is_prepared:
            raise NotFit(f"{other} is not prepared: `manage.py models prepare {other}` makes it.")
        try:
            row.full_clean()
        except ValidationError as error:
            raise NotFit(_said(error)) from error
        row.save(update_fields=("shadow", "shadow_percent"))
        after = {"shadow": other or None, "shadow_percent": row.shadow_percent}
        _record("model.shadowed", name, before, after, now, by)


def _set(row: Model, published: bool, action: str, now: datetime, by: Actor) -> None:
    if Model.objects.filter(pk=row.pk, published=not published).update(published=published):
        _record(action, row.name, {"published": not published}, {"published": published}, now, by)


def _plans(names: list[str]) -> list[Plan]:
    found = {plan.name: plan for plan in Plan.objects.filter(name__in=names)}
    if missing := [name for name in names if name not in found]:
        raise NotFit(f"There is no plan {missing[0]!r}.")
    return list(found.values())


def _record(
    action: str,
    name: str,
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    now: datetime,
    by: Actor,
) -> None:
    change = Change(action, f"model:{name}", before, after)
    audit.record(change, by=by, organization=None, now=now)
    transaction.on_commit(offers.forget)


def _said(error: ValidationError) -> str:
    return "; ".join(
        f"{name}: {' '.join(said)}".removeprefix("__all__: ")
        for name, said in error.message_dict.items()
    )
