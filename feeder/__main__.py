"""Bring what a shop's databases hold into the vector service, keep it there, and prove it.

Exit codes: 0 done, 1 usage or configuration, 2 refused (space probe, brake, version), 3 a source database is
down, 4 the service is down, 5 another feeder is at work, 6 index and source differ. After 3 and 4 run again:
an import resumes where it stopped.
"""

from __future__ import annotations

import argparse
import datetime
import logging
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence

from prometheus_client import start_http_server

from feeder.compare.report import NAMES_SHOWN, Report
from feeder.errors import FeederError, NotEqual, SettingsWrong
from feeder.follow.backoff import Backoff
from feeder.follow.comparison_job import ComparisonMode
from feeder.follow.supervisor import follow
from feeder.load.importer import ImportOptions
from feeder.settings import Settings
from feeder.sink.writer import service_errors
from feeder.sources.triggers.dirty_set import install, remove
from feeder.status import as_json as status_json
from feeder.status import as_text as status_text
from feeder.status import followed_apart, status_of
from feeder.telemetry.metrics import Metrics, process_registry
from feeder.telemetry.reporting import (
    PlainLines,
    ProgressBar,
    ProgressLog,
    Summary,
    as_json,
    as_table,
)
from feeder.wiring import NEXT, CollectionBuilder, client_of, names_of_next, quarantined_of, tables_of
from feeder.wiring_feeds import SourceBuilder
from log_lines.json_lines import JsonLines

log = logging.getLogger("feeder")

WAKE_S = 0.5


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """Wrong usage is exit code 1; 2 would read as a refusal."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, or that of the error that stopped it."""
    options = _parser().parse_args(arguments)
    _start_logging(options.log_json)
    try:
        settings = Settings.from_environ(os.environ)
        return _COMMANDS[options.command](settings, options)
    except FeederError as exc:
        _complain(exc, options.log_json)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130


def _import(settings: Settings, options: argparse.Namespace) -> int:
    """Import each collection; one that is refused does not keep the others out."""
    chosen = ImportOptions(
        embedding_version=options.embedding_version,
        trust_vectors=options.trust_vectors,
        accept_orphans=options.accept_orphans,
        restart=options.restart,
        once=options.once,
        dry_run=options.dry_run,
    )
    client = client_of(settings)
    code = 0
    try:
        for name in _names(settings, options):
            is_bar = sys.stderr.isatty() and not options.log_json
            progress = ProgressBar(sys.stderr) if is_bar else ProgressLog()
            if settings.collections[name].vectors is None:
                says = "nothing to import: `sync` or `reconcile` has its content embedded"
                _print(Summary(name, says, {}), options.log_json)
                continue
            try:
                builder = CollectionBuilder(settings, settings.collections[name], client)
                summary = builder.importer(progress, is_forced=options.force).run(chosen)
            except FeederError as exc:
                _complain(exc, options.log_json, name)
                code = code or exc.exit_code
                continue
            _print(summary, options.log_json)
    finally:
        client.close()
    return code


def _names(settings: Settings, options: argparse.Namespace, more: Collection[str] = ()) -> list[str]:
    """more: what may be named beside the collections."""
    names = options.collection or list(settings.collections)
    unknown = [name for name in names if name not in settings.collections and name not in more]
    if unknown or not names:
        known = ", ".join([*settings.collections, *sorted(more)]) or "none"
        raise SettingsWrong(
            f"no source tables for {', '.join(unknown) or 'any collection'}; there are: {known}",
            hint=_hint_of_name(settings, unknown[0] if unknown else ""),
        )
    return list(names)


def _hint_of_name(settings: Settings, name: str) -> str:
    if name in names_of_next(settings):
        return (
            "The service embeds the content of its next generation: `sync` follows it under the collection's "
            f"name, and `python -m feeder reconcile {name}` sends what it lacks."
        )
    base = name.removesuffix(NEXT)
    if base != name and base in settings.collections:
        return (
            f"Declare source.next of {base} in COLLECTIONS_FILE: the vectors of the next model. Then: "
            f"python -m feeder import {name}"
        )
    return "Name one of these, or add source tables to COLLECTIONS_FILE."


def _sync(settings: Settings, options: argparse.Namespace) -> int:
    """Follow every collection until SIGTERM or SIGINT, each in a thread of its own."""
    if options.dry_run:
        return _compare(settings, options)
    names = _names(settings, options)  # before anything of this process is changed
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    os.nice(settings.bounds.nice)  # a full comparison wants a whole core, and searches want it more
    registry = process_registry()
    metrics = Metrics(registry)
    if settings.bounds.metrics_port:
        start_http_server(settings.bounds.metrics_port, settings.metrics_host, registry)
    client = client_of(settings)
    codes: list[int] = []

    def follow_one(name: str) -> None:
        try:
            builder = CollectionBuilder(settings, settings.collections[name], client)
            tiers = builder.tier_log()
            backoff = Backoff(name, metrics, random.random, time.monotonic)
            follow(lambda: builder.follower(metrics, stop.wait, tiers), stop, backoff)
        except FeederError as exc:
            _complain(exc, options.log_json, name)
            codes.append(exc.exit_code)
        except Exception:
            log.exception("sync_failed", extra={"collection": name})
            codes.append(1)
            stop.set()  # a mistake of ours: end visibly, so that a supervisor restarts everything

    threads = [threading.Thread(target=follow_one, args=(name,), name=name) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        while thread.is_alive():
            # Not for ever: a signal that another thread takes is only seen when this one wakes.
            thread.join(WAKE_S)
    client.close()
    code = max(codes, default=0)
    log.info("sync_ended", extra={"exit_code": code})
    return code


def _compare(settings: Settings, options: argparse.Namespace) -> int:
    """`verify` changes nothing; `reconcile` repairs what differs, under the lease."""
    client = client_of(settings)
    code = 0
    try:
        for name in _names(settings, options, names_of_next(settings)):
            try:
                builder = CollectionBuilder(settings, tables_of(settings, name, client), client)
                report = builder.comparison_job(_mode(options)).run(_mode(options))
            except FeederError as exc:
                _complain(exc, options.log_json, name)
                code = code or exc.exit_code
                continue
            _print(_summary(report), options.log_json)
            code = code or (0 if report.is_equal else NotEqual.exit_code)
    finally:
        client.close()
    return code


def _mode(options: argparse.Namespace) -> ComparisonMode:
    if options.command == "verify" or options.dry_run:
        return "verify"
    return "force" if options.force else "repair"


def _summary(report: Report) -> Summary:
    found, left = report.found, report.left
    as_of = datetime.datetime.fromtimestamp(report.as_of_s, datetime.UTC).isoformat(timespec="seconds")
    counts: dict[str, int | float | str] = {
        "rows": report.rows,
        "missing": len(found.missing),
        "changed": len(found.changed),
        "extra": len(found.extra),
        "left": len(left.all_ids),
        "quarantined": len(report.quarantined),
        **report.skipped,
        "seconds": f"{report.seconds:.1f}",
        "reading": f"{report.read_seconds:.1f}",
    }
    names = {
        "missing": found.missing, "changed": found.changed, "extra": found.extra, "left": left.all_ids,
        "quarantined": list(report.quarantined),
    }  # fmt: skip
    notes = [f"root {report.root} of {report.embedding_version}"]
    notes += [f"{item_id}: {why}" for item_id, why in list(report.quarantined.items())[:NAMES_SHOWN]]
    but = f" except {len(report.quarantined):,} quarantined" if report.quarantined else ""
    outcome = f"equal{but} as of {as_of}" if report.is_equal else f"NOT equal as of {as_of}"
    shown = {reason: list(ids[:NAMES_SHOWN]) for reason, ids in names.items()}
    return Summary(report.collection, outcome, counts, notes, shown)


def _install(settings: Settings, options: argparse.Namespace) -> int:
    """Make or drop the triggers of each collection; needs the tables' owner."""
    for name in _names(settings, options):
        for target in SourceBuilder(settings, settings.collections[name]).trigger_targets(time.sleep):
            if options.command == "install-triggers":
                install(target.statements, target.watched)
            else:
                remove(target.statements, target.watched)
            target.statements.close()
            done = "installed" if options.command == "install-triggers" else "removed"
            _print(
                Summary(name, f"{done} the triggers on {'.'.join(target.watched.table)}", {}),
                options.log_json,
            )
    return 0


def _status(settings: Settings, options: argparse.Namespace) -> int:
    client = client_of(settings)
    try:
        with service_errors():
            states = client.status()
    finally:
        client.close()
    for state in states.values():
        quarantined = quarantined_of(settings, state.name, state.store)
        window_s = settings.bounds.brake_window_s
        told = [status_of(state, quarantined, window_s, time.time)]
        for role, other in followed_apart(state):
            apart = quarantined_of(settings, f"{state.name}.next", state.store)
            told.append(status_of(other, apart, window_s, time.time, role))
        for status in told:
            print(status_json(status) if options.json else status_text(status), flush=True)
    return 0


def _print(summary: Summary, is_json: bool) -> None:
    print(as_json(summary) if is_json else as_table(summary), flush=True)


def _complain(exc: FeederError, is_json: bool, collection: str = "") -> None:
    if is_json:
        extra = {"kind": type(exc).__name__, "detail": str(exc), "hint": exc.hint, "collection": collection}
        log.error("feeder_stopped", extra={**extra, "exit_code": exc.exit_code})
    else:
        hint = f"\n  {exc.hint}" if exc.hint else ""
        print(f"{type(exc).__name__}: {exc}{hint}", file=sys.stderr, flush=True)


def _start_logging(is_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if is_json else PlainLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    # It tells of connections that it makes again, from which it is kept.
    logging.getLogger("pymysqlreplication").setLevel(logging.ERROR)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m feeder", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    take = commands.add_parser(
        "import", help="take over the rows of pgvector tables; resumes where it stopped"
    )
    take.add_argument("collection", nargs="*", help="all that name source tables, when left out")
    take.add_argument("--dry-run", action="store_true", help="survey and prove, write nothing")
    take.add_argument(
        "--accept-orphans", action="store_true", help="leave out ids without an item, however many"
    )
    take.add_argument("--restart", action="store_true", help="begin at the first page again")
    take.add_argument("--once", action="store_true", help="do nothing where an import is finished already")
    take.add_argument("--force", action="store_true", help="let more vanish than FEEDER_BRAKE_PERCENT allows")
    take.add_argument("--embedding-version", help="refuse unless the vectors are of this version")
    take.add_argument(
        "--trust-vectors", action="store_true",
        help="no space probe: write under --embedding-version on your own word.\n"
        "Wrong vectors give wrong answers without an error; use it only for vectors whose origin you know.",
    )  # fmt: skip
    follow = commands.add_parser("sync", help="follow the sources until stopped; the best way each grants")
    repair = commands.add_parser("reconcile", help="compare everything once, and repair what differs")
    repair.add_argument(
        "--force", action="store_true", help="let more vanish than FEEDER_BRAKE_PERCENT allows"
    )
    for command in (follow, repair):
        command.add_argument(
            "--dry-run", action="store_true", help="print what would change (the same as verify)"
        )
    prove = commands.add_parser("verify", help="compare everything, change nothing, name what differs")
    prove.set_defaults(dry_run=True)
    add = commands.add_parser("install-triggers", help="let the source write down what changed (owner only)")
    drop = commands.add_parser("remove-triggers", help="undo install-triggers")
    for command in (follow, repair, prove, add, drop):
        command.add_argument("collection", nargs="*", help="all that name source tables, when left out")
    show = commands.add_parser("status", help="what the service holds, and where each source resumes")
    for command in (take, follow, repair, prove, add, drop):
        command.add_argument("--log-json", action="store_true", help="JSON lines, for machines")
    show.add_argument(
        "--json",
        "--log-json",
        dest="json",
        action="store_true",
        help="a JSON line a collection, for programs",
    )
    show.set_defaults(log_json=False)
    return parser


_COMMANDS: Mapping[str, Callable[[Settings, argparse.Namespace], int]] = {
    "import": _import,
    "sync": _sync,
    "reconcile": _compare,
    "verify": _compare,
    "install-triggers": _install,
    "remove-triggers": _install,
    "status": _status,
}


if __name__ == "__main__":
    os.umask(os.umask(0o027) | 0o027)  # what it remembers holds content of the sources
    sys.exit(main())
