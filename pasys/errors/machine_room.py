"""What servers, disks, homes, messages and terminals can do to us."""

from __future__ import annotations

from pasys.errors.base import Broken, Conflict, Integrity, Invalid, NotFound, Refused, TimedOut, Unavailable


class StackNotRunning(Unavailable):
    says = "no pasys stack is running in {home}"
    fix = "Start it with `pasys up -d`, or set DATABASE_URL, NATS_URL and REDIS_URL."


class DatabaseUnavailable(Unavailable):
    says = "PostgreSQL did not answer: {reason}"
    fix = "`pasys doctor` names what is down."


class RequestUnderWay(DatabaseUnavailable):
    says = "another request is at the same key, account or journal, and did not end in time"
    fix = "Ask again: what this one had begun was undone."


class OutcomeUnknown(TimedOut):
    says = "PostgreSQL did not confirm: whether this was done is unknown ({reason})"
    fix = "Look whether it was before you repeat it; what had a --key may simply be repeated with the same."

    @property
    def advice(self) -> str:
        """Names the command that shows it, where the caller knew one."""
        look = self.facts.get("look")
        return f"Look before you repeat it: `{look}`." if look else self.fix


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


class DaemonsAtWork(Conflict):
    says = "daemons are at work on these books: {daemons}"
    fix = "Stop them all first, and ask again."


class BackupNotOurs(Refused):
    says = "DATABASE_URL names a PostgreSQL of your own, which pasys does not {verb}"
    fix = "Use pgBackRest, Barman or WAL-G there; the README says what to set."


class BackupFailed(Unavailable):
    says = "no backup was taken: {reason}"
    fix = "`pasys doctor` names what is wrong; what was begun is cleared away by the next backup."


class BackupDamaged(Integrity):
    says = "backup {backup} is damaged: {reason}"
    fix = "Take another with `pasys backup`, and look at the disk that held it."


class NoBackup(NotFound):
    says = "there is no backup in {folder}"
    fix = "`pasys backup` takes one; `backup_dir` in pasys.toml says where they lie."


class TimeOutOfReach(NotFound):
    says = "{to} cannot be restored: the backups reach from {first} to {last}"
    fix = "Choose a TIME in between; `pasys backup --list` shows what there is."


class TimeLeftBehind(Refused):
    says = "{to} lies in what was left behind at {at}, when the books went back to {back_to}"
    fix = "`--timeline {timeline}` restores from what was left behind; without it choose another TIME."


class ArchiveGap(Integrity):
    says = "the archive in {folder} lacks {missing}, which is needed behind backup {backup}"
    fix = "Bring that file back, or choose a TIME before the gap; then take a new backup."


class RestoreFailed(Unavailable):
    says = "nothing was restored: {reason}"
    fix = "`pasys logs` shows more, under `restoring` or `drill`. The data folder is as it was."


class RestoreUnfinished(Unavailable):
    says = "what was restored waits for its place until the archive in {folder} can be written: {reason}"
    fix = "Make room there, and make it writable; then `pasys up -d` ends the restore."


class ArchiveBehind(Unavailable):
    says = "the WAL has not reached the archive in {folder} since {since}, and is kept beside the data meanwhile"
    fix = "Make room there, and make it writable: until the disk of the data is full, payments go on. \
`pasys logs postgres` says what failed."


class ServiceNotFound(NotFound):
    says = "there is no service {name}"
    fix = "Known ones: {known}."


class DataTooNew(Refused):
    says = "the data in {path} were written by PostgreSQL {found}; {have} is installed"
    fix = "Install PostgreSQL {found} binaries, or dump and restore."


class SchemaOutdated(Unavailable):
    says = "the database schema is at {found}; this version needs {wanted}"
    fix = "`pasys migrate up` brings it up to date."


class RightsMissing(Broken):
    says = "PostgreSQL does not let this be done: {reason}"
    fix = "DATABASE_URL has to name the login that owns pasys's tables, or one that may work as pasys_app: \
the README says how."


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
