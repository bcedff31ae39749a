"""Structured logs: one line an event, with the request id bound where there is a request."""

import logging
import logging.config
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


def configure(config: dict[str, Any]) -> None:
    """Django's LOGGING_CONFIG hook: JSON lines when `json`, aligned colours otherwise."""
    final: list[structlog.types.Processor] = [
        structlog.stdlib.ProcessorFormatter.remove_processors_meta
    ]
    if config["json"]:
        final += [structlog.processors.format_exc_info, _json()]
    else:
        final.append(structlog.dev.ConsoleRenderer(colors=False))
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
        ("uvicorn.access", "httpx", "asyncio", "celery.worker.strategy"), "WARNING"
    )
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"out": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["out"], "level": level},
        "loggers": {name: {"level": at} for name, at in quiet.items()},
    }
