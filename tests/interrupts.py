"""Ctrl-C at every moment of a short piece of work: ``python -m tests.interrupts NAME`` prints the moments that hang.

Python handles a signal after a call, at the begin of a function and at a backward jump. A process is forked for each of
these moments of the main thread; it must end, with its threads, as an interrupted process does.
"""

from __future__ import annotations

import dis
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from metaclip.engine import ProgressCallback
from metaclip.engine.local import Local
from metaclip.storage.threads import map_ordered

_SECONDS = 10
_CALLS = {number for name, number in dis.opmap.items() if name.startswith("CALL")}
_OTHERS = {dis.opmap[name] for name in ("RESUME", "JUMP_BACKWARD") if name in dis.opmap}


def _short(item: int, progress: ProgressCallback = lambda rows, through: None) -> int:
    time.sleep(0.0005)
    progress(1, 1)
    return item


WORK: dict[str, Callable[[], object]] = {
    "engine": lambda: list(Local(2).map(_short, range(5))),
    "in order": lambda: list(map_ordered(_short, range(6), 3)),
}


def interrupted(work: Callable[[], object], moment: int) -> bool:
    """Do the work, send SIGINT at a moment of this thread; return whether the moment came before the end."""
    passed = 0

    def every(frame: FrameType, event: str, argument: Any) -> Any:
        if not any(part in frame.f_code.co_filename for part in ("concurrent", "threading", "metaclip")):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        code, last = frame.f_code.co_code, -1

        def local(frame: FrameType, event: str, argument: Any) -> Any:
            nonlocal passed, last
            if event == "opcode":
                if (last >= 0 and code[last] in _CALLS) or code[frame.f_lasti] in _OTHERS:
                    passed += 1
                    if passed == moment:
                        sys.settrace(None)
                        signal.raise_signal(signal.SIGINT)
                last = frame.f_lasti
            return local

        return local

    sys.settrace(every)
    try:
        work()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(None)
    return passed >= moment


def ends(work: Callable[[], object], moment: int) -> int | None:
    """Return the exit code of a process that is interrupted at a moment: 1, or 0 if it was not; None if it hangs."""
    if (pid := os.fork()) == 0:
        code = 2
        try:
            code = int(interrupted(work, moment))
            threading._shutdown()  # type: ignore[attr-defined]  # as at the end of the interpreter: wait for threads
        finally:
            os._exit(code)
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


if __name__ == "__main__":
    number, wrong = 0, []
    while (ended := ends(WORK[sys.argv[1]], number := number + 1)) != 0:
        if ended != 1:
            wrong.append(number)
    print(f"{number - 1} moments, wrong: {wrong}")
    sys.exit(bool(wrong) or number < 100)
