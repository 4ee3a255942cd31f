"""Signs of life in a log: a line wherever nothing was printed for a while."""

import threading
import time
from collections.abc import Callable

from rich.console import Console, ConsoleRenderable, RenderHook

from kd_ray.cli.wording import duration, say

Clock = Callable[[], float]
SILENCE_S = 30.0


class Heartbeat(RenderHook):
    """Says what is being done after half a minute without a line on its console.

    It hears whatever is printed there. A terminal, which has a live display, gets nothing.
    """

    def __init__(
        self, console: Console, clock: Clock = time.monotonic, silence_s: float = SILENCE_S
    ) -> None:
        """Prints on `console` after `silence_s` seconds of `clock` without a line."""
        self._console = console
        self._clock = clock
        self._silence_s = silence_s
        self._printed = self._noted = clock()
        self._title, self._progress = "kd-ray", ""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="kd-ray-heartbeat", daemon=True)

    def start(self) -> None:
        """Begins to listen."""
        if not self._console.is_terminal:
            self._console.push_render_hook(self)
            self._thread.start()

    def stop(self) -> None:
        """Says no more."""
        if not self._console.is_terminal:
            self._ended.set()
            self._thread.join()
            self._console.pop_render_hook()

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        """Called by rich with all that is printed."""
        self._printed = self._clock()
        return renderables

    def note(self, title: str, progress: str = "") -> None:
        """Takes news that need no line of their own: what is at work, and how far it is."""
        self._title, self._progress, self._noted = title, progress, self._clock()

    def tick(self) -> None:
        """Prints the latest news if nothing was printed for long enough."""
        now = self._clock()
        if self._console.is_terminal or now - self._printed < self._silence_s:
            return
        without_news_s = now - self._noted
        words = self._progress
        if not words or without_news_s >= self._silence_s:
            words = f"still at work, {duration(without_news_s)} without news"
        say(self._console, f"{self._title}: {words}")

    def _beat(self) -> None:
        while not self._ended.wait(self._silence_s / SILENCE_S):
            self.tick()
