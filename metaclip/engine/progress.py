"""Progress of long work on standard error: rows, rate, time left; silent where that is not a terminal."""

from __future__ import annotations

import sys
import threading
from typing import Any


def say(line: str, shown: bool | None = None) -> None:
    """Say on standard error what takes a while before rows can be counted; `shown` as in `Progress`."""
    if sys.stderr.isatty() if shown is None else shown:
        print(line, file=sys.stderr, flush=True)


class Progress:
    """Counts rows from any number of threads."""

    def __init__(self, verb: str, total: int | None, shown: bool | None = None, unit: str = "rows") -> None:
        """Count up to `total` units (None: unknown); `shown` None shows the bar if standard error is a terminal."""
        self._verb, self._total, self._unit = verb, total, unit
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._lock, self._through = threading.Lock(), 0
        self._word = "matched" if verb == "match" else "kept"
        self._bar: Any = None

    def __enter__(self) -> Progress:
        """Show the bar."""
        if self._shown:
            from tqdm import tqdm

            self._bar = tqdm(
                desc=self._verb,
                total=self._total,
                unit=f" {self._unit}",
                unit_scale=True,
                smoothing=0.1,
                file=sys.stderr,
            )
        return self

    def advance(self, rows: int, through: int) -> None:
        """Count rows read, and rows that came through (matched, or kept)."""
        with self._lock:
            self._through += through
            if self._bar is not None:
                self._bar.update(rows)
                if self._through:
                    self._bar.set_postfix_str(f"{self._through:,} {self._word}", refresh=False)

    def show(self, line: str) -> None:
        """Print a line above the bar, if a bar is shown."""
        if self._shown:
            self.note(line)

    def note(self, line: str) -> None:
        """Say something on a line of its own, on standard error."""
        with self._lock:
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
