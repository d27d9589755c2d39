"""Celery tasks: each parses a message, calls one function, maps the result."""
