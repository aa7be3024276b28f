"""gunicorn for what has no observability: the options of the service's gunicorn_conf.py that are not telemetry's."""

import os

bind = f"127.0.0.1:{os.environ['PORT']}"
workers = int(os.environ["WEB_CONCURRENCY"])
threads = int(os.environ["WEB_THREADS"])
worker_class = "gthread"
worker_tmp_dir = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 gunicorn makes its own file in it
control_socket_disable = True
graceful_timeout = 20
timeout = 60
keepalive = 75
