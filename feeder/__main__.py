"""`python -m feeder import|status`: bring what a shop's databases hold into the vector service.

Exit codes: 0 done, 1 usage or configuration, 2 refused (space probe, brake, version), 3 a source database is
down, 4 the service is down. After 3 and 4 run again: an import goes on where it stopped.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from feeder.applying import service_errors
from feeder.errors import FeederError, SettingsWrong
from feeder.importing import Options
from feeder.reporting import JsonLines, PlainLines, ProgressBar, ProgressLog, Summary, as_json, as_table
from feeder.settings import Settings
from feeder.wiring import client_of, importer_of

log = logging.getLogger("feeder")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        """Wrong usage is exit code 1; 2 would read as a refusal."""
        self.print_usage(sys.stderr)
        self.exit(1, f"{self.prog}: {message}\n")


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    _start_logging(options.log_json)
    try:
        settings = Settings.from_environ(os.environ)
        run = {"import": _import, "status": _status}[options.command]
        return run(settings, options)
    except FeederError as exc:
        _complain(exc, options.log_json)
        return exc.exit_code
    except KeyboardInterrupt:
        return 130


def _import(settings: Settings, options: argparse.Namespace) -> int:
    """Import each collection; one that is refused does not keep the others out."""
    names = options.collection or list(settings.collections)
    unknown = [name for name in names if name not in settings.collections]
    if unknown or not names:
        known = ", ".join(settings.collections) or "none"
        raise SettingsWrong(
            f"no source tables for {', '.join(unknown) or 'any collection'}; there are: {known}"
        )
    chosen = Options(
        embedding_version=options.embedding_version,
        trust_vectors=options.trust_vectors,
        accept_orphans=options.accept_orphans,
        restart=options.restart,
        dry_run=options.dry_run,
    )
    client = client_of(settings)
    code = 0
    try:
        for name in names:
            is_bar = sys.stderr.isatty() and not options.log_json
            progress = ProgressBar(sys.stderr) if is_bar else ProgressLog()
            try:
                summary = importer_of(settings, settings.collections[name], client, progress).run(chosen)
            except FeederError as exc:
                _complain(exc, options.log_json, name)
                code = code or exc.exit_code
                continue
            _print(summary, options.log_json)
    finally:
        client.close()
    return code


def _status(settings: Settings, options: argparse.Namespace) -> int:
    client = client_of(settings)
    try:
        with service_errors():
            states = client.status()
    finally:
        client.close()
    for state in states.values():
        counts: dict[str, int | float | str] = {"seq": state.seq, **state.cursors}
        _print(Summary(state.name, f"serves {state.version or 'nothing yet'}", counts), options.log_json)
    return 0


def _print(summary: Summary, is_json: bool) -> None:
    print(as_json(summary) if is_json else as_table(summary), flush=True)


def _complain(exc: FeederError, is_json: bool, collection: str = "") -> None:
    if is_json:
        extra = {"kind": type(exc).__name__, "detail": str(exc), "collection": collection}
        log.error("feeder_stopped", extra={**extra, "exit_code": exc.exit_code})
    else:
        print(f"{type(exc).__name__}: {exc}", file=sys.stderr, flush=True)


def _start_logging(is_json: bool) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if is_json else PlainLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m feeder", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    take = commands.add_parser(
        "import", help="take over the rows of pgvector tables; goes on where it stopped"
    )
    take.add_argument("collection", nargs="*", help="all that name source tables, when left out")
    take.add_argument("--dry-run", action="store_true", help="survey and prove, write nothing")
    take.add_argument(
        "--accept-orphans", action="store_true", help="leave out ids without an item, however many"
    )
    take.add_argument("--restart", action="store_true", help="begin at the first page again")
    take.add_argument("--embedding-version", help="refuse unless the vectors are of this version")
    take.add_argument(
        "--trust-vectors", action="store_true",
        help="no space probe: write under --embedding-version on your own word.\n"
        "Wrong vectors give wrong answers without an error; use it only for vectors whose origin you know.",
    )  # fmt: skip
    show = commands.add_parser("status", help="what the service holds, and where each source resumes")
    for command in (take, show):
        command.add_argument("--log-json", action="store_true", help="JSON lines, for machines")
    return parser


if __name__ == "__main__":
    sys.exit(main())
