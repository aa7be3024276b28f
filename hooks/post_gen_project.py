"""Removes what the chosen tier and options do not have, lets others read the rest, and says how to start.

Cookiecutter and cruft render this file and run the copy in the new service's folder, cruft twice per update: it must be
deterministic, offline and, under cruft, quiet.
"""

import json
import shutil
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# What the uptime monitors that are other people's systems share.
TERRAFORM = tuple(f"deploy/terraform/uptime/{name}" for name in (".gitignore", "README.md", "variables.tf"))

# The alerts about Prometheus and Alertmanager themselves.
WATCHERS = (
    "AlertmanagerDown",
    "ConfigurationRefused",
    "NotificationsFailing",
    "PrometheusNotConnectedToAlertmanagers",
    "RuleEvaluationFailing",
    "RuleEvaluationMissed",
    "Watchdog",
)

# What a log store that is other people's system shares with the next.
LOG_TERRAFORM = tuple(f"deploy/terraform/logs/{name}" for name in (".gitignore", "README.md", "variables.tf"))
# The alerts about the log agents.
LOGS = ("LogAgentDown", "LogBufferFull", "LogLinesLost", "LogShippingFailing")

# Feature -> the paths that exist for it alone. A feature is a line of `_tiers` in cookiecutter.json, or an option and
# its value; several, joined by " & ", are one that is on while all of them are. A path that several features list stays
# while one of them is on.
FEATURES: dict[str, tuple[str, ...]] = {
    "cluster": (
        "deploy/kubernetes/components/disruption-budget",
        "deploy/kubernetes/components/monitoring",
        "deploy/kubernetes/components/network-policy",
        "deploy/kubernetes/components/notifications",
        "deploy/kubernetes/components/priority",
        "deploy/kubernetes/components/scrape",
        "deploy/kubernetes/components/spread",
        "deploy/kubernetes/overlays",
        "docs/scaling.md",
        "monitoring/grafana/dashboards/kustomization.yaml",
        "scripts/manifests.py",
        "tests/deploy/test_overlays.py",
    ),
    "cluster & database=postgresql": ("deploy/kubernetes/overlays/staging/migration",),
    "database=postgresql": (
        "deploy/kubernetes/migration",
        "migrations",
        "src/{package}/database.py",
        "src/{package}/orders/models.py",
        "tests/test_database.py",
    ),
    "cache=redis": ("src/{package}/cache.py", "tests/test_cache.py"),
    "dependency_metrics": ("monitoring/grafana/dashboards/dependencies.json",),
    "dependency_metrics & database=postgresql": (
        "docs/runbooks/DatabaseConnectionPoolHigh.md",
        "docs/runbooks/SlowQueries.md",
        "monitoring/prometheus/rules/database.yml",
        "monitoring/prometheus/tests/database_test.yml",
        "src/{package}/database_metrics.py",
        "tests/monitoring/test_dependencies.py",
        "tests/test_database_metrics.py",
    ),
    "dependency_metrics & cache=redis": (
        "docs/runbooks/CacheHitRateLow.md",
        "monitoring/prometheus/rules/cache.yml",
        "monitoring/prometheus/tests/cache_test.yml",
        "src/{package}/cache_metrics.py",
        "tests/monitoring/test_dependencies.py",
        "tests/test_cache_metrics.py",
    ),
    "log_volume": (
        "docs/runbooks/LogSilence.md",
        "docs/runbooks/LogVolumeSpike.md",
        "monitoring/prometheus/rules/logs.yml",
        "monitoring/prometheus/tests/logs_test.yml",
    ),
    "client_errors": (
        "docs/runbooks/HighClientErrorRate.md",
        "monitoring/prometheus/rules/clients.yml",
        "monitoring/prometheus/tests/clients_test.yml",
    ),
    # What exists once for all services of a machine or a cluster. A service that is alone has it among its own.
    "platform": ("platform",),
    "alone": (
        *(f"docs/runbooks/{alert}.md" for alert in WATCHERS),
        "monitoring/alertmanager",
        "monitoring/grafana/provisioning",
        "monitoring/prometheus/exporters/alertmanager.yml",
        "monitoring/prometheus/prometheus.yml",
        "monitoring/prometheus/watchers",
    ),
    "logs": (
        "docs/logs.md",
        *(f"platform/runbooks/{alert}.md" for alert in LOGS),
        "platform/fluent-bit",
        "platform/prometheus/exporters/fluent-bit.yml",
        "platform/prometheus/watchers/logs.yml",
        "platform/prometheus/watchers/tests/logs_test.yml",
    ),
    "logs & telemetry_backend=grafana": (
        "platform/fluent-bit/config/output-grafana.yaml",
        "platform/grafana/provisioning/datasources/loki.yml",
        "platform/loki",
    ),
    "logs & telemetry_backend=elastic": ("platform/fluent-bit/config/output-elastic.yaml",),
    "logs & telemetry_backend=aws": ("platform/fluent-bit/config/output-aws.yaml",),
    "logs & telemetry_backend=gcp": ("platform/fluent-bit/config/output-gcp.yaml",),
    "logs & telemetry_backend=datadog": ("platform/fluent-bit/config/output-datadog.yaml",),
    "logs & telemetry_backend=newrelic": ("platform/fluent-bit/config/output-newrelic.yaml",),
    "logs & telemetry_backend=splunk": ("platform/fluent-bit/config/output-splunk.yaml",),
    "paging=pagerduty": (
        "monitoring/alertmanager/templates/pagerduty.tmpl",
        "platform/alertmanager/templates/pagerduty.tmpl",
    ),
    "paging=slack": (
        "monitoring/alertmanager/templates/slack.tmpl",
        "platform/alertmanager/templates/slack.tmpl",
    ),
    "on_call": (
        "deploy/terraform/sentry",
        "docs/on-call.md",
        "docs/post-incident.md",
        "tests/monitoring/test_on_call.py",
    ),
    "on_call & paging=pagerduty": ("deploy/terraform/on-call", "deploy/terraform/sentry/email.tf"),
    "on_call & paging=slack": ("deploy/terraform/sentry/slack.tf",),
    "infrastructure": (
        "docs/runbooks/ContainerOOMKilled.md",
        "docs/runbooks/CpuHigh.md",
        "docs/runbooks/MemoryHigh.md",
        "docs/runbooks/PodCrashLooping.md",
        "docs/runbooks/ReplicasMismatch.md",
        "docs/runbooks/RolloutStuck.md",
        "monitoring/grafana/dashboards/business.json",
        "monitoring/grafana/dashboards/infrastructure.json",
        "monitoring/prometheus/exporters/cadvisor.yml",
        "monitoring/prometheus/exporters/kube_state_metrics.yml",
        "monitoring/prometheus/exporters/node.yml",
        "monitoring/prometheus/rules/pods.yml",
        "monitoring/prometheus/tests/pods_test.yml",
        "tests/monitoring/test_infrastructure.py",
    ),
    "infrastructure & database=postgresql": (
        "docs/runbooks/DatabaseDown.md",
        "docs/runbooks/ReplicationLag.md",
        "monitoring/prometheus/exporters/postgres.yml",
        "monitoring/prometheus/rules/postgres.yml",
        "monitoring/prometheus/targets/postgres.yml",
        "monitoring/prometheus/tests/postgres_test.yml",
        "platform/exporters/postgres",
        "platform/exporters/postgres-role.sql",
    ),
    "infrastructure & cache=redis": (
        "docs/runbooks/CacheDown.md",
        "docs/runbooks/CacheEvicting.md",
        "monitoring/prometheus/exporters/redis.yml",
        "monitoring/prometheus/rules/redis.yml",
        "monitoring/prometheus/targets/redis.yml",
        "monitoring/prometheus/tests/redis_test.yml",
        "platform/exporters/redis",
    ),
    "uptime_monitor=blackbox": (
        "docs/runbooks/CertificateExpiry.md",
        "docs/runbooks/EndpointDown.md",
        "docs/runbooks/EndpointSlow.md",
        "monitoring/prometheus/exporters/blackbox.yml",
        "monitoring/prometheus/rules/uptime.yml",
        "monitoring/prometheus/targets/uptime.yml",
        "monitoring/prometheus/tests/uptime_test.yml",
    ),
    "alone & uptime_monitor=blackbox": ("monitoring/blackbox",),
    "platform & uptime_monitor=blackbox": ("platform/blackbox",),
    "uptime_monitor=uptimerobot": (*TERRAFORM, "deploy/terraform/uptime/uptimerobot.tf"),
    "uptime_monitor=pingdom": (*TERRAFORM, "deploy/terraform/uptime/pingdom.tf"),
    "uptime_monitor=statuscake": (*TERRAFORM, "deploy/terraform/uptime/statuscake.tf"),
    "web_analytics=plausible": (
        "src/{package}/observability/analytics.py",
        "tests/test_analytics.py",
    ),
    "web_analytics=google_analytics": (
        "src/{package}/observability/analytics.py",
        "src/{package}/static/analytics.js",
        "tests/test_analytics.py",
    ),
    "log_store": ("docs/log-queries.md", "monitoring/logs/fields.yml", "tests/monitoring/test_log_queries.py"),
    "log_store & telemetry_backend=grafana": ("monitoring/logs/loki",),
    "log_store & telemetry_backend=elastic": (
        "monitoring/logs/elasticsearch",
        "monitoring/logs/kibana",
        "scripts/log_store.py",
    ),
    "log_store & telemetry_backend=aws": (*LOG_TERRAFORM, "deploy/terraform/logs/cloudwatch.tf"),
    "log_store & telemetry_backend=gcp": (*LOG_TERRAFORM, "deploy/terraform/logs/google.tf"),
    "log_store & telemetry_backend=datadog": (*LOG_TERRAFORM, "deploy/terraform/logs/datadog.tf"),
    "log_store & telemetry_backend=newrelic": (*LOG_TERRAFORM, "deploy/terraform/logs/newrelic.tf"),
    "log_store & telemetry_backend=splunk": ("monitoring/logs/splunk",),
}


class TableError(Exception):
    """The table and the template disagree."""


def chosen_features(answers: Mapping[str, Any]) -> set[str]:
    """The features of the tier and the options that were chosen."""
    tier = answers["_tiers"][answers["scale_tier"]]
    return {*tier["features"], *(f"{variable}={value}" for variable, value in answers.items())}


def check_table(answers: Mapping[str, Any], features: Mapping[str, tuple[str, ...]], root: Path) -> None:
    """Raises TableError for a path that does not exist and for a tier's feature that the table does not know."""
    known = {part for feature in features for part in feature.split(" & ")}
    for tier, definition in answers["_tiers"].items():
        for feature in definition["features"]:
            if feature not in known:
                raise TableError(
                    f"tier {tier} has the feature {feature!r}: give it a line in hooks/post_gen_project.py"
                )
    for feature, paths in features.items():
        for path in paths:
            if not (root / path).exists():
                raise TableError(f"feature {feature!r} lists {path}, which the template does not have")


def remove_unchosen(chosen: set[str], features: Mapping[str, tuple[str, ...]], root: Path) -> None:
    """Removes the paths of features that are off, and folders that this leaves empty."""
    kept = {path for feature in features if chosen.issuperset(feature.split(" & ")) for path in features[feature]}
    for path in sorted({path for paths in features.values() for path in paths} - kept):
        unwanted = root / path
        if unwanted.is_dir():
            shutil.rmtree(unwanted)
        else:
            unwanted.unlink(missing_ok=True)
        for parent in unwanted.relative_to(root).parents[:-1]:
            if (root / parent).is_dir() and not any((root / parent).iterdir()):
                (root / parent).rmdir()


def derive(root: Path) -> None:
    """Writes what the service's own `make manifests` derives from the files that are left."""
    if (root / "scripts/manifests.py").exists():
        subprocess.run([sys.executable, "scripts/manifests.py"], cwd=root, check=True)


def let_others_read(root: Path) -> None:
    """Adds the read permissions that a template cloned under a strict umask lacks: an image runs as another user.

    What is ten minutes older than the rest was there before, secrets perhaps, and stays as its owner left it.
    """
    modes = {path: path.stat() for path in (root, *root.rglob("*")) if not path.is_symlink()}
    begun = max(mode.st_mtime for mode in modes.values()) - 600
    for path, mode in modes.items():
        if mode.st_mtime > begun:
            path.chmod(stat.S_IMODE(mode.st_mode) | (0o755 if path.is_dir() else 0o644))


def main() -> int:
    """Returns 1, after one line, if the table is wrong."""
    answers = json.loads(r"""<< cookiecutter | tojson >>""")
    features = {
        feature: tuple(path.format(package=answers["__package"]) for path in paths)
        for feature, paths in FEATURES.items()
    }
    root = Path.cwd()
    try:
        check_table(answers, features, root)
    except TableError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    remove_unchosen(chosen_features(answers), features, root)
    derive(root)
    let_others_read(root)
    if "_output_dir" in answers:  # Cookiecutter alone sets it: cruft and `make new` speak for themselves
        print(f"{answers['project_slug']} is ready. To start it:\n  cd {answers['project_slug']}\n  make install run")
    return 0


if __name__ == "__main__":
    sys.exit(main())
