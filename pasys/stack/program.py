"""The life of one forked program, from the first line after the fork to its exit code."""

from __future__ import annotations

import importlib
import json
import logging
import os
import random
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pasys.errors import PasysError
from pasys.stack import process


def live(request: dict[str, Any], *, home: Path, report: int, parent_pid: int, life: int) -> int:
    """Run the asked function; its exit code. Readiness and the reason of a failure are lines of JSON on `report`.

    `life` is the reading end of a pipe that closes when the parent ends: the fallback where the kernel tells nobody.
    """
    _detach(request, parent_pid=parent_pid, life=life)

    def tell(**line: object) -> None:
        os.write(report, json.dumps(line).encode() + b"\n")

    try:
        _call(request, home=home, ready=lambda: tell(ready=True))
        return 0
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    except PasysError as error:
        print(f"{error}. {error.advice}", file=sys.stderr)
        tell(error=str(error))
        return error.exit_code
    except BaseException as error:
        traceback.print_exc()
        tell(error="".join(traceback.format_exception_only(error)).strip()[-500:])
        return 1
    finally:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()


def _call(request: dict[str, Any], *, home: Path, ready: Callable[[], None]) -> None:
    from pasys import config

    module, _, function = request["target"].partition(":")
    called = getattr(importlib.import_module(module), function)
    arguments = list(request["args"]) + ([config.load(home)] if request["settings"] else [])
    called(*arguments, **({"ready": ready} if request["reports_ready"] else {}))


def _detach(request: dict[str, Any], *, parent_pid: int, life: int) -> None:
    """A session, a log, signals and randomness of its own, and no life after the parent's."""
    signal.set_wakeup_fd(-1)
    for caught in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(caught, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.setsid()
    if process.LINUX:
        process.die_with_parent(parent_pid, signal.SIGKILL)
    else:
        threading.Thread(target=_end_with, args=(life,), daemon=True).start()
    process.rename(f"pasys {request['name']}")
    log = os.open(request["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    random.seed()
    if numpy_random := sys.modules.get("numpy.random"):  # else it seeds itself where it is read first
        numpy_random.seed()


def _end_with(life: int) -> None:
    os.read(life, 1)
    os._exit(1)
