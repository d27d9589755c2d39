"""What an installation looks like in numbers, for Prometheus and the status page.

Read-only, and no label holds what came from outside: callers and destinations are
those of the settings, scanners are names from a list.
"""
