"""Gives Elasticsearch and Kibana what the service's log lines need there; may be run again.

The addresses and the key come from the environment: ELASTICSEARCH_URL, KIBANA_URL (without which
the saved searches are left out) and ELASTIC_API_KEY.
"""

import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path

import requests

FILES = Path(__file__).resolve().parents[1] / "monitoring" / "logs"
NAME = "logs-<< cookiecutter.project_slug >>"
SECONDS = 30
"""For each answer."""

Send = Callable[..., requests.Response]


class RefusedError(Exception):
    """What is wrong, where, and what is allowed: one line."""


def main() -> int:
    try:
        check_retention()
        url, key = setting("ELASTICSEARCH_URL"), setting("ELASTIC_API_KEY")
        kibana = os.environ.get("KIBANA_URL")
        with requests.Session() as session:
            session.headers["Authorization"] = f"ApiKey {key}"
            # The index template names the other two, so it comes last.
            for path, file in (
                (f"_ilm/policy/{NAME}", "elasticsearch/lifecycle.json"),
                (f"_ingest/pipeline/{NAME}", "elasticsearch/pipeline.json"),
                (f"_index_template/{NAME}", "elasticsearch/template.json"),
            ):
                send(session.put, f"{url.rstrip('/')}/{path}", file, json=loaded(file))
            if kibana:
                import_saved_searches(session, kibana.rstrip("/"))
            else:
                say("KIBANA_URL is not set: the saved searches are left out")
    except RefusedError as problem:
        print(problem, file=sys.stderr)  # noqa: T201
        return 1
    return 0


def say(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def setting(name: str) -> str:
    """A variable that must be set."""
    value = os.environ.get(name, "")
    if not value:
        raise RefusedError(f"{name} is not set: docs/log-queries.md says what it is")
    if name.endswith("_URL") and not re.match("https?://[^/]", value):
        raise RefusedError(f"{name} is no address: it begins with https:// or http://")
    return value


def loaded(file: str) -> object:
    return json.loads((FILES / file).read_text(encoding="utf-8"))


def check_retention() -> None:
    """Before anything is sent: Elasticsearch takes hours and milliseconds for days as well."""
    file = FILES / "elasticsearch" / "lifecycle.json"
    phases = json.loads(file.read_text(encoding="utf-8"))["policy"]["phases"]
    age = phases.get("delete", {}).get("min_age")
    if not re.fullmatch("[1-9][0-9]*d", str(age)):
        raise RefusedError(
            f"monitoring/logs/elasticsearch/{file.name}: min_age of the phase delete is"
            f" {json.dumps(age)}: write a number of days, such as 30d"
        )


def send(method: Send, url: str, what: str, **request: object) -> requests.Response:
    """One request, of which only a success returns."""
    try:
        answer = method(url, timeout=SECONDS, **request)
    except requests.RequestException as error:
        raise RefusedError(f"{what}: {url} cannot be reached: {type(error).__name__}") from None
    if not answer.ok:
        raise RefusedError(f"{what}: {url} answered {answer.status_code}: {answer.text[:500]}")
    say(f"ok {what}: {url}")
    return answer


def import_saved_searches(session: requests.Session, kibana: str) -> None:
    """Replaces those of the same id; Kibana may answer 200 and have refused some."""
    file = "kibana/saved-searches.ndjson"
    answer = send(
        session.post,
        f"{kibana}/api/saved_objects/_import?overwrite=true",
        file,
        headers={"kbn-xsrf": "true"},
        files={"file": (Path(file).name, (FILES / file).read_bytes(), "application/ndjson")},
    )
    refused = answer.json().get("errors") or []
    if refused:
        names = ", ".join(f"{each['id']} ({each['error']['type']})" for each in refused)
        raise RefusedError(f"{file}: Kibana took all but {names}")


if __name__ == "__main__":
    sys.exit(main())
