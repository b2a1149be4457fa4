"""The API's log: one event a line on standard error, without document text or values of variables."""

import sys
from typing import Any

import structlog

from store.settings import Settings


def configure(config: Settings) -> None:
    """JSON lines, or columns on a terminal. uvicorn keeps its own access log."""
    console = config.log_format == "console" or (config.log_format == "auto" and sys.stderr.isatty())
    final: list[Any] = (
        [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *final,
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
