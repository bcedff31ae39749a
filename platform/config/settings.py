"""Every setting of the platform, in one file.

Values come from the environment and, failing that, from `var/stack.env`, which `make run` writes:
so that any `manage.py` command reaches the running stack without further settings.
"""

import os
from base64 import b64encode
from datetime import timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

from config.presentation import SPECTACULAR_SETTINGS, STATIC_URL, UNFOLD
from kit.postgres import Connection
from kit.statements import as_lent
from kit.transit import verifying

__all__ = ["SPECTACULAR_SETTINGS", "STATIC_URL", "UNFOLD"]
"""How things look stands in `config.presentation`."""

BASE_DIR = Path(__file__).resolve().parents[2]
VAR_DIR = Path(os.environ.get("VAR_DIR", BASE_DIR / "var"))


def _stack_env() -> dict[str, str]:
    path = VAR_DIR / "stack.env"
    if not path.is_file():
        return {}
    lines = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, value in lines}


_STACK = _stack_env()


def _env(name: str, default: str = "") -> str:
    return os.environ.get(name) or _STACK.get(name) or default


def _flag(name: str, default: bool = False) -> bool:
    return _env(name, "1" if default else "0").lower() in {"1", "true", "yes", "on"}


def _database(url: str) -> dict[str, Any]:
    parts = urlsplit(url)
    query = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "kit.database",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": query.pop("host", "") or unquote(parts.hostname or ""),
        "PORT": str(parts.port or query.pop("port", "")),
        "OPTIONS": {
            # Compiling a sum over many meters takes longer than the sum: half a second. What nobody
            # waits for any more is not computed to its end.
            "options": "-c jit=off -c client_connection_check_interval=10000",
            # A machine that left the network. One that hangs: see `kit.postgres`.
            "connect_timeout": 5,
            "keepalives_idle": 30,
            "tcp_user_timeout": 20_000,
            # Of `kit.prepared`; where a proxy keeps no prepared statements: `?prepare_threshold=0`.
            "prepare_threshold": int(query.pop("prepare_threshold", "5")) or None,
            **query,
            "pool": _pool(int(_env("DATABASE_POOL", "8"))),
        },
    }


def _pool(size: int) -> dict[str, Any] | bool:
    if not size:
        return False
    each = {"connection_class": Connection, "reset": as_lent}
    return {"min_size": 0, "max_size": size, "timeout": 10, **each}


def _mail(url: str) -> dict[str, Any]:
    """Where mail goes: `smtp://user:password@host:587?tls=1`, `file:///folder` or `console:`."""
    parts = urlsplit(url)
    if parts.scheme in {"smtp", "smtps"}:
        return {
            "EMAIL_BACKEND": "django.core.mail.backends.smtp.EmailBackend",
            "EMAIL_HOST": parts.hostname or "localhost",
            "EMAIL_PORT": parts.port or (465 if parts.scheme == "smtps" else 25),
            "EMAIL_HOST_USER": unquote(parts.username or ""),
            "EMAIL_HOST_PASSWORD": unquote(parts.password or ""),
            "EMAIL_USE_SSL": parts.scheme == "smtps",
            "EMAIL_USE_TLS": dict(parse_qsl(parts.query)).get("tls") == "1",
            "EMAIL_TIMEOUT": 10,
        }
    kind = {"file": "filebased", "console": "console", "memory": "locmem"}[parts.scheme]
    backend = f"django.core.mail.backends.{kind}.EmailBackend"
    return {"EMAIL_BACKEND": backend, "EMAIL_FILE_PATH": unquote(parts.path)}


def _social(name: str) -> dict[str, str]:
    """A service by whose accounts people may log in; see `tenants.accounts.services`."""
    known = {"google": ("Google", "https://accounts.google.com"), "github": ("GitHub", "")}
    shown, issuer = known.get(name, (name.title(), ""))
    prefix = f"SOCIAL_{name.upper()}"
    return {
        "id": name,
        "name": _env(f"{prefix}_NAME", shown),
        "issuer": _env(f"{prefix}_ISSUER", issuer).rstrip("/"),
        "client_id": _env(f"{prefix}_CLIENT_ID"),
        "client_secret": _env(f"{prefix}_CLIENT_SECRET"),
    }


def _redis_database(url: str, number: int) -> str:
    return urlunsplit(urlsplit(url)._replace(path=f"/{number}"))


# Security

DEBUG = _flag("DEBUG")
PRODUCTION = _flag("PRODUCTION")
SECRET_KEY = _env("SECRET_KEY", "" if PRODUCTION else "development-only-and-never-in-production")
KEY_PEPPER = _env("KEY_PEPPER", SECRET_KEY)
"""Keys the hash under which API keys are stored; changing it voids every key."""
KEY_ENCRYPTION = _env("KEY_ENCRYPTION", "env")
"""Who has the key-encryption key, newest first: see `kit.keepers`."""
_DEVELOPMENT = b64encode(sha256(f"key encryption:{SECRET_KEY}".encode()).digest()).decode()
KEY_ENCRYPTION_KEYS = _env("KEY_ENCRYPTION_KEYS", "" if PRODUCTION else f"1:{_DEVELOPMENT}")
ALLOWED_HOSTS = _env("ALLOWED_HOSTS", "*" if not PRODUCTION else "").split(",")
CSRF_TRUSTED_ORIGINS = [origin for origin in _env("CSRF_TRUSTED_ORIGINS").split(",") if origin]
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = PRODUCTION
SECURE_HSTS_SECONDS = 31_536_000 if PRODUCTION else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = PRODUCTION
X_FRAME_OPTIONS = "DENY"
TRUSTED_PROXIES = [cidr.strip() for cidr in _env("TRUSTED_PROXIES").split(",") if cidr.strip()]
"""Addresses or CIDR blocks whose X-Forwarded-For and X-Forwarded-Proto are believed; none: the peer
is the client, and whether it speaks TLS is what it does."""
OUTBOUND_NETWORKS = [
    cidr.strip()
    for cidr in _env("OUTBOUND_NETWORKS", "" if PRODUCTION else "127.0.0.0/8,::1").split(",")
    if cidr.strip()
]
"""Addresses and CIDR blocks that may be called though they are not public; see kit.outbound."""
CONNECTIONS_PER_ADDRESS = int(_env("CONNECTIONS_PER_ADDRESS", "2000"))
CONNECTIONS_PER_KEY = int(_env("CONNECTIONS_PER_KEY", "2000"))
"""Open at once in one web process, requests and sockets."""
MANAGEMENT_PER_MINUTE = int(_env("MANAGEMENT_PER_MINUTE", "3000"))
MANAGEMENT_AT_ONCE = int(_env("MANAGEMENT_AT_ONCE", "32"))
"""What an organization may ask besides requests to models, over all processes; 0: no limit."""
MANAGEMENT_SECONDS = int(_env("MANAGEMENT_SECONDS", "20"))
"""How long the database works at one statement of these."""
AUDIT_ANCHORS = Path(_env("AUDIT_ANCHORS", str(VAR_DIR / "audit" / "anchors.jsonl")))
"""Where the heads of the audit log are written down daily: one file, which all replicas mount; best
where the database's host cannot write."""
EXPORTS_DIR = Path(_env("EXPORTS_DIR", str(VAR_DIR / "exports")))
"""Where exports lie, sealed; web processes and workers must both reach it."""
BODY_LIMIT = 2 * 1024 * 1024
"""The largest request body the API reads, in bytes."""
FILE_LIMIT = 16 * 1024 * 1024
"""The same for uploads of files."""
DATA_UPLOAD_MAX_MEMORY_SIZE = FILE_UPLOAD_MAX_MEMORY_SIZE = FILE_LIMIT
SIMPLE_JWT = {
    "ACCESS_TOKEN_LIFETIME": timedelta(minutes=10),
    "REFRESH_TOKEN_LIFETIME": timedelta(days=14),
    "SIGNING_KEY": sha256(f"tokens:{SECRET_KEY}".encode()).hexdigest(),
    "USER_ID_CLAIM": "sub",
    "CHECK_REVOKE_TOKEN": False,
    "UPDATE_LAST_LOGIN": False,
}
"""Changing SECRET_KEY logs everyone out."""
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in (
        "UserAttributeSimilarityValidator",
        "MinimumLengthValidator",
        "CommonPasswordValidator",
        "NumericPasswordValidator",
    )
]

AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]

# Accounts of people

LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/o/"
LOGOUT_REDIRECT_URL = "/"
REGISTRATION_OPEN = _flag("REGISTRATION_OPEN", True)
"""Whether anyone may register; if not, those who are invited."""
ORGANIZATIONS_EACH = int(_env("ORGANIZATIONS_EACH", "5"))
"""The most that one person may own."""
NEW_CUSTOMER_CREDIT = _env("NEW_CUSTOMER_CREDIT", "5")
NEW_CUSTOMER_CURRENCY = _env("NEW_CUSTOMER_CURRENCY", "EUR")
"""What an organization that is made in the portal may owe."""
INVITATION_DAYS = int(_env("INVITATION_DAYS", "7"))
DELETION_GRACE_DAYS = int(_env("DELETION_GRACE_DAYS", "30"))
"""How long a deleted organization can be restored; then its data goes for good."""
ACCOUNT_ADAPTER = "tenants.accounts.adapter.AccountAdapter"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_EMAIL_NOTIFICATIONS = True
ACCOUNT_MAX_EMAIL_ADDRESSES = 10
ACCOUNT_PREVENT_ENUMERATION = True
ACCOUNT_CONFIRM_EMAIL_ON_GET = False
ACCOUNT_DEFAULT_HTTP_PROTOCOL = "https" if PRODUCTION else "http"
SOCIAL_LOGINS = [_social(name) for name in _env("SOCIAL_LOGINS").replace(",", " ").split()]
"""Services by whose accounts people may log in: `google github`, or any OpenID provider by name."""
SOCIALACCOUNT_ADAPTER = "tenants.accounts.social.SocialAdapter"
SOCIALACCOUNT_PROVIDERS = {
    "openid_connect": {"provider_class": "tenants.accounts.social.OpenIDProvider"}
}
SOCIALACCOUNT_LOGIN_ON_GET = True
SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_STORE_TOKENS = False
MFA_ADAPTER = "tenants.accounts.factors.FactorAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_FORMS = {"add_webauthn": "tenants.accounts.passkeys.NewPasskey"}
MFA_TOTP_ISSUER = "AI Inference Platform"
MFA_TOTP_TOLERANCE = 1  # The step before and after (RFC 6238 §5.2): codes are typed, clocks differ.
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = not PRODUCTION

# Mail

vars().update(_mail(_env("EMAIL_URL", f"file://{VAR_DIR / 'mail'}")))
DEFAULT_FROM_EMAIL = SERVER_EMAIL = _env("EMAIL_FROM", "platform@localhost")

SILENCED_SYSTEM_CHECKS = ["security.W001", "security.W002", "security.W003"]
"""They look for Django's own middleware; `config.portal` has subclasses of it."""

# Data

DATABASES = {
    "default": _database(_env("DATABASE_URL", "postgresql://postgres@127.0.0.1:5432/platform"))
}
ORIGINAL_BACKEND = "django_prometheus.db.backends.postgresql"
DATABASE_ROUTERS = ("django_tenants.routers.TenantSyncRouter",)
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

REDIS_URL = verifying(_env("REDIS_URL", "redis://127.0.0.1:6379/0"))
"""State: append-only file on, `noeviction`."""
CACHE_URL = verifying(_env("CACHE_URL", _redis_database(REDIS_URL, 1)))
ANSWERS_MEMORY = int(_env("ANSWERS_MEMORY", "64")) * 1024 * 1024
"""Of answers that are given again an organization has so much at CACHE_URL."""
BROKER_URL = verifying(_env("BROKER_URL", REDIS_URL))
CACHES = {
    "default": {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": CACHE_URL},
}

# Tenancy: an organization is a schema

TENANT_MODEL = "tenants.Organization"
TENANT_DOMAIN_MODEL = "tenants.Domain"
PUBLIC_SCHEMA_NAME = "public"
SHARED_APPS = [
    "django_tenants",
    "tenants",
    "tenants.webhooks",
    "billing",
    "inference.catalog",
    "inference.batches",
    "inference.letters",
    "config.apps.PlatformConfig",
    "unfold",
    "unfold.contrib.filters",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.humanize",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "django_celery_results",
    "django_prometheus",
    "channels",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "allauth",
    "config.apps.AccountsConfig",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.github",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.socialaccount.providers.saml",
    "analytics",
]
TENANT_APPS = ["inference", "analytics.rollups"]
INSTALLED_APPS = [*SHARED_APPS, *(app for app in TENANT_APPS if app not in SHARED_APPS)]
AUTH_USER_MODEL = "tenants.User"

# Web

ROOT_URLCONF = "config.urls"
ASGI_APPLICATION = "config.asgi.application"
MIDDLEWARE = [
    "config.middleware.Observed",
    "config.versions.Versioned",
    "config.portal.PagePolicy",
    "config.portal.Security",
    "config.portal.WhiteNoise",
    "config.portal.Session",
    "config.portal.Csrf",
    "config.portal.Authentication",
    "config.portal.Messages",
    "config.portal.Accounts",
]
API_PATHS = ("/v1/", "/api/", "/health", "/metrics")
"""Where the portal's middleware (sessions, CSRF, messages) does not run."""
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_ROOT = VAR_DIR / "static"
STATICFILES_DIRS = [BASE_DIR / "static"]
LANGUAGE_CODE = "en-us"
FORMAT_MODULE_PATH = "config.formats"
TIME_ZONE = "UTC"
USE_TZ = True

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PERMISSION_CLASSES": [],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "UNAUTHENTICATED_USER": None,
}
# Work

REGION = _env("REGION", "local")
DEVICE = _env("DEVICE", "cpu")
MODELS_DIR = Path(_env("MODELS_DIR", str(VAR_DIR / "models")))
DEFAULT_MODEL = _env("DEFAULT_MODEL", "smollm2-135m-instruct")
DEFAULT_EMBEDDING_MODEL = _env("DEFAULT_EMBEDDING_MODEL", "all-minilm-l6-v2")
ENGINE_SLOTS = int(_env("ENGINE_SLOTS", "32"))
ENGINE_CACHE_TOKENS = int(_env("ENGINE_CACHE_TOKENS", "0"))
ENGINE_MEMORY = int(_env("ENGINE_MEMORY", "0")) * 1024 * 1024
"""MiB of models' files that a worker has loaded at once; 0 is no bound."""
REMOTE_STREAMS = int(_env("REMOTE_STREAMS", "2000"))
"""Answers of one remote model that a worker carries at once."""
QUEUE_SECONDS = int(_env("QUEUE_SECONDS", "10"))
"""How long a request may be expected to wait for a worker; past that, new ones are refused."""
UNSERVED_SECONDS = int(_env("UNSERVED_SECONDS", "120"))
"""How long a request waits for a model that no worker serves; 30 times as long if unread."""
BOOKS_BEHIND_SECONDS = int(_env("BOOKS_BEHIND_SECONDS", "300"))
"""How long requests are admitted while what was delivered can't be booked: PostgreSQL is away."""
SILENT_SECONDS = float(_env("SILENT_SECONDS", "300"))
"""How long an answer may give nothing, waiting in line included, before its reader is told so."""
DRAIN_SECONDS = float(_env("DRAIN_SECONDS", "20"))
METRICS_DIR = Path(_env("PROMETHEUS_MULTIPROC_DIR", str(VAR_DIR / "run" / "metrics")))

# Invoices

SELLER = {
    "name": _env("SELLER_NAME", "AI Inference Platform"),
    "address": _env("SELLER_ADDRESS").replace("\\n", "\n"),
    "country": _env("SELLER_COUNTRY"),
    "vat_id": _env("SELLER_VAT_ID"),
    "bank": _env("SELLER_BANK").replace("\\n", "\n"),
}
"""Who invoices are from; frozen on each. Without a country nothing is taxed."""
INVOICE_DUE_DAYS = int(_env("INVOICE_DUE_DAYS", "14"))
DUNNING_DAYS = [int(days) for days in _env("DUNNING_DAYS", "1,3,5,7").split(",")]
"""How many days after an attempt, or a reminder, the next one comes."""
DUNNING_GRACE_DAYS = int(_env("DUNNING_GRACE_DAYS", "7"))
"""How long after the last of them an organization is suspended."""
LOST_DISPUTE_SUSPENDS = _flag("LOST_DISPUTE_SUSPENDS", True)
"""Whether a payment that a bank takes back for good suspends its organization, or is only told."""
STRIPE_KEY = _env("STRIPE_KEY")
"""A secret key; without one invoices are paid by transfer and marked as paid by hand."""
STRIPE_WEBHOOK_SECRET = _env("STRIPE_WEBHOOK_SECRET")
STRIPE_API_BASE = _env("STRIPE_API_BASE")
"""Where Stripe is; empty: at Stripe's."""

# Logs: JSON in production, readable in development

LOG_JSON = _flag("LOG_JSON", PRODUCTION)
LOG_LEVEL = _env("LOG_LEVEL", "INFO")
REQUEST_LOG = _env("REQUEST_LOG", "off")
"""What workers log of each request: off, figures, or texts (redacted); see `inference.journal`."""
if REQUEST_LOG not in {"off", "figures", "texts"}:
    raise ValueError(f"REQUEST_LOG must be off, figures or texts, not {REQUEST_LOG!r}")
LOGGING_CONFIG = "kit.logs.configure"
LOGGING: dict[str, Any] = {"json": LOG_JSON, "level": LOG_LEVEL}
