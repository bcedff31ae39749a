"""/o/<slug>/: an organization at a glance."""

from collections.abc import Mapping
from typing import Any, ClassVar

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from redis.exceptions import RedisError

from billing import credit, standing
from billing.models import READ, WRITTEN, Meter, tokens
from billing.months import month_of
from billing.usage import Summary, recent, summary
from inference.catalog.offers import published
from inference.fleet import fleet_now
from kit.money import show
from tenants import keyring, members
from tenants.roles import Action
from tenants.views.access import OrganizationPage

_RECENT = 8


class Overview(OrganizationPage):
    """What the month has come to, and what to do first."""

    actions: ClassVar[Mapping[str, Action]] = {"GET": Action.READ_USAGE}
    here = "overview"

    def get(self, request: HttpRequest) -> HttpResponse:
        """The running month's use by model, and its last requests."""
        organization, month = self.caller.organization, month_of(self.now)
        used = summary(organization, month)
        rows = recent(organization, month, most=_RECENT)
        context = {
            "month": month,
            "used": used,
            "input_tokens": sum(tokens(use.units, *READ) for use in used.parts),
            "output_tokens": sum(tokens(use.units, *WRITTEN) for use in used.parts),
            "models": _models(used),
            "dedicated": _dedicated(organization, used),
            "recent": [
                {
                    "row": row,
                    "tokens": sum(row.units.values()),
                    "amount": show(row.amount, used.currency),
                }
                for row in rows
            ],
            "standing": self._standing(),
            "has_key": bool(keyring.listed(organization, after=None, most=1)),
            "has_others": len(members.listed(organization)) > 1,
            "may_make_keys": self.caller.may(Action.MAKE_KEYS),
            "may_invite": self.caller.may(Action.INVITE),
            "base": request.build_absolute_uri("/").rstrip("/"),
            "model": settings.DEFAULT_MODEL,
        }
        return self.page("portal/overview.html", context)

    def _standing(self) -> Mapping[str, str] | None:
        try:
            found = standing.of(organization=self.caller.organization, now=self.now)
        except credit.NoAccount:
            return None
        return {
            "spent": show(found.spent, found.currency),
            "forecast": show(_cents(found.forecast), found.currency),
            "left": show(found.left, found.currency),
            "limit": show(found.limit, found.currency),
        }


def _dedicated(organization: int, used: Summary) -> list[Mapping[str, Any]]:
    """The models that are this organization's alone, and the time booked that devices were held."""
    seconds = {each.model: each.units.get(Meter.DEVICE_SECONDS.value, 0) for each in used.models}
    mine = sorted(name for name, each in published().items() if each.dedicated_to == organization)
    try:
        fleet = fleet_now(mine) if mine else None
    except RedisError:
        fleet = None
    return [
        {
            "name": name,
            "state": fleet.state(name) if fleet else "unknown",
            "workers": fleet.serving(name) if fleet else "",
            "held": _hours(seconds.get(name, 0)),
        }
        for name in mine
    ]


def _hours(seconds: int) -> str:
    """As hours, minutes and seconds: a month has more of them than a day."""
    minutes, seconds = divmod(seconds, 60)
    return f"{minutes // 60:,}:{minutes % 60:02}:{seconds:02}"


def _models(used: Summary) -> list[Mapping[str, Any]]:
    return [
        {
            "name": each.model,
            "requests": each.requests,
            "input_tokens": tokens(each.units, *READ),
            "output_tokens": tokens(each.units, *WRITTEN),
            "amount": show(each.amount, used.currency),
        }
        for each in used.models
    ]


def _cents(nanos: int) -> int:
    """A forecast is not exact to the nano."""
    return nanos - nanos % 10_000_000
