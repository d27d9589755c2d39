"""The kill matrix: real processes, real SIGKILL, three ledgers that must agree."""
