"""Settings: read once, from the home's pasys.toml and the environment, with the unit in every name.

Sources, each overriding the one before: the defaults below; what `pasys up` recorded about the embedded servers
(run/endpoints.json); pasys.toml; the environment. A key that nobody reads is refused, wherever it stands.
"""

from __future__ import annotations

import getpass
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from pasys.brand import Brand
from pasys.errors import InvalidSettings, StackNotRunning
from pasys.money import LEDGER_DECIMALS_MAX, Asset, declare, is_currency

# The operator's own servers and keys carry the names that other tools use for them.
PLAIN_VARIABLES = {
    "DATABASE_URL": "database_url",
    "NATS_URL": "nats_url",
    "REDIS_URL": "redis_url",
    "STRIPE_API_KEY": "stripe_api_key",
    "STRIPE_API_BASE": "stripe_api_base",
    "STRIPE_WEBHOOK_SECRET": "stripe_webhook_secret",
}
_NOT_SETTINGS = {"PASYS_HOME", "PASYS_CONFIG", "PASYS_PG_BIN", "PASYS_NATS_BIN", "PASYS_VALKEY_BIN"}

_CODE = re.compile(r"[A-Z][A-Z0-9]{1,11}")  # it is a token of subjects, too
_APPROVAL_ABOVE = {"USD": "1000", "EUR": "1000", "GBP": "1000", "JPY": "150000", "KWD": "300"}


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    decimals: int
    name: str = ""
    chain: str | None = None
    contract: str | None = None
    chain_decimals: int | None = None


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    home: str
    database_url: str | None = None
    nats_url: str | None = None
    redis_url: str | None = None
    bus_prefix: str = ""
    redis_prefix: str = "pasys"
    stripe_api_key: str | None = None
    stripe_api_base: str | None = None
    stripe_webhook_secret: str | None = None
    webhook_url: str | None = None
    actor: str | None = None
    ports: dict[str, int] = {}
    assets: dict[str, Token] = {}
    copies: dict[str, int] = {}
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    batch_size: int = 200
    world_concurrency: int = 16
    ack_wait_s: float = 10.0
    deliveries_max: int = 12
    event_retention_s: int = 30 * 86_400
    event_overdue_s: float = 300.0
    psp_timeout_s: float = 10.0
    resolve_every_s: float = 2.0
    outcome_deadline_s: int = 86_400
    hold_ttl_s: int = 7 * 86_400
    fraud_when_down: Literal["hold", "allow", "review"] = "hold"
    fraud_grace_s: float = 30.0
    refund_approval_above: dict[str, str] = msgspec.field(default_factory=lambda: dict(_APPROVAL_ABOVE))
    checkpoint_every_s: int = 3_600
    signing_key_file: str | None = None
    backup_dir: str | None = None
    reconcile_every_s: int = 3_600
    reconcile_settle_s: int = 60
    dash: Brand = msgspec.field(default_factory=Brand)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.world_concurrency < 1 or self.ack_wait_s <= 0:
            raise ValueError("batch_size, world_concurrency and ack_wait_s are positive")
        for name in self.__struct_fields__:
            if name.endswith("_s") and not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} is a number of seconds, 0 or more")

    @property
    def home_path(self) -> Path:
        return Path(self.home)

    @property
    def backups_path(self) -> Path:
        """Where base backups and the archived journal lie: `backup_dir`, which may be relative to the home."""
        return self.home_path / (self.backup_dir or "backups")

    @property
    def who(self) -> str:
        """The actor that a write is recorded under: --actor, else the operating system's user."""
        return self.actor or _os_user()

    def require(self, name: str) -> str:
        """The address of a server. Raises StackNotRunning where none is configured or recorded."""
        value = getattr(self, name)
        if value is None:
            raise StackNotRunning(home=self.home)
        return value


def _os_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return f"uid:{os.getuid()}"


def default_home() -> Path:
    """PASYS_HOME, else the user data folder of the platform."""
    if home := os.environ.get("PASYS_HOME"):
        return Path(home).expanduser().absolute()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pasys"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "pasys"


def load(
    home: Path | None = None,
    *,
    actor: str | None = None,
    environ: Mapping[str, str] | None = None,
    recorded: bool = True,
) -> Settings:
    """The settings of a home; without `recorded`, only what the operator set. Raises InvalidSettings."""
    folder = (home or default_home()).absolute()
    values: dict[str, Any] = {}
    if recorded:
        values |= _recorded(folder / "run" / "endpoints.json")
    values |= _toml(folder / "pasys.toml")
    values |= _environment(os.environ if environ is None else environ)
    if actor:
        values["actor"] = actor
    values["home"] = str(folder)
    settings = _convert(values, str(folder / "pasys.toml"))
    for code, token in settings.assets.items():
        _declare(code, token)
    return settings


def _declare(code: str, token: Token) -> None:
    def refused(reason: str) -> InvalidSettings:
        return InvalidSettings(source=f"assets.{code}", reason=reason)

    if _CODE.fullmatch(code) is None:
        raise refused("a code is 2 to 12 capital letters and digits, beginning with a letter")
    if is_currency(code):
        raise refused("it is the code of an ISO 4217 currency")
    if not 0 <= token.decimals <= LEDGER_DECIMALS_MAX:
        raise refused(f"decimals is 0 to {LEDGER_DECIMALS_MAX}")
    if token.chain_decimals is not None and token.chain_decimals < token.decimals:
        raise refused("chain_decimals is at least decimals")
    declare(Asset(code, token.decimals, token.name, "token", token.chain, token.contract, token.chain_decimals))


def _recorded(path: Path) -> dict[str, Any]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise InvalidSettings(source=str(path), reason=str(error)) from None


def _toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidSettings(source=str(path), reason=str(error)) from None
    if "home" in values:
        raise InvalidSettings(source=str(path), reason="the home is where this file is; it has no setting `home`")
    _convert({**values, "home": str(path.parent)}, str(path))
    return values


def spoken(environ: Mapping[str, str]) -> list[str]:
    """The variables of an environment that say a setting, in the order of their names."""
    return sorted(
        variable
        for variable, text in environ.items()
        if (variable in PLAIN_VARIABLES and text)
        or (variable.startswith("PASYS_") and variable not in _NOT_SETTINGS and not variable.startswith("PASYS_TEST_"))
    )


def _environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = set(Settings.__struct_fields__)
    values: dict[str, Any] = {}
    for variable in spoken(environ):
        text = environ[variable]
        if variable in PLAIN_VARIABLES:
            values[PLAIN_VARIABLES[variable]] = text
            continue
        name = variable.removeprefix("PASYS_").lower()
        if name not in known:
            raise InvalidSettings(source="environment", reason=f"{variable} is not a setting")
        values[name] = _json(text, variable) if text[:1] in ("{", "[") else text
    return values


def _json(text: str, variable: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidSettings(source="environment", reason=f"{variable}: {error}") from None


def _convert(values: dict[str, Any], source: str) -> Settings:
    try:
        return msgspec.convert(values, Settings, strict=False)
    except (msgspec.ValidationError, ValueError) as error:
        raise InvalidSettings(source=source, reason=str(error)) from None
