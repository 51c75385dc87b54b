"""Questions that come at once, answered together: one thread decodes them and calls the model."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import ConfigError, OneCycleError
from ..jobs.predict import TrainedModel
from ..training.sharing import considerate
from .answers import answer, as_json, top_of
from .questions import MEMORY, Question, RequestRefused, samples_of

DONE = Question(b"", "")
TOGETHER = 64  # questions that are taken at once, at most


@dataclass(eq=False)
class _Asked:
    """A question, where its answer goes, and what becomes of it on the way."""

    question: Question
    answer: Future[bytes] = field(default_factory=Future)
    top_k: int = 1
    samples: Tensor | None = None
    notes: list[str] = field(default_factory=list)

    def forget(self, _: object = None) -> None:
        """Let go of what was sent, of which nothing is needed any more, though the turn may be to come."""
        self.question, self.samples = DONE, None


class Batcher:
    """Answers questions by a model, in a thread of its own: those that wait are one batch, each with its own answer.

    The model must not be called from elsewhere meanwhile.
    """

    def __init__(self, trained: TrainedModel):
        self.trained = trained
        self._waiting: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="onecycle-answers", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self, seconds: float) -> None:
        """Answer nothing that is not begun, and wait so long for what is."""
        self._waiting.put(None)
        if self._thread.is_alive():
            self._thread.join(seconds)

    def ask(self, question: Question) -> Future[bytes]:
        """The answer to come, as JSON; or a `RequestRefused`. It can be cancelled until its turn comes."""
        asked = _Asked(question)
        asked.answer.add_done_callback(asked.forget)
        self._waiting.put(asked)
        return asked.answer

    def _work(self) -> None:
        with considerate():
            while (first := self._waiting.get()) is not None:
                together = [first]
                while len(together) < TOGETHER and not self._waiting.empty():
                    if (more := self._waiting.get()) is None:
                        return
                    together.append(more)
                turn = [asked for asked in together if asked.answer.set_running_or_notify_cancel()]
                try:
                    self._answer(turn)
                except Exception as error:  # whatever it is, the next ones are answered
                    for asked in turn:
                        if not asked.answer.done():
                            asked.answer.set_exception(refusal(error))

    def _answer(self, together: Sequence[_Asked]) -> None:
        """Decode the questions and predict for them, for all at once unless they take much memory."""
        ready: list[_Asked] = []
        for asked in together:
            self._decode(asked)
            if asked.samples is not None:
                ready.append(asked)
            if sum(one.samples.nbytes for one in ready if one.samples is not None) > MEMORY:
                self._predict_alike(ready)
                ready = []
        self._predict_alike(ready)

    def _decode(self, asked: _Asked) -> None:
        try:
            asked.top_k = top_of(self.trained, asked.question.top_k)
            asked.samples = samples_of(self.trained, asked.question, asked.notes.append)
        except Exception as error:
            asked.answer.set_exception(refusal(error))

    def _predict_alike(self, ready: Sequence[_Asked]) -> None:
        alike: dict[tuple[object, ...], list[_Asked]] = {}
        for asked in ready:
            if asked.samples is not None:
                alike.setdefault((asked.samples.dtype, *asked.samples.shape[1:]), []).append(asked)
        for group in alike.values():
            if len(group) == 1:
                self._predict_alone(group[0])
            else:
                self._predict(group)

    def _predict(self, group: Sequence[_Asked]) -> None:
        """Give each its part of the outputs for all; where that fails, each its own answer or error."""
        samples = [asked.samples for asked in group if asked.samples is not None]
        try:
            outputs = self.trained.of_samples(torch.cat(samples))
            for asked, part in zip(group, outputs.split([len(one) for one in samples]), strict=True):
                made = [answer(self.trained, one, asked.top_k) for one in part]
                asked.answer.set_result(as_json({"predictions": made, "notes": asked.notes}))
        except Exception:
            if len(group) == 1:
                raise
            for asked in group:
                if not asked.answer.done():
                    self._predict_alone(asked)

    def _predict_alone(self, asked: _Asked) -> None:
        try:
            self._predict([asked])
        except Exception as error:
            asked.answer.set_exception(refusal(error))


def refusal(error: Exception) -> RequestRefused:
    """An error of a question as its refusal: what is wrong with it in words, of anything else that it is our fault."""
    if isinstance(error, RequestRefused):
        return error
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return RequestRefused(503, "there is not enough memory for these samples: send fewer, or smaller ones")
    if isinstance(error, OneCycleError):
        return RequestRefused(400 if isinstance(error, ConfigError) else 422, str(error))
    print(f"error: a request failed: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
    return RequestRefused(500, "this failed for a reason that is not in the request; the service has printed it")
