"""`models build|fetch|adopt|export|verify|list`: bring model files here, check them."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from service.embedding.catalog.build import build
from service.embedding.catalog.builtin import BUILTIN
from service.embedding.catalog.inspect_directory import Wishes, describe_directory
from service.embedding.catalog.references import OPEN_CLIP_REPOSITORIES
from service.embedding.manifest import MANIFEST, BadModelDirectory, verify, write_manifest
from service.errors import ModelError, ModelUnavailable

log = logging.getLogger(__name__)
PROGRAM = "python -m service models"


def main(argv: Sequence[str], models_dir: Path) -> int:
    """Run one subcommand. Returns 0, or 1 after a line on stderr says what is wrong."""
    given = _parser(models_dir).parse_args(argv)
    try:
        return int(given.run(given))
    except (ModelUnavailable, ModelError) as exc:
        say(f"error: {exc} (help: {exc.hint})" if exc.hint else f"error: {exc}", error=True)
        return 1
    except OSError as exc:
        say(f"error: {exc}", error=True)
        return 1


def say(line: str, *, error: bool = False) -> None:
    """Write one line at once: a caller that reads the output sees each step."""
    stream = sys.stderr if error else sys.stdout
    stream.write(line + "\n")
    stream.flush()


def _parser(models_dir: Path) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--models-dir", type=Path, default=models_dir, help="default: %(default)s")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    one = commands.add_parser("build", help="make the built-in models (all, or those named)")
    one.add_argument("names", nargs="*", metavar="name", help=", ".join(BUILTIN))
    one.add_argument("--again", action="store_true", help="also when they are there and whole")
    one.set_defaults(run=_build)
    one = commands.add_parser("fetch", help="bring a model from a hub, at one revision")
    one.add_argument(
        "reference", help="<hub id>@<40 hex digits>; with a branch or without one, it is resolved"
    )
    one.add_argument("--endpoint", help="another hub's address")
    _add_wishes(one)
    one.set_defaults(run=_fetch)
    one = commands.add_parser("adopt", help="write the manifest of a model directory that you trust")
    one.add_argument("directory", type=Path)
    _add_wishes(one)
    one.set_defaults(run=_adopt)
    one = commands.add_parser(
        "export", help="make the form of a model that serves without torch, or in 8 bits"
    )
    one.add_argument("reference", help="as in a collection; with +int8 at its end for the 8-bit form")
    one.set_defaults(run=_export)
    one = commands.add_parser("verify", help="check every file of every model (or those named)")
    one.add_argument("names", nargs="*", metavar="name", help="a directory's name in the models directory")
    one.set_defaults(run=_verify)
    one = commands.add_parser("list", help="what is here, and what could be")
    one.set_defaults(run=_list)
    return parser


def _add_wishes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--query-prefix", metavar="TEXT", help="put before each query, e.g. 'query: '")
    parser.add_argument("--document-prefix", metavar="TEXT", help="put before each document")
    parser.add_argument("--tokens-max", type=int, metavar="N", help="read no more tokens of a text than this")
    parser.add_argument("--torch", action="store_true", help="run by torch even where an ONNX form is there")


def _wishes(given: argparse.Namespace) -> Wishes:
    return Wishes(given.query_prefix, given.document_prefix, given.tokens_max, given.torch)


def _fetch(given: argparse.Namespace) -> int:
    from service.embedding.catalog.hub import fetch  # the hub client takes a second to import

    reference = OPEN_CLIP_REPOSITORIES.get(given.reference, given.reference)
    repository, _, revision = reference.partition("@")
    model, manifest = fetch(
        repository, revision or "main", given.models_dir, _wishes(given), say, given.endpoint
    )
    say(f"{manifest.embedding_version} in {model.directory(given.models_dir)}")
    say(f"model = {model.repository}@{model.revision}")
    return 0


def _adopt(given: argparse.Namespace) -> int:
    directory: Path = given.directory
    if not directory.is_dir():
        raise BadModelDirectory(f"{directory} is no directory.")
    manifest = describe_directory(
        directory, name=directory.resolve().name, revision="local", weights=None, wishes=_wishes(given)
    )
    write_manifest(directory, manifest)
    verify(directory)  # links that lead outside are found now, not when the service starts
    say(f"{manifest.embedding_version}: {manifest.runtime}, {manifest.modality}, {manifest.dim} values")
    return 0


def _export(given: argparse.Namespace) -> int:
    from service.embedding.catalog.export import export  # the converters take a second to import

    manifest, directory = export(given.reference, given.models_dir, say)
    say(f"{manifest.embedding_version} in {directory}")
    say(f"model = {given.reference}")
    return 0


def _build(given: argparse.Namespace) -> int:
    names = [name.removeprefix("builtin:") for name in given.names] or list(BUILTIN)
    unknown = [name for name in names if name not in BUILTIN]
    if unknown:
        say(f"error: no built-in model {', '.join(unknown)}; there are {', '.join(BUILTIN)}", error=True)
        return 1
    for name in names:
        model = BUILTIN[name]
        if not given.again and _is_whole(model.directory(given.models_dir), model.embedding_version):
            say(f"{name}: already built, {model.embedding_version}")
            continue
        build(model, given.models_dir, say)
    return 0


def _is_whole(directory: Path, embedding_version: str) -> bool:
    try:
        return verify(directory).embedding_version == embedding_version
    except BadModelDirectory:
        return False


def _verify(given: argparse.Namespace) -> int:
    directories = [given.models_dir / name for name in given.names] or _present(given.models_dir)
    bad = 0
    for directory in directories:
        try:
            manifest = verify(directory)
        except BadModelDirectory as exc:
            say(f"BAD  {directory.name}: {exc}")
            bad += 1
        else:
            size = sum(mark.bytes for mark in manifest.files.values())
            say(f"ok   {directory.name}: {len(manifest.files)} files, {size / 1e6:.0f} MB")
    if not directories:
        say(f"no models in {given.models_dir}")
    return 1 if bad else 0


def _list(given: argparse.Namespace) -> int:
    present = _present(given.models_dir)
    for directory in present:
        try:
            manifest = verify(directory)
        except BadModelDirectory as exc:
            say(f"{directory.name}\tBAD: {exc}")
        else:
            say(f"{directory.name}\t{manifest.modality}\t{manifest.dim}\t{manifest.embedding_version}")
    for name, model in BUILTIN.items():
        if model.directory(given.models_dir) not in present:
            say(f"builtin:{name}\t{model.modality}\t{model.dim}\tnot built: {PROGRAM} build {name}")
    return 0


def _present(models_dir: Path) -> list[Path]:
    return sorted(path.parent for path in models_dir.glob(f"[!.]*/{MANIFEST}"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], Path(".models")))
