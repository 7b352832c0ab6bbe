"""The kernel: ids that sort, settings that refuse what nobody reads, events that survive the wire, errors that say."""

from __future__ import annotations

import subprocess
import sys
import types
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import msgspec
import pytest

from pasys import config, errors, ids, money
from pasys.config import Settings
from pasys.domain import refund, transaction
from pasys.errors import InsufficientFunds, InvalidSettings, RefundTooLarge, StackNotRunning, UnreadableEvent
from pasys.events import CATALOG, Event, RefundRequested, TransactionCreated, decode, encode
from pasys.money import Money

# Ids -----------------------------------------------------------------------------------------------------------------


def test_ids_sort_by_time_and_never_repeat():
    """A hundred thousand ids of one process are in order and all different, however many share a millisecond."""
    drawn = [ids.new("tx") for _ in range(100_000)]
    assert drawn == sorted(drawn) and len(set(drawn)) == len(drawn)
    assert all(one.startswith("tx_") and len(one) == 29 and one == one.lower() for one in drawn)


def test_transfer_ids_are_uuids_of_version_7():
    """A transfer's id is a UUIDv7, in order, that carries the time at which it was made."""
    drawn = [ids.uuid7() for _ in range(1_000)]
    assert drawn == sorted(drawn) and {one.version for one in drawn} == {7}
    assert {one.variant for one in drawn} == {UUID(int=0x8 << 60).variant}
    assert abs((drawn[0].int >> 80) / 1_000 - datetime.now(UTC).timestamp()) < 60


def test_many_ids_of_a_kind_are_those_of_one_at_a_time():
    """Made together they have the same form, carry time and version of a UUIDv7, and stand in one order with others."""
    before, made, after = ids.new("tx"), ids.many("tx", 2_000), ids.new("tx")
    assert [before, *made, after] == sorted([before, *made, after]) and len(set(made)) == 2_000
    alphabet = "0123456789abcdefghjkmnpqrstvwxyz"
    for one in (before, *made):
        number = 0
        for character in one.removeprefix("tx_"):
            number = number * 32 + alphabet.index(character)
        drawn = UUID(int=number)
        assert len(one) == 29 and drawn.version == 7 and drawn.variant == UUID(int=0x8 << 60).variant
        assert abs((number >> 80) / 1_000 - datetime.now(UTC).timestamp()) < 60
    assert ids.many("tx", 0) == []


def test_many_ids_at_once_stand_in_the_same_order():
    """Ids made in bulk and one by one, in any mixture, are in the order of making, and are all of version 7."""
    drawn: list[UUID] = []
    for count in (1, 5_000, 0, 3, 20_000):  # more than a millisecond's count has room for
        drawn.append(ids.uuid7())
        made = ids.uuid7s(count)
        assert len(made) == 16 * count
        drawn += [UUID(bytes=made[at : at + 16]) for at in range(0, len(made), 16)]
    drawn.append(ids.uuid7())
    assert drawn == sorted(drawn) and len(set(drawn)) == len(drawn) == 25_010
    assert {one.version for one in drawn} == {7} and {one.variant for one in drawn} == {drawn[0].variant}
    assert abs((drawn[-1].int >> 80) / 1_000 - datetime.now(UTC).timestamp()) < 60
    tails = [one.int & (1 << 62) - 1 for one in drawn]
    assert len(set(tails)) == len(tails) and max(tails).bit_length() == 62, "the rest is random"


def test_account_numbers_sort_and_never_repeat():
    """Account numbers are in order, all different, and fit the ledger's 64-bit arrays."""
    drawn = [ids.new_account_number() for _ in range(100_000)]
    assert drawn == sorted(drawn) and len(set(drawn)) == len(drawn)
    assert all(0 < number < 2**63 for number in (drawn[0], drawn[-1]))


@pytest.mark.parametrize("number", [0, 1, 31, 32, 2**20, 2**62, 2**63 - 1])
def test_account_ids_come_back(number: int):
    """The public form of an account number leads back to it, and nothing else does."""
    public = ids.account_id(number)
    assert len(public) == 17 and ids.account_number(public) == number


@pytest.mark.parametrize(
    "text",
    ["", "acc_", "alice", "acc_alice", "tx_0000000000000", "acc_000000000000i", "acc_zzzzzzzzzzzzz",
     "ACC_0000000000000", "acc_00000000000000", "acc_0000000000000\n", "acc_000000000000A"],
)  # fmt: skip
def test_what_is_no_account_id_is_none(text: str):
    """A name is never read as a number: only acc_ and 13 characters of the alphabet, within 64 bits."""
    assert ids.account_number(text) is None


def test_the_earliest_id_of_a_time_bounds_it():
    """Ids made from a moment on are not below that moment's bound, and those made before are."""
    before = ids.new("tx")
    second = datetime.now(UTC).timestamp() * 1000
    assert ids.earliest("tx", int(second) - 60_000) < before < ids.earliest("tx", int(second) + 60_000)


def test_copies_of_a_process_draw_different_ids():
    """Processes that started at the same time do not meet."""
    code = "from pasys import ids; print(*[ids.new('tx') for _ in range(200)], *map(str, [ids.uuid7() for _ in 'ab']))"
    runs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    drawn = [word for run in runs for word in run.communicate(timeout=60)[0].split()]
    assert len(drawn) == 606 and len(set(drawn)) == 606


# Settings ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def declared() -> Iterator[None]:
    """Tokens that a test declares are forgotten after it."""
    known = dict(money._declared)
    yield
    money._declared.clear()
    money._declared.update(known)


def load(home: Path, toml: str = "", recorded: dict[str, Any] | None = None, **environ: str) -> Settings:
    (home / "pasys.toml").write_text(toml, encoding="utf-8")
    if recorded is not None:
        (home / "run").mkdir(exist_ok=True)
        (home / "run" / "endpoints.json").write_bytes(msgspec.json.encode(recorded))
    return config.load(home, environ=environ)


def test_an_empty_home_has_defaults(tmp_path: Path):
    """Without a file and without variables every setting has its default, and servers are asked for by name."""
    found = config.load(tmp_path, environ={})
    assert (found.batch_size, found.database_url, found.home_path) == (200, None, tmp_path)
    with pytest.raises(StackNotRunning):
        found.require("database_url")


def test_each_source_overrides_the_one_before(tmp_path: Path):
    """The environment overrides pasys.toml, which overrides what `pasys up` recorded."""
    recorded = {"database_url": "postgresql://recorded", "nats_url": "nats://recorded", "redis_url": "redis://recorded"}
    toml = 'nats_url = "nats://toml"\nredis_url = "redis://toml"\nbatch_size = 7'
    found = load(tmp_path, toml, recorded, REDIS_URL="redis://env", PASYS_WORLD_CONCURRENCY="9", PASYS_TEST_X="1")
    assert found.database_url == "postgresql://recorded"
    assert found.nats_url == "nats://toml"
    assert found.redis_url == "redis://env"
    assert (found.batch_size, found.world_concurrency) == (7, 9)


def test_an_operator_s_settings_can_be_read_without_the_recorded_ones(tmp_path: Path):
    """`pasys up` decides what to start from what the operator set, not from what it recorded itself."""
    load(tmp_path, "", {"nats_url": "nats://recorded"})
    assert config.load(tmp_path, environ={}, recorded=False).nats_url is None


def test_an_empty_variable_is_no_server(tmp_path: Path):
    """DATABASE_URL= in a shell means not set."""
    assert load(tmp_path, "", None, DATABASE_URL="").database_url is None


@pytest.mark.parametrize(
    ("toml", "names"),
    [
        ("bath_size = 1", "bath_size"),
        ("[assets.GOLD]\ndecimals = 3\ncolour = 'yellow'", "colour"),
        ("[ports]\npsp = 'high'", "ports"),
        ("batch_size = 'many'", "batch_size"),
        ("batch_size = 0", "batch_size"),
        ("ack_wait_s = 0", "ack_wait_s"),
        ("ack_wait_s = nan", "ack_wait_s"),
        ("hold_ttl_s = -1", "hold_ttl_s"),
        ("log_level = 'loud'", "log_level"),
        ("fraud_when_down = 'ignore'", "fraud_when_down"),
        ("home = '/elsewhere'", "home"),
        ("batch_size = ", "Invalid value"),
        ("[assets.GOLD]\ndecimals = 10", "decimals"),
        ("[assets.USD]\ndecimals = 9", "ISO 4217"),
        ("[assets.'a.b']\ndecimals = 2", "a.b"),
        ("[assets.WEI]\ndecimals = 9\nchain_decimals = 6", "chain_decimals"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named(tmp_path: Path, declared: None, toml: str, names: str):
    """What nobody reads, and what makes no sense, is refused with its place and its name; nothing is ignored."""
    with pytest.raises(InvalidSettings) as refused:
        load(tmp_path, toml)
    assert names in str(refused.value)
    assert "pasys.toml" in str(refused.value) or "assets." in str(refused.value)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("PASYS_BATHSIZE", "1"), ("PASYS_", "1"), ("PASYS_BATCH_SIZE", "many"), ("PASYS_BATCH_SIZE", ""),
     ("PASYS_PORTS", "{psp"), ("PASYS_ACK_WAIT_S", "-3"), ("PASYS_LOG_LEVEL", "loud")],
)  # fmt: skip
def test_a_wrong_variable_is_refused(tmp_path: Path, variable: str, value: str):
    """A PASYS_ variable that is no setting, or whose value is none, is refused; nothing is ignored."""
    with pytest.raises(InvalidSettings):
        load(tmp_path, "", None, **{variable: value})


def test_structured_settings_come_by_variable(tmp_path: Path):
    """A table is given as JSON, a number as its digits."""
    found = load(tmp_path, "", None, PASYS_PORTS='{"nats": 4222}', PASYS_HOLD_TTL_S="60", PASYS_COPIES='{"refund": 3}')
    assert (found.ports, found.hold_ttl_s, found.copies) == ({"nats": 4222}, 60, {"refund": 3})


def test_unreadable_files_are_named(tmp_path: Path):
    """A damaged endpoints.json and a pasys.toml that is no text end in the same named error."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "endpoints.json").write_text("{")
    with pytest.raises(InvalidSettings, match=r"endpoints\.json"):
        config.load(tmp_path, environ={})
    (tmp_path / "run" / "endpoints.json").unlink()
    (tmp_path / "pasys.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidSettings, match=r"pasys\.toml"):
        config.load(tmp_path, environ={})


def test_a_token_is_declared(tmp_path: Path, declared: None):
    """A token of pasys.toml is an asset like any other."""
    load(tmp_path, "[assets.CNGN]\ndecimals = 6\nchain_decimals = 6\nname = 'Naira'")
    assert money.parse("1.000001", "CNGN") == Money(1_000_001, "CNGN")


def test_the_actor_is_said_or_the_user(tmp_path: Path):
    """Who a write is recorded under: --actor, else the variable, else the operating system's user."""
    assert config.load(tmp_path, actor="ann", environ={"PASYS_ACTOR": "bob"}).who == "ann"
    assert config.load(tmp_path, environ={"PASYS_ACTOR": "bob"}).who == "bob"
    assert config.load(tmp_path, environ={}).who


# Events --------------------------------------------------------------------------------------------------------------

AT = datetime(2026, 7, 1, 12, 30, 0, 123456, tzinfo=UTC)
WORDS = 'tëxt "quoted" \\ \n'
VALUES: dict[Any, Any] = {str: WORDS, int: 2**62, float: 0.25, bool: True, datetime: AT, type(None): None}


def value(kind: Any, *, full: bool) -> Any:
    """A value of a type; of a union the first member, or None where it may be."""
    if get_origin(kind) in (Union, types.UnionType):
        members = get_args(kind)
        return value(members[0], full=full) if full or type(None) not in members else None
    if get_origin(kind) is list:
        return [value(get_args(kind)[0], full=full)] if full else []
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return instance(kind, full=full)
    return VALUES[kind]


def instance(kind: type[msgspec.Struct], *, full: bool) -> Any:
    """With every field given, or only with those that have no default."""
    hints = get_type_hints(kind)
    needed = {field.name for field in msgspec.structs.fields(kind) if full or field.required}
    return kind(**{name: value(hints[name], full=full) for name in needed})


def message(event: Event, **changed: Any) -> bytes:
    body = encode(event, id="evt_1", time=AT, correlation_id="tx_1", causation_id="evt_0", actor="ann")
    return msgspec.json.encode(msgspec.json.decode(body) | changed)


@pytest.mark.parametrize("full", [True, False], ids=["full", "bare"])
@pytest.mark.parametrize("subject", sorted(CATALOG))
def test_every_event_survives_the_wire(subject: str, full: bool):
    """Every fact of the catalogue comes back equal, with all of its fields or with the needed ones."""
    event = instance(CATALOG[subject], full=full)
    envelope, back = decode(
        encode(event, id="evt_1", time=AT, correlation_id="tx_1", causation_id="evt_0", actor="ann")
    )
    assert back == event and type(back) is CATALOG[subject]
    assert (envelope.id, envelope.subject, envelope.version, envelope.time) == ("evt_1", subject, event.version, AT)
    assert (envelope.correlation_id, envelope.causation_id, envelope.actor) == ("tx_1", "evt_0", "ann")


@pytest.mark.parametrize("subject", sorted(CATALOG))
def test_a_message_of_before_can_still_be_read(subject: str):
    """What a field with a default did not say yet, and what a later version says besides, reads as the default."""
    bare = instance(CATALOG[subject], full=False)
    optional = {field.name for field in msgspec.structs.fields(type(bare)) if not field.required}
    said = {name: held for name, held in msgspec.to_builtins(bare).items() if name not in optional}
    _, back = decode(message(bare, data=said | {"said_only_later": 1}))
    assert back == bare


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"subject": "transaction.teleported"}, "there is no event"),
        ({"version": 99}, "newer"),
        ({"data": {"asset": "USD"}}, "missing required field"),
        ({"data": {}}, "missing required field"),
        ({"data": None}, "Expected"),
        ({"time": "yesterday"}, "Invalid"),
        ({"id": 7}, "Expected"),
    ],
)
def test_what_no_version_has_written_is_unreadable(changed: dict[str, Any], reason: str):
    """An unknown subject, a newer version and a damaged body are named as such, with the subject that they came on."""
    body = message(instance(TransactionCreated, full=True), **changed)
    with pytest.raises(UnreadableEvent, match=reason) as refused:
        decode(body, subject="transaction.created.USD")
    assert refused.value.facts["subject"] == "transaction.created.USD"


NO_ENVELOPES = [b"", b"{", b"null", b"[]", b"hello", b"\xff\xfe\x00", bytes(range(255, 191, -1))]


@pytest.mark.parametrize("body", NO_ENVELOPES, ids=repr)
def test_garbage_is_unreadable(body: bytes):
    """Bytes that are no envelope are unreadable, not a crash."""
    with pytest.raises(UnreadableEvent):
        decode(body)


def test_the_catalogue_is_closed():
    """Every subject is a noun and a participle, of version 1 or more; its class says what is now true."""
    for subject, kind in CATALOG.items():
        noun, participle = subject.split(".")
        assert noun.isidentifier() and participle.isidentifier()
        assert kind.version >= 1 and (kind.__doc__ or "").rstrip().endswith("."), subject
        assert kind.__name__.lower().startswith(noun.replace("_", "")), f"{kind.__name__} is announced as {subject}"


def test_events_are_about_one_entity():
    """A refund's event is about the refund, and belongs to its transaction's story."""
    event = instance(RefundRequested, full=True)
    assert event.entity_id == event.refund_id
    with pytest.raises(AttributeError):
        event.refund_id = "rf_other"


# Errors --------------------------------------------------------------------------------------------------------------

LEAVES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.PasysError)]
CODES = {
    errors.Invalid: (2, 422),
    errors.NotFound: (3, 404),
    errors.Conflict: (4, 409),
    errors.NotAllowed: (5, 403),
    errors.Refused: (6, 422),
    errors.TimedOut: (8, 504),
    errors.Unavailable: (7, 503),
    errors.Integrity: (9, 500),
    errors.Broken: (1, 500),
}


@pytest.mark.parametrize("kind", LEAVES, ids=lambda kind: kind.__name__)
def test_the_family_decides_exit_code_and_status(kind: type[errors.PasysError]):
    """No error has an exit code or an HTTP status of its own: they are its family's."""
    for family, codes in CODES.items():
        if issubclass(kind, family):
            assert (kind.exit_code, kind.http_status) == codes
            return
    assert kind in (errors.PasysError, errors.Rejected)


def test_an_error_says_its_facts():
    """Code, sentence, advice and facts are there for people and for scripts."""
    no = RefundTooLarge(transaction_id="tx_1", refundable=Money(60, "USD"), asked=Money(100, "USD"))
    assert no.code == "refund_too_large"
    assert str(no) == "transaction tx_1 has 0.60 USD left to refund; 1.00 USD was asked"
    assert no.advice == "Ask for at most 0.60 USD."
    assert no.facts["asked"] == Money(100, "USD") and no.exit_code == 6


def test_an_error_without_its_facts_is_a_bug():
    """A sentence with a hole is never shown: the missing fact stops where the error is made."""
    with pytest.raises(KeyError):
        InsufficientFunds(account="alice")


# Closed lists --------------------------------------------------------------------------------------------------------


def test_statuses_are_closed_lists():
    """The words for what a transaction or refund can be are these, and no other is read as one of them."""
    assert {str(status) for status in transaction.Status} == {
        *("initialized", "pending", "succeeded", "failed", "fraud", "refunding", "cancelled", "refunded")
    }
    assert {str(kind) for kind in transaction.Kind} == {"payment", "transfer", "deposit", "withdrawal"}
    assert set(transaction.MOVES) == set(transaction.Status) and set(refund.MOVES) == set(refund.Status)
    for closed in (transaction.Status, transaction.Kind, refund.Status):
        with pytest.raises(ValueError, match="BANANA"):
            closed("BANANA")


def test_nothing_leaves_a_final_status():
    """A refunded transaction and a finished refund go nowhere; every other status leads somewhere."""
    assert {status for status, onward in transaction.MOVES.items() if not onward} == {transaction.Status.REFUNDED}
    assert {status for status, onward in refund.MOVES.items() if not onward} == refund.FINAL
