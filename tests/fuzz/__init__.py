"""Fuzzing of everything that reads bytes of strangers: `python -m tests.fuzz --help`.

    seeds (valid objects) -> mutation (elements, bytes) -> target (a reader of ours)
          -> one of our reasoned errors or a result, in bounded time and memory

`engine` runs a target, guided by coverage where atheris is installed; `wire` does the
same to a listening process over its socket. Inputs that once found a fault are kept in
`corpus`, one folder for each target, and are run by every test run.
"""
