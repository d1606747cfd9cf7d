"""Progress of long work on standard error: rows, rate and time left; silent if standard error is not a terminal."""

from __future__ import annotations

import sys
import threading
from typing import Any


class Progress:
    """A progress bar that counts rows from any number of threads; a context manager."""

    def __init__(
        self, verb: str, total: int | None, shown: bool | None = None, unit: str = "rows"
    ) -> None:
        """Set the total number of units (None: unknown); `shown` None shows the bar if standard error is a terminal."""
        self._verb, self._total, self._unit = verb, total, unit
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._lock, self._kept = threading.Lock(), 0
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

    def advance(self, rows: int, kept: int) -> None:
        """Add rows read, and rows matched or kept."""
        with self._lock:
            self._kept += kept
            if self._bar is not None:
                self._bar.update(rows)
                if self._kept:
                    self._bar.set_postfix_str(f"{self._kept:,} {self._word}", refresh=False)

    def show(self, line: str) -> None:
        """Print a line above the bar if a bar is shown."""
        if self._shown:
            self.note(line)

    def note(self, line: str) -> None:
        """Print a line on standard error, above the bar if a bar is shown."""
        with self._lock:
            if self._bar is not None:
                self._bar.write(line, file=sys.stderr)
            else:
                print(line, file=sys.stderr)

    def __exit__(self, *_: object) -> None:
        """Close the bar and leave it on the screen."""
        if self._bar is not None:
            self._bar.close()
