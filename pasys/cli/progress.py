"""What `pasys up` shows while it waits, on stderr: a live table on a terminal, else a line for each change."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pasys.stack.state import ServiceState

_STYLES = {"ready": "green", "external": "green", "starting": "yellow", "stopping": "yellow", "backoff": "yellow"}


class Progress:
    """Called with the services on every change."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._live: Any = None
        self._said: dict[str, str] = {}
        self._quiet = quiet

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self._quiet:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave the terminal alone for a while."""
        if self._live is not None:
            self._live.stop()
        yield
        if self._live is not None:
            self._live.start()

    def __call__(self, services: list[ServiceState]) -> None:
        if self._live is not None:
            self._live.update(_table(services), refresh=True)
        elif not self._quiet:
            was_ready = not self._said and all(service.healthy for service in services)
            for service in services:
                if service.state not in ("starting", "stopped") and not was_ready:
                    self._tell(service)
                self._said[service.name] = service.state

    def _tell(self, service: ServiceState) -> None:
        if self._said.get(service.name) != service.state:
            said = f": {service.last_error}" if service.last_error else ""
            print(f"{service.name} {service.state}{said}", file=sys.stderr)


def _table(services: list[ServiceState]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("name", "kind", "state", "pid", "last error"):
        table.add_column(column)
    for service in services:
        state = Text(service.state, style=_STYLES.get(service.state, "red"))
        pid = "" if service.pid is None else str(service.pid)
        table.add_row(service.name, service.kind, state, pid, "" if service.healthy else service.last_error or "")
    return table
