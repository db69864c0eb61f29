"""Every way the feeder can stop, with the exit code that tells cron and Airflow which.

FeederError
├── SettingsWrong     1  a variable, a collection file, a table or a key that must be mended by hand
├── ImportRefused     2  the source holds what must not be taken over unseen (space probe, brake, version)
├── SourceDown        3  a source database does not answer; running again later resumes
└── ServiceDown       4  the vector service does not answer or cannot write; running again later resumes
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
