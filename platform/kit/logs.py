"""Structured logs: one line an event, with the request id bound where there is a request.

Whatever looks like a secret of ours is masked in the finished line, tracebacks included.
"""

import logging
import logging.config
import re
from typing import Any

import orjson
import structlog

_SHARED: list[structlog.types.Processor] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
]

_SECRET = re.compile(
    r"(aip_(?:live|test)_[0-9A-Za-z]{12}_)[0-9A-Za-z]+"
    r"|(eyJ)[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}"
    r"|(\b[a-z+]+://[^\s:/@]*:)[^\s/@]+(?=@)"
    r"|(\b(?:[sr]k_(?:live|test)_|whsec_|sk-|hv[sb]\.))[\w-]{12,}"
    r"|((?:invitations|reset/key|reset%2Fkey|confirm-email)(?:/|%2F))[^/\s\"'&?#\\]{16,}"
)
"""API keys but for their public id, signed tokens, passwords in addresses, the keys of those we
call (Stripe's and its webhooks', OpenAI's kind, Vault's tokens), and what links in mails end with:
an invitation, a new password, a confirmed address. (They stand in addresses of pages that follow
too, escaped.)"""
_MARKS = (
    *("aip_", "eyJ", "://", "k_live_", "k_test_", "whsec_", "sk-", "hvs.", "hvb."),
    *("invitations", "reset", "confirm-email"),
)
"""A line without any of these needs no closer look."""


def masked(text: str) -> str:
    """The text without secrets."""
    if not any(mark in text for mark in _MARKS):
        return text
    return _SECRET.sub(lambda found: f"{found[found.lastindex or 0]}…", text)


def configure(config: dict[str, Any]) -> None:
    """Django's LOGGING_CONFIG hook: JSON lines when `json`, aligned colours otherwise."""
    final: list[structlog.types.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if config["json"]:
        final += [structlog.processors.format_exc_info, _json()]
    else:
        # Plain: variables hold secrets and prompts, and drawing them takes a crowd's time.
        final.append(
            structlog.dev.ConsoleRenderer(
                colors=False, exception_formatter=structlog.dev.plain_traceback
            )
        )
    final.append(_mask)  # type: ignore[arg-type]
    logging.config.dictConfig(_handlers(final, config["level"]))
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_SHARED,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _mask(logger: Any, method: str, line: str) -> str:
    return masked(line)


def _json() -> structlog.processors.JSONRenderer:
    return structlog.processors.JSONRenderer(
        serializer=lambda event, **_: orjson.dumps(event, default=str).decode()
    )


def _handlers(final: list[structlog.types.Processor], level: str) -> dict[str, Any]:
    formatter = {
        "()": structlog.stdlib.ProcessorFormatter,
        "processors": final,
        "foreign_pre_chain": _SHARED,
    }
    quiet = dict.fromkeys(
        (
            "uvicorn.access",
            "httpx",
            "asyncio",
            "celery.worker.strategy",
            "celery.app.trace",
            "celery.beat",
        ),
        "WARNING",
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["out"], "level": level},
        "loggers": {name: {"level": at} for name, at in quiet.items()},
    }
