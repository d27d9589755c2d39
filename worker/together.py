"""Studies that advance together: what they ask of a network is scored in one pass.

An analysis is a generator: it yields what is to be scored and is sent the score. So
nobody but this module decides what shares a forward pass, and each study is judged,
held or failed by its own code, whoever was beside it.
"""

import time
from collections import defaultdict
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from worker.cascade import StageModel, StageScore, score_batch

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """An input (3, 64, 64) that a model is to score."""

    model: StageModel
    x: torch.Tensor


Steps = Generator[Request, StageScore, T]
"""An analysis that gives T in the end; what cannot be scored is thrown into it."""


def alone(steps: Steps[T]) -> T:
    """Run one analysis to its end, each crop in a forward pass of its own."""
    (ended,) = together([steps])
    if isinstance(ended, Exception):
        raise ended
    return ended


def together(studies: Iterable[Steps[T]]) -> list[T | Exception]:
    """Run many analyses to their end, as many crops in a forward pass as ask for it.

    Each runs to its first request before the next is taken from `studies`.

    Returns:
        What each gave, or the exception that it ended with, in their order: no fault
        of one touches another.
    """
    turns = [_Turn(steps) for steps in studies]
    while asking := [turn for turn in turns if turn.request is not None]:
        for turn, answer in _answered(asking):
            turn.go_on(answer)
    return [turn.outcome() for turn in turns]


def timed(steps: Steps[T]) -> Steps[tuple[T, float]]:
    """Run an analysis and say how many milliseconds of its own it took.

    Of a forward pass in company that is its share; the turns of others do not count.
    """
    started, spent = time.perf_counter(), 0.0
    try:
        request = next(steps)
        while True:
            spent += (time.perf_counter() - started) * 1000
            scored = yield request
            started, spent = time.perf_counter(), spent + scored.share_ms
            request = steps.send(scored)
    except StopIteration as done:
        return done.value, spent + (time.perf_counter() - started) * 1000


class _Turn(Generic[T]):
    """One analysis on its way: what it asks for now, or how it ended."""

    def __init__(self, steps: Steps[T]) -> None:
        self._steps = steps
        self._outcome: list[T | Exception] = []
        self.request: Request | None = None
        self.go_on(None)

    def go_on(self, answer: StageScore | Exception | None) -> None:
        """Let it have its answer, and run to its next request or to its end."""
        self.request = None
        try:
            self.request = self._advance(answer)
        except StopIteration as done:
            self._outcome.append(done.value)
        except Exception as error:  # noqa: BLE001 -- handed to whoever began it
            self._outcome.append(error)

    def _advance(self, answer: StageScore | Exception | None) -> Request:
        if answer is None:
            return next(self._steps)
        if isinstance(answer, Exception):
            return self._steps.throw(answer)
        return self._steps.send(answer)

    def outcome(self) -> T | Exception:
        (ended,) = self._outcome
        return ended


def _answered(
    asking: Sequence[_Turn[T]],
) -> Iterable[tuple[_Turn[T], StageScore | Exception]]:
    """Score what is asked for, in one pass for each model."""
    groups: dict[int, list[tuple[_Turn[T], Request]]] = defaultdict(list)
    for turn in asking:
        if turn.request is not None:
            groups[id(turn.request.model)].append((turn, turn.request))
    for group in groups.values():
        answers = _scores([request for _, request in group])
        yield from zip((turn for turn, _ in group), answers, strict=True)


def _scores(requests: Sequence[Request]) -> Sequence[StageScore | Exception]:
    """Score inputs of one model; where their pass fails, each has one of its own."""
    try:
        return score_batch(requests[0].model, [one.x for one in requests])
    except Exception as error:  # noqa: BLE001 -- thrown into the analysis that asked
        if len(requests) == 1:
            return [error]
    return [answer for one in requests for answer in _scores([one])]
