"""Telemetry that could not be delivered: always counted, logged once an hour for each reason."""

import logging
import time

from prometheus_client import CollectorRegistry, Counter

_LOG_AGAIN_SECONDS = 3600


class Losses:
    """Shared by every signal, so that none fails a request for its own sake."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counter = Counter(
            "telemetry_dropped",
            "Telemetry that could not be delivered, by signal and reason.",
            ["signal", "reason"],
            registry=registry,
        )
        self._logged: dict[tuple[str, str], float] = {}

    def expect(self, signal: str, *reasons: str) -> None:
        """Make the series of losses that may come, so that the first one is seen as a rise."""
        for reason in reasons:
            self._counter.labels(signal, reason)

    def count(self, signal: str, reason: str, quantity: int = 1) -> None:
        """Count a loss; the first of its kind in an hour is also logged."""
        self._counter.labels(signal, reason).inc(quantity)
        now = time.monotonic()
        # A log line about lost log lines would be lost as well: those are reported when lines flow.
        if signal == "logs" or now < self._logged.get((signal, reason), 0):
            return
        self._logged[signal, reason] = now + _LOG_AGAIN_SECONDS
        logging.getLogger(__name__).warning(
            "telemetry lost", extra={"signal": signal, "reason": reason}
        )
