"""What gunicorn's master and its workers share: metric values, memory, the exposition."""
