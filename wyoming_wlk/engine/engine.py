"""The engine's front: `await engine.step(request)`. Owns the one thread that touches the model.

A step that fails takes nobody with it: the rows of a failed pass are run again one by one, and only the one that fails
alone gets the error.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wyoming_wlk.engine import biasing
from wyoming_wlk.engine.checkpoint import load_checkpoint
from wyoming_wlk.engine.context import ClientOptions
from wyoming_wlk.engine.encoding import Encoded, Encoder
from wyoming_wlk.engine.hypothesis import Attempt, Row
from wyoming_wlk.engine.outcome import Interpreter, Quality
from wyoming_wlk.engine.policies import Policy
from wyoming_wlk.engine.policies.alignatt import AlignAtt
from wyoming_wlk.engine.policies.local_agreement import LocalAgreement
from wyoming_wlk.engine.request import StepKind, StepRequest, StepResult
from wyoming_wlk.engine.runner import MAX_WINDOW_SECONDS, DeviceSettings, Runner, release_memory
from wyoming_wlk.engine.scheduler import Scheduler
from wyoming_wlk.engine.statistics import EngineStatistics
from wyoming_wlk.errors import RequestError, WlkError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class DecodingSettings:
    """How the engine decodes, for all clients.

    `temperatures` are for finals: each is tried until the text is good. `turn_tokens` is the scheduler's.
    """

    temperatures: tuple[float, ...] = (0.0,)
    turn_tokens: int = 24


_IDLE_SECONDS = 2.0
_RELEASE_SECONDS = 10.0
"""So often memory that passes left behind goes back to the system while there is work: the C library would keep a
hundred megabytes and more, scattered among what is in use."""

_STOP_SECONDS = 2.0


class StepDropped(Exception):
    """The request was cancelled before it was done; its context is the caller's again."""


class StepFailed(WlkError):
    """The model failed on this request."""

    code = "engine"


class Engine:
    """One model shared by all clients. Made by `start`."""

    def __init__(self, runner: Runner, settings: DecodingSettings) -> None:
        self._runner, self._settings = runner, settings
        policies: dict[str, Policy] = {
            "alignatt": AlignAtt(),
            "localagreement": LocalAgreement(),
        }
        self._names = biasing.NameTrees(runner.tokenizer)
        self._interpreter = Interpreter(runner.tokenizer, policies, Quality())
        self._scheduler = Scheduler(runner.slots, settings.turn_tokens, runner.together_seconds)
        self._inbox: queue.SimpleQueue[_Asked | Encoded | None] = queue.SimpleQueue()
        self._encoder = Encoder(runner, self._inbox.put)
        self._replies: dict[Row, _Reply] = {}
        self._arrivals = 0
        self._released = time.monotonic()
        self.statistics = EngineStatistics(encoder=runner.encoding)
        self._thread = threading.current_thread()
        self._ending = threading.Lock()
        self._ended: Exception | None = None
        """Why there are no more steps; set under the lock, so that nobody is put into an inbox that nobody reads."""

    @classmethod
    def start(cls, load: Callable[[], Runner], settings: DecodingSettings) -> Engine:
        """Loads the model on a thread of its own and leaves it running there; blocking. Raises what `load` raises.

        Nothing of the model may ever run on another thread: each thread that does gets its own pool of OpenMP workers,
        and two pools on the same cores make every pass twice as slow.
        """
        made: queue.SimpleQueue[Engine | BaseException] = queue.SimpleQueue()

        def run() -> None:
            try:
                engine = cls(load(), settings)
            except BaseException as err:
                made.put(err)
                return
            release_memory()
            made.put(engine)
            engine._run()

        threading.Thread(target=run, name="engine", daemon=True).start()
        outcome = made.get()
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    @classmethod
    def load(cls, folder: Path, tokenizer: Path, device: DeviceSettings, decoding: DecodingSettings) -> Engine:
        """An engine for a model on the disk; blocking. Raises `ModelError`."""
        return cls.start(lambda: Runner.load(load_checkpoint(folder), tokenizer, device), decoding)

    # --- for clients, on the event loop -------------------------------------------------------------------------------

    @property
    def parked(self) -> int:
        """Rows that have been taken off the device in the middle of their decoding."""
        return self._scheduler.parked

    @property
    def languages(self) -> tuple[str, ...]:
        return self._runner.tokenizer.languages

    @property
    def max_window_seconds(self) -> float:
        return MAX_WINDOW_SECONDS

    def check(self, options: ClientOptions) -> None:
        """Raises `RequestError` for options that this model cannot serve."""
        if options.language != "auto" and options.language not in self.languages:
            raise RequestError(f"this model does not know the language {options.language!r}")
        if options.task == "translate" and not self._runner.tokenizer.multilingual:
            raise RequestError("this model knows English only and cannot translate")

    async def step(self, request: StepRequest) -> StepResult:
        """Runs one step. Setting `request.cancelled` drops it at the next pass.

        Raises `StepDropped` then, and `StepFailed` where the model fails or the engine has ended.
        """
        future: asyncio.Future[StepResult] = asyncio.get_running_loop().create_future()
        with self._ending:
            if self._ended is not None:
                raise self._ended
            self._inbox.put(_Asked(request, _Reply(future)))
        return await future

    def retire(self) -> None:
        """Ends the thread soon; steps in flight are dropped."""
        self._inbox.put(None)

    def stop(self) -> None:
        """Ends the thread and waits for it, for one pass of the model and not for ever."""
        self.retire()
        self._thread.join(timeout=_STOP_SECONDS)

    # --- the engine's thread ------------------------------------------------------------------------------------------

    def _run(self) -> None:
        error: Exception = StepDropped()
        later = StepFailed("the speech model has left the memory")  # who is dropped asks again, and must come to an end
        worked = False
        try:
            while self._receive(wait=not worked):
                self._drop_cancelled()
                worked = self._turn()
                if time.monotonic() - self._released > _RELEASE_SECONDS:
                    release_memory()
                    self._released = time.monotonic()
        except Exception:
            _LOG.critical("the engine has failed and takes no more requests", exc_info=True)
            error = later = StepFailed("the speech model has stopped working; the server must be restarted")
        self._encoder.stop()  # before anybody gets back a context that it reads
        with self._ending:
            self._ended = later
        for reply in [*self._replies.values(), *self._unread()]:
            reply.resolve(error)
        self._runner.unload()  # sessions that have ended may hold this engine for long, as may connections hold them

    def _unread(self) -> list[_Reply]:
        """Who still waits in the inbox."""
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                if isinstance(item := self._inbox.get_nowait(), _Asked):
                    found.append(item.reply)
        return found

    def _receive(self, wait: bool) -> bool:
        """Takes in what has come; `wait` where there is nothing else to do. False at the end."""
        while True:
            try:
                item = self._inbox.get(block=wait, timeout=_IDLE_SECONDS)
            except queue.Empty:
                if wait and not self._scheduler:
                    self._rest()
                return True
            wait = False
            if item is None:
                return False
            if isinstance(item, Encoded):
                self._begin(item)
            else:
                self._take(item)

    def _take(self, asked: _Asked) -> None:
        try:
            row = self._row(asked.request)
        except Exception as err:
            _LOG.exception("cannot take the request of %s", asked.request.client)
            asked.reply.resolve(StepFailed(f"the request could not be taken: {type(err).__name__}"))
            return
        self._replies[row] = asked.reply
        row.arrival = time.monotonic()
        self._scheduler.add(row)

    def _begin(self, encoded: Encoded) -> None:
        """Makes rows ready that come from the encoder, but for those that were cancelled meanwhile."""
        began = time.monotonic()
        self._encoder.take(encoded)
        self._drop_cancelled()
        wanted = [row for row in encoded.rows if row in self._replies]
        if encoded.error is not None:
            self._try_each(wanted, encoded.error)
        elif wanted:
            crosses = dict(zip(encoded.rows, encoded.crosses, strict=True))
            self._guarded(lambda rows: self._runner.begin(rows, [crosses[row] for row in rows]), wanted)
        self._settle()  # rows that had to be run alone are done
        self.statistics.decoder.add(time.monotonic() - began)

    def _rest(self) -> None:
        """Nothing to do: memory goes back to the system, then the next request is awaited."""
        release_memory()
        item = self._inbox.get()
        self._inbox.put(item)
        self._released = time.monotonic()  # nothing has been left behind since

    def _row(self, request: StepRequest) -> Row:
        final, context, options = request.kind is StepKind.FINAL, request.context, request.context.options
        self._arrivals += 1
        language = options.language if options.language != "auto" else context.language
        return Row(
            request,
            attempts=self._attempts(options) if final else (Attempt(),),
            names=self._names.tree(options.hotwords),
            sequence=self._arrivals,
            language=language or ("" if self._runner.tokenizer.multilingual else "en"),
        )

    def _attempts(self, options: ClientOptions) -> list[Attempt]:
        """How a final is decoded. One beam is enough where the model is sure, and costs little, having a draft; but
        names are found by more."""
        beams = max(options.beam_size, biasing.BEAMS) if options.hotwords else options.beam_size
        search = Attempt(min(beams, self._runner.slots))
        cold = [search] if options.hotwords or search == Attempt() else [Attempt(), search]
        attempts = [[Attempt(temperature=warmth)] if warmth else cold for warmth in self._settings.temperatures]
        return list(itertools.chain(*attempts))

    def _drop_cancelled(self) -> None:
        for row in self._scheduler.everyone():
            if row.request.cancelled and not row.encoding:  # the encoder still reads its context
                self._finish(row, StepDropped())

    def _turn(self) -> bool:
        """One pass: rows change places, newcomers go to the encoder, everybody on the device gets one token more.

        Whether there was anything to do; else something must come first, from a client or from the encoder.
        """
        plan = self._scheduler.plan(self._encoder.has_room)
        began = time.monotonic()
        for row in plan.start:
            self.statistics.queue.add(began - row.arrival)
        for row in plan.park:
            self._runner.park(row)
        for row in plan.restore:
            self._runner.restore(row)
        if plan.start:
            self._start(plan.start)
        if plan.advance:
            self._guarded(self._runner.advance, plan.advance)
            self.statistics.batch.add(len(plan.advance))
        self._settle()
        self.statistics.decoder.add(time.monotonic() - began)
        return bool(plan.park or plan.restore or plan.start or plan.advance)

    def _start(self, rows: Sequence[Row]) -> None:
        """Gives rows to the encoder, by way of the event loop: windows are theirs who speak, until their turn comes."""
        self._encoder.expect(rows)

        def fill() -> None:
            for row in rows:
                try:
                    row.request.fill()
                except Exception:  # the step hears what is there, and the others are not held up
                    _LOG.exception("cannot fill the window of %s", row.request.client)
            self._encoder.submit(rows)

        self._replies[rows[0]].call(fill)

    def _guarded(self, run: Callable[[Sequence[Row]], None], rows: Sequence[Row]) -> None:
        try:
            run(rows)
        except Exception as err:
            self._try_each(rows, err)

    def _try_each(self, rows: Sequence[Row], error: Exception) -> None:
        clients = ", ".join(row.request.client for row in rows)
        _LOG.error("a pass of the model failed for %s; trying each alone", clients, exc_info=error)
        for row in list(rows):
            self._run_alone(row)

    def _run_alone(self, row: Row) -> None:
        """Decodes a row from its beginning with nobody else in the batch."""
        try:
            self._runner.release(row)
            self._runner.start([row])
            while not row.done:
                self._runner.advance([row])
        except Exception as err:
            _LOG.exception("the model fails for %s", row.request.client)
            self._finish(row, StepFailed(f"the model failed on this audio: {type(err).__name__}"))

    def _settle(self) -> None:
        """Hands out the results of rows that are done."""
        for row in [row for row in self._scheduler.running if row.done]:
            try:
                if self._interpreter.wants_retry(row):
                    self._runner.retry(row)
                    continue
                if not row.final:
                    self._runner.keep(row)
                self._finish(row, self._interpreter.result(row))
            except Exception as err:
                _LOG.exception("cannot interpret the result for %s", row.request.client)
                self._finish(row, StepFailed(f"the result could not be read: {type(err).__name__}"))

    def _finish(self, row: Row, outcome: StepResult | Exception) -> None:
        self._scheduler.remove(row)
        self._runner.release(row)
        self._replies.pop(row).resolve(outcome)
        if isinstance(outcome, StepResult):
            self.statistics.step.add(time.monotonic() - row.arrival)


@dataclass(frozen=True)
class _Asked:
    request: StepRequest
    reply: _Reply


class _Reply:
    """Carries a result from the engine's thread to the loop that waits for it."""

    def __init__(self, future: asyncio.Future[StepResult]) -> None:
        self._future, self._loop = future, future.get_loop()

    def call(self, what: Callable[[], None]) -> None:
        """Calls `what` on the event loop; at once where there is none any more."""
        try:
            self._loop.call_soon_threadsafe(what)
        except RuntimeError:
            what()

    def resolve(self, outcome: StepResult | Exception) -> None:
        try:
            self._loop.call_soon_threadsafe(self._set, outcome)
        except RuntimeError:  # the loop is closed: nobody waits any more
            _LOG.debug("a result came after the event loop's end")

    def _set(self, outcome: StepResult | Exception) -> None:
        if self._future.done():
            return
        if isinstance(outcome, StepResult):
            self._future.set_result(outcome)
        else:
            self._future.set_exception(outcome)
