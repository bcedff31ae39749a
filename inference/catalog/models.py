"""The models on offer."""

from urllib.parse import urlsplit

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models

from billing.metering import STORAGE
from inference.engine import same_tokens
from tenants.models import Organization, Plan

_A_BASE_URL = "http:// or https://, a host and a path; no user, query or fragment."


class Model(models.Model):
    """A model that organizations may name in a request: of language, or a sentence encoder."""

    class Backend(models.TextChoices):
        """What runs it."""

        NATIVE = "native", "Own kernels (CPU)"
        ONNX = "onnx", "ONNX Runtime"
        TORCH = "torch", "PyTorch"
        REMOTE = "remote", "A server that speaks OpenAI's API"
        ENCODER = "encoder", "ONNX Runtime, a sentence encoder (embeddings)"
        ECHO = "echo", "Echo (repeats the prompt; for measuring)"

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"^[a-z0-9][a-z0-9._-]*$", "Lower case, digits, . _ -")],
        help_text="What a request's “model” says.",
    )
    title = models.CharField(max_length=120)
    owner = models.CharField(max_length=64, default="platform", help_text="Who made the model.")
    backend = models.CharField(max_length=16, choices=Backend)
    folder = models.CharField(
        max_length=200,
        blank=True,
        help_text="Below MODELS_DIR; see prepare_model. A remote model's may name one whose "
        "tokenizer is the same: its tokens are then counted here, not estimated.",
    )
    adapter = models.CharField(
        max_length=200,
        blank=True,
        help_text="A LoRA adapter's folder below MODELS_DIR, as peft saves it, worn by the PyTorch "
        "model in the folder above. Models of one folder run together.",
    )
    remote_url = models.CharField(
        "base URL",
        max_length=300,
        blank=True,
        help_text="Of the remote server, to its /v1: https://host/v1. Nothing else is ever called.",
    )
    remote_model = models.CharField(
        "model there", max_length=200, blank=True, help_text="Its name on the remote server."
    )
    remote_secret = models.CharField(
        "secret's variable",
        max_length=64,
        blank=True,
        validators=[RegexValidator(r"^REMOTE_[A-Z0-9_]+$", "REMOTE_ and upper case")],
        help_text="The environment variable of the workers that holds the remote server's key, "
        "REMOTE_…; the key itself is never stored here.",
    )
    version = models.CharField(max_length=64)
    device = models.CharField(max_length=16, default="cpu")
    context = models.PositiveIntegerField(
        validators=[MinValueValidator(16)], help_text="Tokens of prompt and answer together."
    )
    default_max_tokens = models.PositiveIntegerField(default=512, validators=[MinValueValidator(1)])
    default_temperature = models.FloatField(
        default=1.0, validators=[MinValueValidator(0), MaxValueValidator(2)]
    )
    default_top_p = models.FloatField(
        default=1.0, validators=[MinValueValidator(0.01), MaxValueValidator(1)]
    )
    fallback = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="+",
        verbose_name="fall-back",
        help_text="Serves the requests of this one while no worker has it in health, at its own "
        "price. Its own fall-back comes next.",
    )
    shadow = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.SET_NULL,
        related_name="shadowed",
        help_text="Answers a part of this one's requests again, in idle moments, for nobody but "
        "operators to compare. It must read the same tokens; it need not be published.",
    )
    shadow_percent = models.FloatField(
        "percent of requests",
        default=0,
        db_default=0,
        validators=[MinValueValidator(0), MaxValueValidator(100)],
        help_text="How many of them are answered again; never those of organizations that keep "
        "nothing.",
    )
    plans = models.ManyToManyField(
        Plan,
        blank=True,
        related_name="+",
        help_text="Whose organizations may use it; none: everybody's.",
    )
    dedicated_to = models.ForeignKey(
        Organization,
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="+",
        help_text="Whose alone it is. Only workers that name it in WORKER_MODELS run it, and the "
        "time for which they do is metered as device_seconds, whether it answers or not.",
    )
    caching = models.BooleanField(
        "answers may be cached",
        default=True,
        db_default=True,
        help_text="Off: whatever requests, organizations and plans say, each is answered anew.",
    )
    published = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)
        verbose_name = "model"
        constraints = (
            models.CheckConstraint(
                name="catalog_model_remote_or_folder",
                condition=models.Q(backend="remote")
                & ~models.Q(remote_url="")
                & ~models.Q(remote_model="")
                | ~models.Q(backend="remote") & ~models.Q(folder="") & models.Q(remote_url=""),
                violation_error_message="A remote model needs its base URL and its name there; "
                "any other a folder, and no base URL.",
            ),
        )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raise ValidationError, by field, for what does not go together."""
        problems = {
            "name": self.name == STORAGE and "That is what price lists call stored files.",
            "remote_url": self.remote_url and not is_base_url(self.remote_url) and _A_BASE_URL,
            "adapter": self.adapter
            and self.backend != self.Backend.TORCH
            and "Only PyTorch runs adapters.",
            "dedicated_to": self._dedication_problem(),
            "fallback": self._fallback_problem(),
            "shadow": self._shadow_problem(),
        }
        if found := {field: problem for field, problem in problems.items() if problem}:
            raise ValidationError(found)

    def _fallback_problem(self) -> str:
        """Why nothing can stand in for it like that; "" where it can."""
        if self.fallback is None:
            return ""
        if self.Backend.ENCODER in (self.backend, self.fallback.backend):
            return "No other model's vectors stand in for these."
        names = [self.name]
        model: Model | None = self.fallback
        while model is not None:
            if model.name in names:
                return f"The fall-backs form a circle: {' → '.join([*names, model.name])}."
            names.append(model.name)
            model = model.fallback
        return ""

    def _dedication_problem(self) -> str:
        """Why it cannot be that organization's alone; "" where it can."""
        owner = self.dedicated_to
        if owner is not None and self.backend == self.Backend.REMOTE:
            return "A remote model holds no device here."
        if owner is not None and owner.erased_at is not None:
            return f"{owner} was deleted."
        for other in (self.fallback, self.shadow):
            if other is not None and other.dedicated_to not in (None, owner):
                return f"{other} belongs to {other.dedicated_to}: it serves nobody else."
        if owner is not None and self.pk:
            leaning = Model.objects.filter(models.Q(fallback=self) | models.Q(shadow=self))
            if other := leaning.exclude(dedicated_to=owner).first():
                return f"{other} falls back on it, or has it for a shadow, and is not {owner}'s."
        return ""

    def _shadow_problem(self) -> str:
        """Why its shadow cannot be that; "" where it can."""
        if self.shadow is None:
            return ""
        if self.shadow == self or self.shadow.name == self.name:
            return "A model is no shadow of itself."
        apart = {self.Backend.REMOTE, self.Backend.ENCODER}
        if apart & {self.backend, self.shadow.backend}:
            return "Both must be models of language that run here: requests are shown to nobody."
        mine, others = (settings.MODELS_DIR / each.folder for each in (self, self.shadow))
        if not same_tokens(mine, others):
            return "It reads other tokens: another tokenizer, or another chat template."
        return ""

    @property
    def is_prepared(self) -> bool:
        """Whether workers find what they need of it in MODELS_DIR."""
        if self.backend == self.Backend.REMOTE and not self.folder:
            return True
        return (settings.MODELS_DIR / self.folder / "manifest.json").is_file()

    @property
    def queue(self) -> str:
        """The Celery queue on which work for this model is announced."""
        return f"{settings.REGION}.{self.device}.{self.name}"


class Alias(models.Model):
    """Another name that requests may say: it stands for a model, or for several by weight."""

    name = models.CharField(
        max_length=64,
        unique=True,
        validators=[RegexValidator(r"^[a-z0-9][a-z0-9._-]*$", "Lower case, digits, . _ -")],
        help_text="What a request's “model” says; a model of the same name goes before.",
    )

    class Meta:
        ordering = ("name",)
        verbose_name_plural = "aliases"

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        """Raise ValidationError for a model's name: it would never stand for anything else."""
        if Model.objects.filter(name=self.name).exists():
            raise ValidationError({"name": "That is a model's name; an alias needs its own."})


class AliasTarget(models.Model):
    """A model that an alias stands for, for `weight` of all its targets' weights of requests."""

    alias = models.ForeignKey(Alias, on_delete=models.CASCADE, related_name="targets")
    model = models.ForeignKey(Model, on_delete=models.CASCADE, related_name="aliases")
    weight = models.PositiveIntegerField(default=1, validators=[MaxValueValidator(1_000_000)])

    class Meta:
        ordering = ("alias", "model")
        constraints = (
            models.UniqueConstraint(fields=("alias", "model"), name="one_target_a_model"),
        )

    def __str__(self) -> str:
        return f"{self.alias} → {self.model} ({self.weight})"


class ShadowRun(models.Model):
    """A request that a shadow answered again: figures of both answers, nothing of what they say,
    nor whose they are."""

    class State(models.TextChoices):
        """How it came out."""

        ANSWERED = "answered"
        FAILED = "failed"
        GAVE_WAY = "gave way"

    model = models.CharField(max_length=64)
    model_version = models.CharField(max_length=64)
    shadow = models.CharField(max_length=64)
    shadow_version = models.CharField(max_length=64)
    state = models.CharField(max_length=8, choices=State)
    ran_at = models.DateTimeField(db_index=True)
    prompt_tokens = models.PositiveIntegerField()
    tokens = models.PositiveIntegerField()
    first_ms = models.FloatField()
    total_ms = models.FloatField()
    shadow_tokens = models.PositiveIntegerField(default=0)
    shadow_first_ms = models.FloatField(default=0)
    shadow_total_ms = models.FloatField(default=0)
    same_tokens = models.PositiveIntegerField(
        default=0, help_text="With how many equal tokens both answers begin."
    )
    likeness = models.FloatField(
        default=0, help_text="The share of tokens that both have, wherever they stand (Dice)."
    )

    class Meta:
        ordering = ("-id",)

    def __str__(self) -> str:
        return f"{self.model} · {self.shadow} · {self.ran_at:%Y-%m-%d %H:%M}"


def is_base_url(url: str) -> bool:
    """Whether a remote server can be called by it: nothing is hidden in it, nothing follows it."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    return parts.scheme in {"http", "https"} and bool(parts.hostname) and port != 0 and plain
