"""Logs: one event per line, as JSON for machines or in columns for a terminal. Never a document's text."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from store.settings import Settings


def configure(config: Settings) -> None:
    """Sends structlog and the standard library's logging through one renderer to standard error."""
    console = config.log_format == "console" or (config.log_format == "auto" and sys.stderr.isatty())
    # Tracebacks without the values of variables, which could be a document's text.
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = plain if console else structlog.processors.JSONRenderer()
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    # A console renders tracebacks itself; JSON needs them as text.
    final: list[Any] = [renderer] if console else [structlog.processors.format_exc_info, renderer]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    remove = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove, *final])
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level)


def get(name: str) -> Any:
    """The logger of a module."""
    return structlog.stdlib.get_logger(name)
