"""What gunicorn's master and its workers share: the stream of log lines, metric values, memory."""
