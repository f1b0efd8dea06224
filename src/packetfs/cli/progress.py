"""How far an operation is, shown honestly: "counting" until the total is known, never backwards, no promise too early.

`Estimate` is pure arithmetic; the meters show it on a terminal, as plain lines, or as JSON lines.
"""

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

from msgspec import structs

from packetfs.cli.names import shown
from packetfs.cli.quantities import amount, bytes_text, duration
from packetfs.events import Progress

if TYPE_CHECKING:
    from packetfs.cli.census import Census
    from packetfs.cli.output import Output

TERMINAL_AFTER_S: Final = 0.3  # most commands are done by then and never pay for a display (rich: 50 ms)
LINE_AFTER_S: Final = 5.0
LINE_EVERY_S: Final = 15.0  # a log that is read later wants few lines
JSON_EVERY_S: Final = 0.5
CENSUS_AFTER_S: Final = 2.0  # what takes less needs no estimate, and is spared a second walk

_RATE_WINDOW_S: Final = 8.0  # older than this counts e times less: long enough for a slow disk's stutter
_PROMISE_AFTER_S: Final = 1.5
_SLACK: Final = 1.2  # an estimate that is this much worse than the one shown is told; below it the clock just runs


class Estimate:
    """What share is done and how long the rest takes.

    The share never falls. The remaining time runs down; it rises only when the pace has really dropped (by a fifth),
    because then going on counting would be a lie.
    """

    def __init__(self, now: float) -> None:
        self._begin = now
        self._last = now
        self._done = 0
        self._rate = 0.0
        self._weight = 0.0
        self._until: float | None = None
        self.share: float | None = None
        self.remaining_s: float | None = None

    def update(self, now: float, done: int, total: int | None) -> None:
        """Take in that `done` of `total` is done at `now` (any clock that only grows)."""
        from math import exp

        done = max(done, self._done)
        step = now - self._last
        if step >= 0.001:  # less is noise, and two reports at one instant say nothing about pace
            fade = exp(-step / _RATE_WINDOW_S)
            self._rate = self._rate * fade + (done - self._done) / step * (1 - fade)
            self._weight = self._weight * fade + (1 - fade)
            self._last, self._done = now, done
        if not total:
            return
        self.share = max(self.share or 0.0, min(done / total, 1.0))
        elapsed = now - self._begin
        if self._weight == 0 or elapsed < _PROMISE_AFTER_S or self.share < 0.01:
            return
        # The mean of the recent and of the whole pace: the first alone jumps about, the second is slow to notice.
        pace = (self._rate / self._weight + done / elapsed) / 2
        if pace <= 0:
            return
        until = now + max(total - done, 0) / pace
        late = self._until is not None and until - now > _SLACK * max(self._until - now, 1.0)
        if self._until is None or until < self._until or late:
            self._until = until
        self.remaining_s = max(self._until - now, 0.0)


class Meter:
    """Takes progress and shows nothing: the base of the others, and what -q gets."""

    def __init__(self, output: "Output", verb: str, census: "Census | None" = None) -> None:
        self._output = output
        self._verb = verb
        self._census = census
        self._begin = time.monotonic()
        self._estimate = Estimate(self._begin)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __call__(self, progress: Progress) -> None:
        """Take in one report; cheap when it is not yet time to show it."""

    def _with_total(self, progress: Progress) -> Progress:
        """`progress` with the totals of the census, which begins when the operation proves to be a long one."""
        if self._census is None or time.monotonic() - self._begin < CENSUS_AFTER_S:
            return progress
        total = self._census.total()
        if total is None:
            return progress
        return structs.replace(progress, files_total=total[0], bytes_total=total[1])

    @property
    def elapsed_s(self) -> float:
        """Seconds since the operation began."""
        return time.monotonic() - self._begin

    def say(self, text: str) -> bool:
        """Show `text` above a moving line, if there is one; whether that was done."""
        del text
        return False

    def close(self) -> None:
        """Remove what moves; end what runs beside."""
        if self._census is not None:
            self._census.stop()


class JsonMeter(Meter):
    """A `progress` line twice a second."""

    _shown_at = float("-inf")

    def __call__(self, progress: Progress) -> None:
        """Print it if the last one is old enough."""
        now = time.monotonic()
        if now - self._shown_at >= JSON_EVERY_S:
            self._shown_at = now
            self._output.event(self._with_total(progress))


class LineMeter(Meter):
    """A plain line now and then, for logs and pipes."""

    def __init__(self, output: "Output", verb: str, census: "Census | None" = None) -> None:
        super().__init__(output, verb, census)
        self._next = self._begin + LINE_AFTER_S

    def __call__(self, progress: Progress) -> None:
        """Print it if the last one is old enough."""
        now = time.monotonic()
        progress = self._with_total(progress)
        done, total = _measure(progress)
        self._estimate.update(now, done, total)
        if now >= self._next:
            self._next = now + LINE_EVERY_S
            self._output.line(f"{self._verb}: {_text(progress, self._estimate)}")


class TerminalMeter(Meter):
    """A moving line at the bottom of a terminal."""

    def __init__(self, output: "Output", verb: str, census: "Census | None" = None) -> None:
        super().__init__(output, verb, census)
        self._live: Any = None

    def __call__(self, progress: Progress) -> None:
        """Show it, once the operation has lasted long enough to need it."""
        now = time.monotonic()
        progress = self._with_total(progress)
        done, total = _measure(progress)
        self._estimate.update(now, done, total)
        if now - self._begin < TERMINAL_AFTER_S:
            return
        if self._live is None:
            self._live = _Display(self._verb)
        self._live.show(progress, self._estimate)

    def say(self, text: str) -> bool:
        """Show `text` above the line."""
        if self._live is None:
            return False
        self._live.say(text)
        return True

    def close(self) -> None:
        """Take the line away."""
        super().close()
        if self._live is not None:
            self._live.close()
            self._live = None


class _Display:
    """The one user of rich."""

    def __init__(self, verb: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[words]}", markup=False),
            console=self._console,
            auto_refresh=False,  # refreshed by the reports themselves: no thread to fight with
            transient=True,
        )
        self._task = self._bars.add_task(verb, total=None, words="counting")
        self._shown_at = float("-inf")

    def show(self, progress: Progress, estimate: Estimate) -> None:
        now = time.monotonic()
        if now - self._shown_at < 0.1:
            return
        self._shown_at = now
        share = estimate.share
        self._bars.update(
            self._task,
            total=None if share is None else 1000,
            completed=0 if share is None else int(share * 1000),
            words=_text(progress, estimate),
        )
        self._bars.start()  # once; before the first report there is nothing to show
        self._bars.refresh()

    def say(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self._bars.stop()


def _measure(progress: Progress) -> tuple[int, int | None]:
    """What the share is counted in: bytes and files, so that neither a large file nor many small ones stall it.

    A file weighs as much as 64 KiB: about what opening and naming it costs.
    """
    done = progress.bytes + (progress.files << 16)
    if progress.bytes_total is None or (progress.files and progress.files_total is None):
        return done, None
    return done, progress.bytes_total + ((progress.files_total or 0) << 16)


def _text(progress: Progress, estimate: Estimate) -> str:
    parts = [amount(progress.files, "name" if progress.phase == "writing" else "file")] if progress.files else []
    parts.append(bytes_text(progress.bytes))
    if progress.new_bytes:
        parts.append(f"{bytes_text(progress.new_bytes)} new")
    if estimate.share is None:
        parts.append("counting")
    else:
        parts.append(f"{int(estimate.share * 100)} %")
        if estimate.remaining_s is not None:
            parts.append(f"{duration(estimate.remaining_s)} left")
    if progress.path:
        parts.append(shown(bytes(progress.path)[-60:]))
    return ", ".join(parts)
