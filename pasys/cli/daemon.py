"""One daemon in the foreground, until SIGTERM: for systemd, Compose and Kubernetes."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pasys.cli.console import Noun, settings
from pasys.errors import InvalidInput, ServiceNotFound

if TYPE_CHECKING:
    from pasys.config import Settings

app = Noun("daemon", "One daemon in the foreground, for systemd, Compose and Kubernetes.")

FACE, SIMULATOR = "webhook", "simulator"


def names(incomplete: str) -> list[str]:
    """For completion: what the folder holds, without importing any of it."""
    folder = Path(__file__).parents[2] / "daemons"
    found = sorted({path.stem for path in folder.glob("[a-z]*.py")} | {FACE, SIMULATOR})
    return [name for name in found if name.startswith(incomplete)]


@app.command(
    "run",
    examples="pasys daemon run settlement\nDATABASE_URL=… NATS_URL=… REDIS_URL=… pasys daemon run ledger\n"
    "pasys daemon run simulator -- --host 0.0.0.0 --port 12111 --data /data",
)
def run(
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=names, help="A daemon, webhook, or simulator.")],
    words: Annotated[list[str] | None, typer.Argument(metavar="[-- OPTION…]", help="For the simulator only.")] = None,
) -> None:
    """Run one daemon until SIGTERM, then finish what is in hand. Its log goes to stderr.

    `webhook` receives the PSP's webhooks; `simulator` is the PSP that speaks Stripe's API. Run as many copies of the
    others as you like.
    """
    known = settings()
    if name == SIMULATOR:
        return _simulate(known, words or [])
    if words:
        raise InvalidInput(field="name", reason=f"{name} takes no options of its own")
    from pasys.worker import daemon_names, main

    if name == FACE:
        from daemons import webhook

        return webhook.main(known)
    if name.split("-")[0] not in daemon_names():
        raise ServiceNotFound(name=name, known=", ".join([*daemon_names(), FACE, SIMULATOR]))
    main(name, known)


def _simulate(known: Settings, words: list[str]) -> None:
    """Become the simulator, at the address that the settings give the PSP unless `words` say otherwise."""
    from urllib.parse import urlsplit

    base = urlsplit(known.stripe_api_base or "")
    folder = known.home_path / "data" / "psp"
    given = {
        "--data": str(folder),
        "--host": base.hostname,
        "--port": base.port and str(base.port),
        "--api-key": known.stripe_api_key,
        "--webhook-url": known.webhook_url,
        "--webhook-secret": known.webhook_url and known.stripe_webhook_secret,
    }
    folder.mkdir(parents=True, exist_ok=True)
    line = [word for option, value in given.items() if value for word in (option, value)]
    os.execv(sys.executable, [sys.executable, "-P", "-m", "pasys.simulator", *line, *words])
