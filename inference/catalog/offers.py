"""What is on offer, as the request path reads it: from memory, never from the database."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from random import choices

from django.conf import settings

from inference.catalog.estimate import Estimate
from inference.catalog.models import Model
from inference.engine import Text, WordPieceText, load_text
from kit.errors import Invalid, Refused
from kit.snapshot import Snapshot
from tenants.auth import Caller


class UnknownModel(Refused):
    """No published model has this name, or the key may not use it."""

    status, code = 404, "model_not_found"


@dataclass(frozen=True, slots=True)
class Remote:
    """A server that speaks OpenAI's API: where it is, the model's name there, the environment
    variable that holds our key to it ("" for none), and whether we have the model's tokenizer."""

    url: str
    model: str
    secret: str
    counted: bool


@dataclass(frozen=True, slots=True)
class Offer:
    """A published model."""

    name: str
    title: str
    owner: str
    backend: str
    folder: Path
    version: str
    device: str
    queue: str
    context: int
    default_max_tokens: int
    default_temperature: float
    default_top_p: float
    created_at: datetime
    remote: Remote | None = None
    fallbacks: tuple[str, ...] = ()
    """Published models that serve its requests while it is not healthy, the first first."""
    adapter: Path | None = None
    """What it wears: a LoRA adapter's folder."""
    plans: frozenset[int] = frozenset()
    """Whose organizations may use it; none: everybody's."""
    aliases: tuple[tuple[str, int], ...] = ()
    """Names that stand for it, with its weight among those they stand for."""
    alias: str = ""
    """The name by which it was asked for, if that is not its own."""
    shadow: str = ""
    """What answers some of its requests again, for operators to compare."""
    shadow_percent: float = 0.0
    dedicated_to: int | None = None
    """Whose alone it is, of organizations; None: everybody's."""
    caching: bool = True
    """Whether its answers may be given again."""
    published: bool = True
    """Whether requests may name it; a draft runs only as a shadow."""

    @property
    def engine(self) -> str:
        """Offers of one engine run together: those that PyTorch runs from the same folder, but
        what is an organization's alone runs alone."""
        if self.backend != Model.Backend.TORCH:
            return self.name
        return f"{self.dedicated_to}:{self.folder}" if self.dedicated_to else str(self.folder)

    @property
    def is_encoder(self) -> bool:
        """Whether it makes vectors, not answers."""
        return self.backend == Model.Backend.ENCODER

    @property
    def reader(self) -> WordPieceText:
        """A sentence encoder's tokenizer, read from disk once a process."""
        return _reader(self.folder, self.version)

    @property
    def text(self) -> Text:
        """Its tokenizer and chat template, read from disk once a process; an estimate of them for
        a remote model whose tokenizer is not here."""
        if self.remote is not None and not self.remote.counted:
            return Estimate(self.context)
        return _text(self.folder, self.version)


@dataclass(frozen=True, slots=True)
class _Catalog:
    """The published models by name, and drafts that run as shadows of some."""

    published: Mapping[str, Offer]
    drafts: Mapping[str, Offer]


async def offer(name: str | None, *, caller: Caller | None) -> Offer:
    """The model called `name` (the default one if None), as `caller` may use it (None: anybody);
    of those that an alias stands for one, drawn by weight. Raises `UnknownModel`."""
    seen = await named(settings.DEFAULT_MODEL if name is None else name, caller=caller)
    return choices(list(seen), list(seen.values()))[0]  # noqa: S311  a draw, no secret


async def named(name: str, *, caller: Caller | None) -> Mapping[Offer, int]:
    """The model called so, or those that an alias stands for, with their weights, as far as the
    caller may use them. Raises `UnknownModel`."""
    found = (await _catalog.aget()).published
    own = found.get(name)
    some = [(own, 1)] if own is not None else _behind(name, found.values())
    seen = {each: weight for each, weight in some if _sees(caller, each)}
    if not seen:
        raise UnknownModel(
            f"The model {name[:80]!r} does not exist or this key may not use it; "
            "GET /v1/models lists those it may.",
            param="model",
        )
    return seen


async def encoder(name: str | None, *, caller: Caller) -> Offer:
    """The sentence encoder called `name` (the default one if None); see `offer`.

    Raises `UnknownModel`, and `Invalid` for a model of language.
    """
    found = await offer(name or settings.DEFAULT_EMBEDDING_MODEL, caller=caller)
    if not found.is_encoder:
        raise Invalid(f"model: {found.name} answers, it makes no embeddings.", param="model")
    return found


async def offers(*, caller: Caller | None) -> list[Offer]:
    """Every published model that `caller` may use by its name; all of them if None."""
    found = (await _catalog.aget()).published
    return [each for each in found.values() if _sees(caller, each)]


async def aliases(*, caller: Caller) -> dict[str, list[Offer]]:
    """The names that stand for models which `caller` may use by them, and those."""
    found: dict[str, list[Offer]] = {}
    for each in (await _catalog.aget()).published.values():
        for name, weight in each.aliases:
            if weight and _sees(caller, named := replace(each, alias=name)):
                found.setdefault(name, []).append(named)
    return found


def _behind(alias: str, known: Iterable[Offer]) -> list[tuple[Offer, int]]:
    """What an alias stands for, with its weights."""
    return [
        (replace(each, alias=alias), weight)
        for each in known
        for name, weight in each.aliases
        if name == alias and weight
    ]


def published() -> Mapping[str, Offer]:
    """Every published model by name, for threads."""
    return _catalog.get().published


def run_here() -> Mapping[str, Offer]:
    """What workers load: every published model, and drafts that run as their shadows."""
    found = _catalog.get()
    return {**found.published, **found.drafts}


def held_offers() -> Mapping[str, Offer]:
    """`published` as this process has read it last, for who must not wait for the database; none
    if it never has."""
    return _catalog.held.published if _catalog.held else {}


def forget() -> None:
    """Read the catalog anew at the next request of this process."""
    _catalog.forget()


def _sees(caller: Caller | None, model: Offer) -> bool:
    """Whether the caller's key and plan have it, by its name or the alias it was asked for by."""
    if caller is None:
        return True
    if model.dedicated_to not in (None, caller.organization):
        return False
    named = not caller.models or not caller.models.isdisjoint((model.name, model.alias))
    return named and (not model.plans or caller.plan in model.plans)


def _load() -> _Catalog:
    wanted = Model.objects.select_related("shadow").prefetch_related("plans", "aliases__alias")
    rows = {row.pk: row for row in wanted}
    shown = sorted((row for row in rows.values() if row.published), key=lambda row: row.name)
    behind = {row.shadow for row in shown if row.shadow is not None and row.shadow_percent}
    drafts = sorted((row for row in behind if not row.published), key=lambda row: row.name)
    return _Catalog(
        published={row.name: _offer(row, rows) for row in shown},
        drafts={row.name: _offer(row, rows) for row in drafts},
    )


def _offer(row: Model, rows: Mapping[int, Model]) -> Offer:
    return Offer(
        name=row.name,
        title=row.title,
        owner=row.owner,
        backend=row.backend,
        folder=settings.MODELS_DIR / row.folder,
        version=row.version,
        device=row.device,
        queue=row.queue,
        context=row.context,
        default_max_tokens=row.default_max_tokens,
        default_temperature=row.default_temperature,
        default_top_p=row.default_top_p,
        created_at=row.created_at,
        remote=_remote(row),
        fallbacks=tuple(_fallbacks(row, rows)),
        adapter=settings.MODELS_DIR / row.adapter if row.adapter else None,
        plans=frozenset(plan.pk for plan in row.plans.all()),
        dedicated_to=row.dedicated_to_id,
        aliases=tuple((each.alias.name, each.weight) for each in row.aliases.all()),
        shadow=row.shadow.name if row.shadow is not None and row.shadow_percent else "",
        shadow_percent=row.shadow_percent,
        caching=row.caching,
        published=row.published,
    )


def _fallbacks(row: Model, rows: Mapping[int, Model]) -> Iterator[str]:
    """The published ones of its chain; a circle is walked once."""
    seen = {row.pk}
    while row.fallback_id is not None and row.fallback_id not in seen:
        row = rows[row.fallback_id]
        seen.add(row.pk)
        if row.published:
            yield row.name


def _remote(row: Model) -> Remote | None:
    if row.backend != Model.Backend.REMOTE:
        return None
    return Remote(
        url=row.remote_url.rstrip("/"),
        model=row.remote_model,
        secret=row.remote_secret,
        counted=bool(row.folder),
    )


@lru_cache(maxsize=32)
def _text(folder: Path, version: str) -> Text:
    return load_text(folder)


@lru_cache(maxsize=8)
def _reader(folder: Path, version: str) -> WordPieceText:
    return WordPieceText(folder)


_catalog: Snapshot[_Catalog] = Snapshot(_load, seconds=5)
