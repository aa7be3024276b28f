"""Sends a mix of good and bad requests to a running service, at a steady pace."""

import argparse
import random
import re
import threading
import time
from collections.abc import Iterator
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import ProxyHandler, Request, build_opener, install_opener, urlopen

# Method, path, body, where each %d becomes a number, and how often in a round. So few are bad that
# half a minute of it makes no SecurityEventSpike.
MIX: list[tuple[str, str, bytes | None, int]] = [
    ("GET", "/", None, 8),
    ("GET", "/no-such-page", None, 2),
    ("GET", "/api/v1/orders", None, 8),
    ("GET", "/api/v1/orders/1", None, 4),
    ("POST", "/api/v1/orders", b'{"customer": "c-%d", "amount": "%d.50", "currency": "EUR"}', 7),
    ("POST", "/api/v1/orders", b'{"customer": "c-%d", "amount": "%d"}', 1),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rate", type=float, default=20, help="requests a second")
    options = parser.parse_args()
    if urlsplit(options.url).hostname in ("localhost", "127.0.0.1", "::1"):
        # A proxy cannot reach this machine's own addresses.
        install_opener(build_opener(ProxyHandler({})))
    statuses: dict[str, int] = {}
    until = time.monotonic() + options.seconds
    threads: list[threading.Thread] = []
    for kind in rounds():
        if time.monotonic() >= until:
            break
        threads.append(threading.Thread(target=send, args=(options.url, *kind, statuses)))
        threads[-1].start()
        time.sleep(1 / options.rate)
    for thread in threads:
        thread.join()
    print(", ".join(f"{count} x {status}" for status, count in sorted(statuses.items())))  # noqa: T201


def rounds() -> Iterator[tuple[str, str, bytes | None]]:
    """The mix, over and over, each time in another order."""
    once = [(method, path, body) for method, path, body, count in MIX for _ in range(count)]
    while True:
        random.shuffle(once)
        yield from once


def send(url: str, method: str, path: str, body: bytes | None, statuses: dict[str, int]) -> None:
    """Send one request and count its status."""
    if body:
        body = re.sub(b"%d", lambda _: b"%d" % random.randrange(1, 200), body)  # noqa: S311
    request = Request(url + path, body, {"Content-Type": "application/json"}, method=method)  # noqa: S310
    try:
        with urlopen(request, timeout=10) as answer:  # noqa: S310
            status = str(answer.status)
    except HTTPError as error:
        status = str(error.code)
    except URLError as error:
        status = str(error.reason)
    statuses[status] = statuses.get(status, 0) + 1


if __name__ == "__main__":
    main()
