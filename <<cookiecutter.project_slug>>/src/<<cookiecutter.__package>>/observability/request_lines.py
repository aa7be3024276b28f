"""The one line of each request, written when it ends."""

import inspect
import logging
import time
import traceback
from functools import lru_cache
from pathlib import Path
from random import random

import orjson
from flask import Flask, current_app

from ..settings import SLOW_REQUEST_SECONDS, Settings
from .encoding import LEVELS, Fields, encode, ids_of, timestamp
from .identity import Identity
from .logging import Lines
from .redaction import scrub_short_text

_USUAL_PATH = 128


class RequestLines:
    """Failures and slow requests always get their line, others as LOG_SAMPLE_RATIO says."""

    def __init__(self, settings: Settings, lines: Lines) -> None:
        self._lines = lines
        self._from_level = logging.getLevelNamesMapping()[
            settings.log_levels.get("request", settings.log_level)
        ]
        self._sample_ratio = settings.log_sample_ratio
        self._is_json = settings.log_format == "json"
        constant = orjson.dumps(lines.constant).decode()[1:-1]
        self._head = f'","level":"INFO","message":"request","logger":"request",{constant}'

    def ended(self, request: Identity) -> None:
        level = logging.ERROR if request.status >= 500 else logging.INFO
        if level < self._from_level or (
            request.status < 400
            and request.seconds < SLOW_REQUEST_SECONDS
            and random() >= self._sample_ratio  # noqa: S311
        ):
            return
        try:
            if self._is_json and level == logging.INFO and len(request.path) <= _USUAL_PATH:
                try:
                    text = self.text_of(request)
                except TypeError:  # a lone surrogate, which orjson refuses
                    text = encode(self.line_of(request, level))
            else:
                text = self._lines.encode(self.line_of(request, level))
            self._lines.send(text, level)
        except Exception as error:
            self._lines.lose(type(error).__name__)

    def text_of(self, request: Identity) -> bytes:
        """What `line_of` and `encode` make of a request that did not fail, for half of the cost."""
        ids = f',"trace_id":"{request.trace_id}"' if request.trace_id else ""
        if request.user_id is not None:
            ids += f',"user_id":{_json(scrub_short_text(request.user_id))}'
        size = "" if request.size is None else f',"bytes":{request.size}'
        client = "" if request.client_ip is None else f',"client_ip":{_json(request.client_ip)}'
        return (
            f'{{"timestamp":"{timestamp(time.time())}{self._head}'
            f',"request_id":"{request.request_id}"{ids}'
            f',"method":"{request.method}","route":{_json(request.route)}'
            f',"path":{_json(scrub_short_text(request.path))},"status_code":{request.status}'
            f',"duration_ms":{request.seconds * 1000:.3f}{size}{client}}}\n'
        ).encode()

    def line_of(self, request: Identity, level: int) -> Fields:
        """The fields of a request's line."""
        line: Fields = {
            "timestamp": timestamp(time.time()),
            "level": LEVELS[level],
            "message": "request",
            "logger": "request",
            **self._lines.constant,
            **ids_of(request),
            "method": request.method,
            "route": request.route,
            "path": scrub_short_text(request.path),
            "status_code": request.status,
            "duration_ms": round(request.seconds * 1000, 3),
        }
        if request.size is not None:
            line["bytes"] = request.size
        if request.client_ip is not None:
            line["client_ip"] = request.client_ip
        if level == logging.ERROR:
            line.update(_where_it_failed(request))
        return line


@lru_cache(maxsize=4096)
def _json(text: str) -> str:
    """The JSON of a text that repeats."""
    return orjson.dumps(text).decode()


def _where_it_failed(request: Identity) -> Fields:
    """The place that raised, else the view that answered."""
    if request.failure and request.failure.__traceback__:
        *_, (frame, number) = traceback.walk_tb(request.failure.__traceback__)
        code = frame.f_code
        return {"module": Path(code.co_filename).stem, "function": code.co_name, "line": number}
    views = current_app.view_functions
    view = inspect.unwrap(views.get(request.endpoint or "", Flask.full_dispatch_request))
    # A view may be an object that is called, or a partial.
    code = getattr(view, "__code__", Flask.full_dispatch_request.__code__)
    return {
        "module": Path(code.co_filename).stem,
        "function": code.co_name,
        "line": code.co_firstlineno,
    }
