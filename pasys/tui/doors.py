"""What the face that starts the dashboard lends to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pasys.config import Settings


@dataclass(frozen=True, slots=True)
class Doors:
    """What the face that starts the dashboard lends to it: settings, the stack's picture, how people write times."""

    load: Callable[[], Settings]
    look: Callable[[Settings], dict[str, Any]]
    moment: Callable[[str], datetime]
