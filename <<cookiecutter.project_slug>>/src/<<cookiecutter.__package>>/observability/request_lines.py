"""The one line of each request, written when it ends."""

import inspect
import logging
import time
import traceback
from functools import partial
from pathlib import Path
from random import random

from flask import Flask, current_app

from ..settings import SLOW_REQUEST_SECONDS, Settings
from .encoding import Fields, request_fields
from .identity import Identity
from .logging import Lines

_log = logging.getLogger("request")


class RequestLines:
    """Failures and slow requests always get their line, others as LOG_SAMPLE_RATIO says."""

    def __init__(self, settings: Settings, lines: Lines) -> None:
        self._lines = lines
        self._sample_ratio = settings.log_sample_ratio

    def ended(self, request: Identity) -> None:
        level = logging.ERROR if request.status >= 500 else logging.INFO
        usual = request.status < 400 and request.seconds < SLOW_REQUEST_SECONDS
        if _log.isEnabledFor(level) and not (usual and random() >= self._sample_ratio):  # noqa: S311
            # A failure keeps its frames alive, and with them the request's body.
            deferred = usual and request.failure is None and request.logged_failure is None
            self._lines.send(level, partial(self._line_of, time.time(), request), deferred=deferred)

    def _line_of(self, moment: float, request: Identity) -> Fields:
        level = logging.ERROR if request.status >= 500 else logging.INFO
        line = self._lines.common_fields(moment, level, "request", _log.name, request)
        line |= request_fields(request)
        line["duration_ms"] = round(request.seconds * 1000, 3)
        if request.size is not None:
            line["bytes"] = request.size
        if level == logging.ERROR:
            line |= _where_it_failed(request)
        return line


def _where_it_failed(request: Identity) -> Fields:
    """The place that raised, else the view that answered."""
    if request.failure is not None and request.failure.__traceback__:
        *_, (frame, number) = traceback.walk_tb(request.failure.__traceback__)
        code = frame.f_code
    else:
        view = current_app.view_functions.get(request.endpoint or "")
        # A view may be an object that is called, or a partial: those have no code of their own.
        code = getattr(inspect.unwrap(view or Flask.wsgi_app), "__code__", Flask.wsgi_app.__code__)
        number = code.co_firstlineno
    return {"module": Path(code.co_filename).stem, "function": code.co_name, "line": number}
