"""Metrics of several workers: their totals never fall and never count twice.

A process chooses once how it keeps values, so what is tested runs in a process of its own.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from <<cookiecutter.__package>>.settings import Settings
from <<cookiecutter.__package>>.workers import exposition

from .support import a_process, server

PROGRAM = """
import json, os, resource, signal, sys, time
from pathlib import Path
from urllib.request import urlopen
from prometheus_client import CollectorRegistry, generate_latest
from <<cookiecutter.__package>>.app import create_app
from <<cookiecutter.__package>>.observability import counter
from <<cookiecutter.__package>>.workers import exposition, memory
from <<cookiecutter.__package>>.settings import Settings
from tests.support import free_port, samples_of

VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
directory = exposition.values_directory()


def scrape():
    registry = CollectorRegistry()
    registry.register(exposition.Workers(exposition.values_directory()))
    return samples_of(generate_latest(registry).decode())


def total(samples):
    return sum(value for _, value in samples.get("http_request_duration_seconds_count", []))


def serve(requests):
    client = create_app(Settings(_env_file=None, web_threads=4, log_level="ERROR")).test_client()
    return sorted({client.get("/").status_code for _ in range(requests)})


def worker(work):
    child = os.fork()
    if child == 0:
        work()
        os.kill(os.getpid(), signal.SIGKILL)
    return child


def workers_that_die():
    falls, most_files, expected, known = 0, 0, 0, 0.0
    for _ in range(3):
        children = {worker(lambda: serve(requests)) for requests in (5, 6, 7)}
        expected += 5 + 6 + 7
        while children:
            now = total(scrape())
            falls += now < known
            known = now
            most_files = max(most_files, len(list(directory.glob("*.db"))))
            exited, _ = os.waitpid(-1, os.WNOHANG)
            if exited:
                exposition.merge_exited_worker(exited)
                children.remove(exited)
            time.sleep(0.002)
    scraped = scrape()
    buckets = scraped["http_request_duration_seconds_bucket"]
    return {
        "falls": falls,
        "files": most_files,
        "expected": expected,
        "scraped": total(scraped),
        "in the last bucket": sum(value for labels, value in buckets if labels["le"] == "+Inf"),
    }


def one_that_lives():
    living = worker(lambda: (serve(1), signal.pause()))
    before = total(scrape())
    while total(scrape()) == before:
        time.sleep(0.005)
    during = scrape()
    os.kill(living, signal.SIGKILL)
    os.waitpid(living, 0)
    exposition.merge_exited_worker(living)
    return {"during": during, "afterwards": scrape()}


def on_the_port():
    port = free_port()
    settings = Settings(
        _env_file=None,
        metrics_port=port,
        app_version="1.2.3",
        app_revision="4f1c",
        log_level="ERROR",
    )
    (directory / "counter_99999.db").touch()  # a newborn worker's, for a moment
    exposition.serve_metrics(settings)
    address = f"http://127.0.0.1:{port}/metrics"
    scraped = samples_of(urlopen(address).read().decode())
    narrowed = [
        sorted(samples_of(urlopen(f"{address}?{query}").read().decode()))
        for query in ("name[]=x", "name[]=app_info&name[]=process_workers")
    ]
    app = create_app(settings)
    return {
        "scraped": scraped,
        "narrowed": narrowed,
        "on the service's port": app.test_client().get("/metrics").status_code,
    }


def without(what, name):
    def within_limits():
        os.close(reader)
        os.environ[VARIABLE] = str(directory / name)
        what()
        answer = {"statuses": serve(20), "lost": memory.lost_value_files() - lost}
        answer["scraped"] = scrape().get("telemetry_dropped_total")
        os.write(writer, json.dumps(answer).encode())

    lost = memory.lost_value_files()
    reader, writer = os.pipe()
    worker(within_limits)
    os.close(writer)
    with open(reader) as file:
        return json.load(file)


def a_directory():
    pass


def room():
    (directory / "full").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))


def room_to_grow():
    (directory / "small").mkdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, resource.RLIM_INFINITY))
    many = counter("many_total", "Many.", ["number"])
    for number in range(2_000):
        many.labels(f"{number:040}").inc()
    many.labels("0" * 40).inc()


print(json.dumps({
    "workers that die": workers_that_die(),
    "one that lives": one_that_lives(),
    "without a directory": without(a_directory, "removed/since"),
    "without room": without(room, "full"),
    "without room to grow": without(room_to_grow, "small"),
    "on the port": on_the_port(),
}))
"""


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with workers found out about itself."""
    directory = tmp_path_factory.mktemp("values")
    done = a_process(PROGRAM, directory, PROMETHEUS_MULTIPROC_DIR=str(directory))
    assert done.returncode == 0, done.stderr.decode()
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_totals_never_fall_nor_count_twice_however_workers_die(observed: dict[str, Any]) -> None:
    found = observed["workers that die"]
    assert found["falls"] == 0
    assert found["scraped"] == found["in the last bucket"] == found["expected"] == 3 * (5 + 6 + 7)


def test_the_files_that_a_scrape_reads_are_bounded(observed: dict[str, Any]) -> None:
    # Of three workers, of the process that starts them, and one set of all that exited.
    kinds = 4
    assert observed["workers that die"]["files"] <= (3 + 1 + 1) * kinds


def test_a_worker_that_exited_counts_and_no_longer_works(observed: dict[str, Any]) -> None:
    during, afterwards = (
        observed["one that lives"]["during"],
        observed["one that lives"]["afterwards"],
    )
    assert during["http_request_capacity"] == [[{}, 4.0]]
    assert "http_request_capacity" not in afterwards
    assert "http_requests_in_progress" not in afterwards
    name = "http_request_duration_seconds_count"
    assert afterwards[name] == during[name]


@pytest.mark.parametrize("lack", ["a directory", "room", "room to grow"])
def test_a_directory_that_takes_no_values_fails_no_request(
    observed: dict[str, Any], lack: str
) -> None:
    found = observed[f"without {lack}"]
    assert found["statuses"] == [200]
    assert found["lost"] > 0


def test_lost_values_are_counted(observed: dict[str, Any]) -> None:
    labels, count = observed["without room"]["scraped"][-1]
    assert labels == {"signal": "metrics", "reason": "directory"}
    assert count > 0


def test_the_master_serves_everything_on_the_metrics_port(observed: dict[str, Any]) -> None:
    found = observed["on the port"]
    assert found["scraped"]["app_info"] == [[{"version": "1.2.3", "revision": "4f1c"}, 1.0]]
    counts = found["scraped"]["http_request_duration_seconds_count"]
    assert sum(count for _, count in counts) == 3 * (5 + 6 + 7) + 1
    for name in (
        "process_cpu_seconds_total",
        "process_resident_memory_bytes",
        "process_open_fds",
        "process_max_fds",
        "process_start_time_seconds",
        "log_messages_total",
        "security_events_total",
    ):
        assert found["scraped"][name]
    assert found["narrowed"] == [[], ["app_info", "process_workers"]]
    assert found["scraped"]["worker_exits_total"] == [
        [{"cause": cause}, 0.0] for cause in ("crashed", "killed", "timeout")
    ]


def test_under_gunicorn_the_service_port_has_no_metrics(observed: dict[str, Any]) -> None:
    assert observed["on the port"]["on the service's port"] == 404


def test_a_metrics_port_that_is_taken_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    with server(lambda _: (200, b"")) as taken:
        port = int(taken.host.rpartition(":")[2])
        settings = Settings(_env_file=None, metrics_port=port)
        # Bound to every address, which one of them being taken prevents.
        with pytest.raises(
            SystemExit, match=rf"^METRICS_PORT: {port} cannot be used: .*; allowed: .*$"
        ):
            exposition.serve_metrics(settings)


def test_a_new_start_forgets_an_earlier_runs_values(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))
    (tmp_path / "counter_1.db").touch()
    (tmp_path / "somebody elses.txt").touch()
    exposition.empty_directory()
    assert [file.name for file in tmp_path.iterdir()] == ["somebody elses.txt"]


def test_the_folder_of_values_goes_with_the_master_and_not_with_a_worker(tmp_path: Path) -> None:
    done = a_process(
        """
import os, sys
from pathlib import Path
from <<cookiecutter.__package>> import gunicorn_conf
folder = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
if (worker := os.fork()) == 0:
    sys.exit()
os.waitpid(worker, 0)
print(folder, folder.is_dir())
sys.exit("as where METRICS_PORT is taken")
""",
        tmp_path,
    )
    folder, there = done.stdout.decode().split()
    assert there == "True"
    assert not Path(folder).exists()


REAPED = """
import json, os, signal
from types import SimpleNamespace
from unittest.mock import Mock
from gunicorn.arbiter import Arbiter
from prometheus_client import CollectorRegistry, generate_latest
from <<cookiecutter.__package>> import gunicorn_conf
from <<cookiecutter.__package>>.workers.processes import worker_exits
from tests.support import samples_of

registry = CollectorRegistry()
registry.register(worker_exits)
master = Mock(
    cfg=gunicorn_conf, reexec_pid=0, dirty_arbiter_pid=0, LISTENERS=["a listener"], WORKERS={},
    WORKER_BOOT_ERROR=Arbiter.WORKER_BOOT_ERROR, APP_LOAD_ERROR=Arbiter.APP_LOAD_ERROR,
)


def counted(*ends, aborted=False):
    for number in ends:
        if (worker := os.fork()) == 0:
            # What was started in the background of a shell ignores both.
            for ignored in (signal.SIGINT, signal.SIGQUIT):
                signal.signal(ignored, signal.SIG_DFL)
            os.kill(os.getpid(), -number) if number < 0 else os._exit(number)
        master.WORKERS[worker] = Mock(pid=worker, aborted=aborted)
        os.waitid(os.P_PID, worker, os.WEXITED | os.WNOWAIT)
    Arbiter.reap_workers(master)
    assert not master.WORKERS
    samples = samples_of(generate_latest(registry).decode())["worker_exits_total"]
    return {labels["cause"]: value for labels, value in samples}


answer = {
    "asked": counted(0, -signal.SIGTERM, -signal.SIGINT, -signal.SIGQUIT),
    "unasked": counted(-signal.SIGKILL, 1, 255, -signal.SIGABRT, -signal.SIGKILL),
    "timeout": counted(1, -signal.SIGKILL, aborted=True),
}
master.LISTENERS = []
answer["stopping"] = counted(-signal.SIGKILL, 1)
print(json.dumps(answer))
"""


def test_gunicorn_reaps_workers_and_those_that_ended_unasked_are_counted(tmp_path: Path) -> None:
    done = a_process(REAPED, tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["asked"] == {"crashed": 0, "killed": 0, "timeout": 0}
    assert found["unasked"] == {"crashed": 3, "killed": 2, "timeout": 0}
    assert found["timeout"] == {"crashed": 3, "killed": 2, "timeout": 2}
    assert found["stopping"] == found["timeout"]


QUEUED = """
import os, socket, threading
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock
from gunicorn.config import Config
from gunicorn.workers.gthread import TConn
from <<cookiecutter.__package>> import gunicorn_conf

now, found = 100.0, []
gunicorn_conf.time.perf_counter = lambda: now


def answer(environ, start_response):
    start_response("200 OK", [("Content-Length", "0")])
    return []


def sent(request):
    global now
    free, client = threading.Event(), socket.socket()
    worker.tpool.submit(free.wait)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client.connect(listener.getsockname())
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        conn = TConn(worker.cfg, *listener.accept(), listener.getsockname())
    worker.enqueue_req(conn)
    now += 3.5
    free.set()
    worker.tpool.submit(int).result()
    client.close()
    conn.close()


worker = gunicorn_conf.PatientWorker(1, os.getppid(), [], Mock(), 30, Config(), Mock())
worker.tpool, worker.wsgi, worker.waited = ThreadPoolExecutor(1), answer, found.append
worker.method_queue.init()
for request in (
    b"GET / HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n",
    b"",
    b"GET /health/ready HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n",
    b"HEAD /parcels HTTP/1.1\\r\\nHost: here\\r\\n\\r\\n",
):
    sent(request)
print(found)
"""


def test_gunicorn_records_how_long_each_request_waited_for_a_thread(tmp_path: Path) -> None:
    """A connection that closes without a request is none, and probes are not counted."""
    done = a_process(QUEUED, tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.splitlines()[-1] == b"[3.5, 3.5]"
