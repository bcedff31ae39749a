"""The models on offer."""

from django.conf import settings
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models


class Model(models.Model):
    """A language model that organizations may name in a request."""

    class Backend(models.TextChoices):
        """What runs it."""

        ONNX = "onnx", "ONNX Runtime"
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
    folder = models.CharField(max_length=200, help_text="Below MODELS_DIR; see prepare_model.")
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
    published = models.BooleanField(default=False)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ("name",)
        verbose_name = "model"

    def __str__(self) -> str:
        return self.name

    @property
    def queue(self) -> str:
        """The Celery queue on which work for this model is announced."""
        return f"{settings.REGION}.{self.device}.{self.name}"
