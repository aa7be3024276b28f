"""Calls to other services, which carry the request's id and trace."""

from typing import Any

from requests import PreparedRequest, Response, Session
from requests.adapters import HTTPAdapter
from urllib3 import Retry

from .observability import outgoing_headers

TIMEOUT_SECONDS = (1.0, 5.0)
"""To connect, and between two bytes of the answer; a call without a limit can hang a thread."""


class ServiceAdapter(HTTPAdapter):
    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        kwargs["timeout"] = kwargs.get("timeout") or TIMEOUT_SECONDS
        for name, value in outgoing_headers().items():
            request.headers.setdefault(name, value)
        return super().send(request, *args, **kwargs)


def http_session(retries: int = 0) -> Session:
    """A session of `requests`. Retries are for calls that may be made twice; none by default."""
    session = Session()
    # read=False leaves a time-out what it is: requests.ReadTimeout.
    retry = Retry(retries, read=None if retries else False, backoff_factor=0.1)
    adapter = ServiceAdapter(max_retries=retry)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session
