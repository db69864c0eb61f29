"""Every way the feeder can stop, with the exit code that tells cron and Airflow which.

FeederError
├── SettingsWrong     1  a variable, a collection file, a table or a right that somebody has to put right
├── ImportRefused     2  the source holds what must not be taken over unseen (space probe, version)
│   └── BrakeOn          too many items would vanish
├── SourceDown        3  a source database does not answer; running again later resumes
├── ServiceDown       4  the vector service does not answer or cannot write; running again later resumes
├── AnotherFeeder     5  another feeder holds the lease on this collection
├── NotEqual          6  index and source differ, and nothing was changed (verify, --dry-run)
└── FeedLost          7  changes may have been missed; `sync` compares everything and starts again by itself
"""

from __future__ import annotations


class FeederError(Exception):
    """Base of all errors of the feeder. `str()` says what is wrong: what, which, expected, got. `hint` says
    what helps: a command, a setting, or that nothing needs to be done."""

    exit_code = 1
    usual_hint = ""
    """What helps where the place that raises knows nothing better."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint or self.usual_hint


class SettingsWrong(FeederError):
    """Raised for a configuration that can't work: a variable, a key of COLLECTIONS_FILE, a table, a column, a
    right. Waiting does not help; correcting what the message names does."""

    exit_code = 1
    usual_hint = "Correct what is named; docs/FEEDER.md lists tables and rights, docs/SETTINGS.md variables."


class ImportRefused(FeederError):
    """Raised where vectors would be written that nothing proves, or of another embedding_version than is
    served. Nothing was written. `import` with vectors of the served model helps, or going back to the model
    that they are of."""

    exit_code = 2
    usual_hint = "Run `python -m feeder import` once the source holds vectors of the served model."


class SourceDown(FeederError):
    """Raised when a source database does not answer, is full, or breaks a connection, after all attempts.
    `sync` tries again by itself; other commands resume when they are run again."""

    exit_code = 3
    usual_hint = "Check that the database runs and can be reached; `sync` resumes by itself."


class ServiceDown(FeederError):
    """Raised when the vector service does not answer, can't write, or can't serve the collection. `sync`
    tries again by itself; other commands resume when they are run again."""

    exit_code = 4
    usual_hint = "Look at the service's /health; `sync` resumes by itself."


class BrakeOn(ImportRefused):
    """Raised before a write by which too many items would vanish: a wrong or half-read source looks just like
    that. If the source is right, `reconcile --force` helps."""

    usual_hint = "If the source is right, run `python -m feeder reconcile --force`."


class AnotherFeeder(FeederError):
    """Raised when the lease of the collection is taken. Stopping the other feeder helps; `sync` waits two
    minutes for a lease that it held before."""

    exit_code = 5
    usual_hint = "Stop the other feeder, or leave the collection to it."


class NotEqual(FeederError):
    """The outcome of `verify` where index and source differ: an exit code. `reconcile` repairs it."""

    exit_code = 6
    usual_hint = "Run `python -m feeder reconcile`, or let `sync` compare everything."


class FeedLost(FeederError):
    """Raised when a log, a slot or triggers no longer tell everything that changed. `sync` compares
    everything and starts again by itself."""

    exit_code = 7
    usual_hint = "Nothing needs to be done: `sync` compares everything and starts again."
