"""`python -m service rebuild|jobs|report|promote|rollback|abort|retire`: those on call change a model, and
`evaluate`: see how good answers are.

Speaks to the running service as any other caller would. Exit codes: 0 done, 1 refused or failed, 2 not asked
for rightly, 3 not reached, 4 a gate does not hold.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.ops.evaluate import add_evaluate
from service.ops.report import add_report

COMMANDS = ("rebuild", "jobs", "report", "promote", "rollback", "abort", "retire", "evaluate")
EXIT_REFUSED, EXIT_NOT_REACHED = 1, 3
_LOOK_S = 0.5
_BAR = 30
_TIMEOUT_S = 600
"""A trial of a model may load it first."""


class RefusedByService(Exception):
    """The service said no, or could not be reached; `code` is the exit code."""

    def __init__(self, message: str, code: int = EXIT_REFUSED) -> None:
        super().__init__(message)
        self.code = code


class ServiceCalls:
    """Calls of one service. Any thread."""

    def __init__(self, url: str, key: str, sleep: Callable[[float], object]) -> None:
        self._url = url.rstrip("/")
        self._key = key
        self._sleep = sleep

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the answer's JSON. Raises RefusedByService."""
        try:
            return dict(json.loads(self.fetch(method, path, body)))
        except ValueError as exc:
            raise RefusedByService(f"{self._url} answers no JSON: {exc}", EXIT_NOT_REACHED) from exc

    def fetch(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        media_type: str = "application/json",
    ) -> bytes:
        """Return the answer in `media_type`. A report that is still being made is waited for, and standard
        error tells how far it is. Raises RefusedByService."""
        headers = {"content-type": "application/json", "accept": media_type}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, headers, method=method)
        while True:
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                    return bytes(answer.read())
            except urllib.error.HTTPError as exc:
                problem = _problem(exc)
                if problem.get("code") != "report_under_way":
                    raise RefusedByService(_problem_line(exc, problem)) from exc
                sys.stderr.write(f"{problem.get('detail')}\n")
            except (OSError, http.client.HTTPException) as exc:
                raise RefusedByService(f"{self._url} can't be reached: {exc}", EXIT_NOT_REACHED) from exc
            self._sleep(_LOOK_S)


def _problem(error: urllib.error.HTTPError) -> dict[str, Any]:
    """The problem document; empty where the answer is none."""
    try:
        problem = json.loads(error.read())
    except (OSError, ValueError):
        return {}
    return problem if isinstance(problem, dict) else {}


def _problem_line(error: urllib.error.HTTPError, problem: Mapping[str, Any]) -> str:
    """The problem document as a line: status, code, sentence, what helps."""
    if not problem:
        return f"{error.code} {error.reason}"
    hint = problem.get("hint")
    return f"{error.code} {problem.get('code')}: {problem.get('detail')}" + (f" Try: {hint}" if hint else "")


def main(
    argv: Sequence[str], environ: Mapping[str, str], sleep: Callable[[float], object] = time.sleep
) -> int:
    """Run one command; return its exit code."""
    given = _parser(environ).parse_args(argv)
    calls = ServiceCalls(given.url, environ.get("ADMIN_API_KEY", "").partition(",")[0].strip(), sleep)
    try:
        return int(given.run(given, calls, sleep))
    except RefusedByService as exc:
        sys.stderr.write(f"error: {exc}\n")
        return exc.code
    except KeyboardInterrupt:
        sys.stderr.write("\nThe job goes on; `python -m service jobs` shows it.\n")
        return EXIT_REFUSED


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m service", description=__doc__)
    default = f"http://127.0.0.1:{environ.get('PORT') or 8080}"
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    rebuild = commands.add_parser("rebuild", help="fill a generation of another model; shows its progress")
    rebuild.add_argument("collection")
    rebuild.add_argument("--model", help="a model reference; left out, the configured one")
    rebuild.add_argument("--dim", type=int, help="of a model that gives any; left out, the configured one")
    rebuild.add_argument("--text-template", help="left out, the configured one; with --model the current one")
    rebuild.add_argument("--dry-run", action="store_true", help="only say what it takes")
    rebuild.add_argument("--no-wait", action="store_true", help="begin it and return")
    rebuild.set_defaults(run=_rebuild)
    jobs = commands.add_parser("jobs", help="what is under way, and what was")
    jobs.add_argument("--cancel", metavar="ID", help="end this one")
    jobs.set_defaults(run=_jobs)
    add_report(commands)
    add_evaluate(commands)
    for name in _HELP:
        one = commands.add_parser(name, help=_HELP[name])
        one.add_argument("collection")
        one.add_argument("--embedding-version", help="refuse unless the step is about this one")
        one.add_argument("--force", action="store_true", help="though a gate or a count says no")
        one.set_defaults(run=_step, step=name)
    for each in commands.choices.values():
        each.add_argument("--url", default=default, help="of the running service; default: %(default)s")
    return parser


_HELP = {
    "promote": "make the next generation current",
    "rollback": "make the former generation current again",
    "abort": "give the next generation up",
    "retire": "let the former generation go",
}


def _rebuild(given: argparse.Namespace, calls: ServiceCalls, sleep: Callable[[float], object]) -> int:
    named = {"model": given.model, "dim": given.dim, "text_template": given.text_template}
    body = {"collection": given.collection, "dry_run": given.dry_run, **named}
    answer = calls.call("POST", "/v1/rebuild", body)
    gives = f"{answer['embedding_version']} of {answer['dim']} values"
    _say(f"{answer['collection']}: {answer['model']} gives {gives}")
    _say(_planned(answer["estimate"]))
    if given.dry_run:
        _say(f"It does not fit: {answer['problem']}." if answer["problem"] else "It fits.")
        return EXIT_REFUSED if answer["problem"] else 0
    job = answer["job"]
    _say(f"job {job['id']}")
    return 0 if given.no_wait else _watch(job["id"], calls, sleep)


def _watch(job_id: str, calls: ServiceCalls, sleep: Callable[[float], object]) -> int:
    """Show a job's progress until it is over."""
    is_shown = sys.stdout.isatty()
    while True:
        job = calls.call("GET", f"/v1/jobs/{job_id}")
        if is_shown:
            sys.stdout.write(f"\r{progress_line(job):<78}")
            sys.stdout.flush()
        if job["state"] not in ("queued", "running"):
            break
        sleep(_LOOK_S)
    if is_shown:
        sys.stdout.write("\n")
    _say(progress_line(job))
    if job["state"] != "ready":
        raise RefusedByService(f"{job.get('reason', '')} {job.get('hint', '')}".strip() or job["state"])
    for reason, count in job["errors"].items():
        _say(f"  {count} item(s) could not be embedded: {reason}")
    if job["missing"]:
        _say(f"  {job['missing']} item(s) would be lost to searches: their content is not kept here")
    _say(f"python -m service report {job['collection']}")
    return 0


def progress_line(job: Mapping[str, Any]) -> str:
    """Return one job as a line: bar, counts, rate, time left."""
    done, total = job["done"], job["total"]
    filled = _BAR if job["state"] == "ready" else (_BAR * done // total if total else 0)
    line = f"[{'#' * filled}{'.' * (_BAR - filled)}] {done}/{total} {job['state']} {job['phase']}"
    if job["rate"] is not None and job["state"] == "running":
        line += f", {job['rate']:.0f}/s"
    if job["eta_s"] and job["state"] == "running":
        line += f", {job['eta_s']:.0f} s left"
    return line


def _planned(estimate: Mapping[str, Any]) -> str:
    seconds = estimate["seconds"]
    free = estimate["memory_bytes_free"]
    return (
        f"{estimate['contents']} of {estimate['items']} items can be embedded here; about "
        f"{_mib(estimate['disk_bytes'])} MiB of disk ({_mib(estimate['disk_bytes_free'])} free), "
        f"{_mib(estimate['memory_bytes'])} MiB of memory ({'?' if free is None else _mib(free)} free), "
        f"{'an unknown time' if seconds is None else f'{seconds:.0f} s of embedding'}"
    )


def _mib(size: int) -> int:
    return -(-size >> 20)


def _jobs(given: argparse.Namespace, calls: ServiceCalls, _: Callable[[float], object]) -> int:
    if given.cancel:
        job = calls.call("DELETE", f"/v1/jobs/{given.cancel}")
        _say(f"{job['id']} ends")
        return 0
    for job in calls.call("GET", "/v1/jobs")["jobs"]:
        _say(f"{job['id']} {job['collection']} {job['embedding_version']} {progress_line(job)}")
    return 0


def _step(given: argparse.Namespace, calls: ServiceCalls, _: Callable[[float], object]) -> int:
    body = {"collection": given.collection, "embedding_version": given.embedding_version}
    answer = calls.call("POST", f"/v1/{given.step}", {**body, "force": given.force})
    for each in answer["generations"]:
        _say(f"{each['role']:8} {each['generation']} {each['embedding_version']} {each['live']} live")
    return 0


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
