"""Where both ports listen: on IPv4 and IPv6, or where HOST says."""

from __future__ import annotations

import http.client

import pytest

from .processes import eventually
from .service import Gunicorn, Service

IPV4, IPV6 = "127.0.0.1", "::1"


def _answers(address: str, port: int) -> bool:
    connection = http.client.HTTPConnection(address, port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        return connection.getresponse().status in (200, 404)
    except ConnectionRefusedError:
        return False
    finally:
        connection.close()


def _answering(service: Gunicorn) -> dict[str, list[bool]]:
    return {
        address: [_answers(address, port) for port in (service.port, service.metrics_port)] for address in (IPV4, IPV6)
    }


def test_both_ports_listen_on_ipv4_and_ipv6_and_a_client_has_its_usual_address(small: Service) -> None:
    """A client of IPv4 has an address of IPv4 in the line, also cut short."""
    for said, seen in (("full", [IPV4, IPV6]), ("truncated", ["127.0.0.0", "::"])):
        with small.serving(LOG_CLIENT_IP=said) as service:
            for address in (IPV4, IPV6):
                connection = http.client.HTTPConnection(address, service.port, timeout=10)
                connection.request("GET", "/stage/ok")
                assert connection.getresponse().read() == b"ok"
                connection.close()
            assert service.logged(message="request", client_ip=seen[0])
            assert service.logged(message="request", client_ip=seen[1])
            assert _answering(service) == {IPV4: [True, True], IPV6: [True, True]}


@pytest.mark.parametrize(("host", "other"), [(IPV4, IPV6), (IPV6, IPV4)])
def test_both_ports_listen_where_host_says_and_nowhere_else(small: Service, host: str, other: str) -> None:
    """`flask doctor` asks there, too."""
    with small.serving(HOST=host, wait=False) as service:
        eventually(lambda: _answers(host, service.port), "an answer")
        assert _answering(service) == {host: [True, True], other: [False, False]}
        _, found, _ = small.flask(
            "doctor", HOST=host, PORT=str(service.port), METRICS_PORT=str(service.metrics_port), ENVIRONMENT="staging"
        )
        metrics = [line for line in found.splitlines() if line.startswith("metrics")]
        assert metrics[0].split()[1] == "arrived", found
