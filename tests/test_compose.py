"""docker-compose.yml says nothing that is not so: names, commands, checks, volumes and images are those that exist."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml

from daemons import webhook
from pasys import config
from pasys.cli import tree
from pasys.cli.daemon import names as daemon_names
from pasys.db import Database
from pasys.simulator import __main__ as simulator
from pasys.stack import locate
from tests.simulator_process import free_port

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
HEAD = TEXT[: TEXT.index("\nname:")]
# https://github.com/compose-spec/compose-spec/blob/main/spec.md
TOP = {"name", "services", "volumes", "networks", "configs", "secrets", "include"}
OF_A_SERVICE = {
    "image", "build", "pull_policy", "restart", "stop_grace_period", "init", "environment", "depends_on", "command",
    "volumes", "healthcheck", "ports", "profiles",
}  # fmt: skip
CONDITIONS = {"service_started", "service_healthy", "service_completed_successfully"}
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?:(:?[-?])([^}]*))?\}")
GIVEN = {
    "POSTGRES_PASSWORD": "pw1", "NATS_PASSWORD": "pw2", "REDIS_PASSWORD": "pw3", "STRIPE_WEBHOOK_SECRET": "whsec_x",
}  # fmt: skip


def interpolated(text: str, given: dict[str, str]) -> str:
    """As Compose does it: `:-` for unset or empty, `-` for unset, `:?` refuses."""

    def value(found: re.Match[str]) -> str:
        name, operator, word = found.groups()
        if operator == "-":
            return given.get(name, word)
        if operator == ":-":
            return given.get(name) or word
        assert given.get(name), f"{name}: {word}"
        return given[name]

    return VARIABLE.sub(value, text)


def composed(**given: str) -> dict[str, Any]:
    return yaml.safe_load(interpolated(TEXT, GIVEN | given))


FILE = composed()
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"] == "pasys:local"}
every_service = pytest.mark.parametrize("name", SERVICES)
each_of_ours = pytest.mark.parametrize("name", OURS)


def test_its_keys_are_compose_s():
    """Nothing that Compose would refuse, and nothing that it would silently ignore."""
    assert {key for key in FILE if not key.startswith("x-")} <= TOP
    for name, service in SERVICES.items():
        assert service.keys() <= OF_A_SERVICE, name
        assert service.get("restart") in ("unless-stopped", "no"), name  # a bare `no` would be a boolean
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing is offered to the world unasked"


def test_what_has_to_be_set_is_said_at_its_head():
    """Every variable without a default is exported in the lines that one copies; none would disturb `pasys` outside."""
    used = VARIABLE.findall(TEXT)
    assert {name for name, operator, _ in used if operator == ":?"} == set(re.findall(r"([A-Z_]+)=[$\w]", HEAD))
    config.load(Path("/nowhere"), environ=GIVEN)
    assert not [name for name, *_ in used if name.startswith("PASYS_")], "it would be taken for a setting"
    for name in GIVEN:
        with pytest.raises(AssertionError):
            interpolated(TEXT, {key: value for key, value in GIVEN.items() if key != name})


@each_of_ours
def test_its_environment_is_made_of_settings(name: str):
    """Each variable is one that pasys reads, and the values are accepted."""
    environment = OURS[name]["environment"]
    known = config.PLAIN_VARIABLES.keys() | config._NOT_SETTINGS
    assert not {v for v in environment if not v.startswith("PASYS_")} - known
    settings = config.load(Path(environment["PASYS_HOME"]), environ=environment)
    for field, service, port in (
        ("database_url", "postgres", 5432),
        ("nats_url", "nats", 4222),
        ("redis_url", "redis", 6379),
    ):
        address = urlsplit(settings.require(field))
        assert (address.hostname, address.port) == (service, port) and service in SERVICES
    base = urlsplit(settings.stripe_api_base or "")
    words = SERVICES["simulator"]["command"]
    assert (base.hostname, str(base.port)) == ("simulator", words[words.index("--port") + 1])


def test_without_the_simulator_it_is_stripe_itself():
    """An empty base address, as the head says, leaves the SDK's own."""
    environment = composed(STRIPE_API_BASE="", STRIPE_API_KEY="sk_live_x")["services"]["settlement"]["environment"]
    settings = config.load(Path("/nowhere"), environ=environment)
    assert (settings.stripe_api_base, settings.stripe_api_key) == (None, "sk_live_x")


@each_of_ours
def test_its_command_is_in_the_tree(name: str):
    """The command line takes the words, and they name a daemon that there is."""
    words = OURS[name]["command"]
    command, rest = tree.tree(), list(words)
    while hasattr(command, "commands") or hasattr(command, "list_commands"):
        with command.make_context("pasys", [], resilient_parsing=True) as context:
            command = command.get_command(context, rest.pop(0))
        assert command is not None, words
    with command.make_context(name, rest) as context:
        given = context.params
    if words[:2] == ["daemon", "run"]:
        assert given["name"] in daemon_names("") and given["name"] == name
        if name == "simulator":
            options = simulator._options(given["words"])
            assert str(options.data) in {volume.partition(":")[2] for volume in OURS[name]["volumes"]}


def test_no_daemon_is_forgotten():
    """Whatever `pasys daemon run` knows has its container."""
    assert set(daemon_names("")) <= SERVICES.keys()


@every_service
def test_what_it_waits_for_can_come(name: str):
    """It waits for services that there are: healthy ones have a check, completed ones are not started again."""
    for other, how in SERVICES[name].get("depends_on", {}).items():
        assert how["condition"] in CONDITIONS
        if how["condition"] == "service_healthy":
            assert SERVICES[other]["healthcheck"]["test"][0] == "CMD"
        if how["condition"] == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no"
        assert name not in SERVICES[other].get("depends_on", {}), "each waits for the other"


def test_volumes_are_declared_and_used():
    """Whatever must outlive a container is in a volume, and Redis, where nothing true lives, has none."""
    mounted = {volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert mounted == set(FILE["volumes"]) == {"postgres", "nats", "simulator"}


def test_the_image_is_built_once_of_what_there_is():
    """One service builds what all of ours run, from files that exist, as a user that is not root."""
    assert [name for name, service in OURS.items() if "build" in service] == ["migrate"]
    assert {service["pull_policy"] for name, service in OURS.items() if name != "migrate"} == {"never"}
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line.strip()]
    copied = [word for words in lines if words[0] == "COPY" for word in words[1:-1]]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    for word in copied:
        assert (ROOT / word).exists() and f"!{word}" in ignored, word
    assert ["USER", "pasys"] in lines and ["ENTRYPOINT", '["pasys"]'] in lines


@contextlib.contextmanager
def started(words: list[str], url: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def until(look: Any, *errors: type[Exception]) -> Any:
    deadline = time.monotonic() + 10
    while True:
        try:
            return look()
        except errors:
            assert time.monotonic() < deadline, "it did not answer"
            time.sleep(0.05)


def test_nats_takes_these_words_and_answers_its_check(tmp_path: Path):
    """The real server, started as Compose would: JetStream is on, a password is asked for, the check's path answers."""
    port, monitor = free_port(), free_port()
    words = [str(word) for word in SERVICES["nats"]["command"]]
    (mount,) = SERVICES["nats"]["volumes"]
    words = [str(tmp_path) if word == mount.partition(":")[2] else word for word in words]
    check = urlsplit(SERVICES["nats"]["healthcheck"]["test"][-1])
    assert str(check.port) == words[words.index("--http_port") + 1]
    words = [str(monitor) if word == str(check.port) else word for word in words]
    with started([str(locate.nats()), *words, "--addr", "127.0.0.1", "--port", str(port)]):
        url = f"http://127.0.0.1:{monitor}{check.path}?{check.query}"
        answer = until(lambda: urllib.request.urlopen(url, timeout=2).read(), urllib.error.URLError, OSError)
        assert b'"ok"' in answer
        varz = urllib.request.urlopen(f"http://127.0.0.1:{monitor}/varz", timeout=2).read()
        assert b'"auth_required": true' in varz and str(tmp_path).encode() in varz


def test_valkey_takes_these_words_and_answers_its_check():
    """The real server, started as Compose would: it asks for the password, and keeps nothing on disk."""
    port = free_port()
    program, *words = (str(word) for word in SERVICES["redis"]["command"])
    assert program == "valkey-server" and SERVICES["redis"]["healthcheck"]["test"] == ["CMD", "valkey-cli", "ping"]
    with started([str(locate.valkey()), *words, "--bind", "127.0.0.1", "--port", str(port)]):
        client = redis.Redis(port=port, password=SERVICES["redis"]["environment"]["REDISCLI_AUTH"])
        assert until(client.ping, redis.ConnectionError)
        assert client.config_get("save")["save"] == "" and client.config_get("appendonly")["appendonly"] == "no"
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()


async def test_our_own_checks_ask_what_is_there(settings, db: Database):
    """The paths that Compose asks the webhook and the simulator for are answered by them with 200."""
    said: list[int] = []

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            said.append(message["status"])

    async def receive() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": False}

    app = webhook.Webhooks(settings, db)
    path = urlsplit(_asked("webhook")).path
    await app({"type": "http", "method": "GET", "path": path, "headers": []}, receive, send)
    assert said == [200]
    words = SERVICES["simulator"]["command"]
    assert urlsplit(_asked("simulator")).port == int(words[words.index("--port") + 1])
    assert urlsplit(_asked("simulator")).path == "/health"
    assert urlsplit(_asked("webhook")).port == urlsplit(SERVICES["webhook"]["environment"]["PASYS_WEBHOOK_URL"]).port


def _asked(name: str) -> str:
    found = re.search(r"http://[^']+", SERVICES[name]["healthcheck"]["test"][-1])
    assert found is not None
    return found[0]
