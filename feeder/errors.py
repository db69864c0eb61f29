"""Every way the feeder can stop, with the exit code that tells cron and Airflow which.

FeederError
├── SettingsWrong     1  a variable, a collection file, a table or a key that must be mended by hand
├── ImportRefused     2  the source holds what must not be taken over unseen (space probe, version)
│   └── BrakeOn          too many items would vanish in one pass
├── SourceDown        3  a source database does not answer; running again later resumes
├── ServiceDown       4  the vector service does not answer or cannot write; running again later resumes
├── AnotherFeeder     5  another feeder holds the lease on this collection
├── NotEqual          6  index and source differ, and nothing was changed (verify, --dry-run)
└── FeedLost          7  changes may have been missed; `sync` compares everything and starts anew by itself
"""

from __future__ import annotations


class FeederError(Exception):
    """Base. `str()` says what, which, expected, got, and what to do."""

    exit_code = 1


class SettingsWrong(FeederError):
    exit_code = 1


class ImportRefused(FeederError):
    exit_code = 2


class SourceDown(FeederError):
    exit_code = 3


class ServiceDown(FeederError):
    exit_code = 4


class BrakeOn(ImportRefused):
    """Too much would vanish in one pass: a wrong or half-read source looks just like that."""


class AnotherFeeder(FeederError):
    exit_code = 5


class NotEqual(FeederError):
    exit_code = 6


class FeedLost(FeederError):
    exit_code = 7
