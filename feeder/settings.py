"""Everything the feeder reads from the environment, checked once; all mistakes in one message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from feeder.errors import SettingsWrong
from feeder.table_mapping import BUILT_IN, CollectionTables, parse_collections, unknown
from vector_client.types import Keys

Network: TypeAlias = IPv4Network | IPv6Network
Engine: TypeAlias = Literal["postgresql", "mariadb"]
TierChoice: TypeAlias = Literal["auto", "log", "triggers", "poll"]
TIERS: tuple[TierChoice, ...] = ("auto", "log", "triggers", "poll")
URL_ENGINES: Mapping[str, Engine] = {
    "postgresql": "postgresql", "postgres": "postgresql", "mysql": "mariadb", "mariadb": "mariadb",
}  # fmt: skip
PORTS: Mapping[Engine, int] = {"postgresql": 5432, "mariadb": 3306}


def _number(env: str, default: float, low: float, high: float, unit: str, says: str) -> Any:
    about = {"env": env, "low": low, "high": high, "unit": unit, "says": says}
    return field(default=default, metadata=about)


@dataclass(frozen=True, slots=True)
class Bounds:
    """The feeder's limits. Each field's metadata has its variable, bounds, unit and a sentence."""

    page_rows: int = _number("FEEDER_PAGE_ROWS", 20_000, 1, 200_000, "rows",
        "read from pgvector in one page; an import resumes at a page")  # fmt: skip
    batch_items: int = _number("BATCH_SIZE", 2_000, 1, 5_000, "items", "sent in one upsert")
    connections: int = _number("FEEDER_CONNECTIONS", 2, 1, 16, "connections", "upserts sent at a time")
    timeout_s: float = _number("FEEDER_TIMEOUT_S", 60, 1, 600, "seconds", "waited for the service's answer")
    retries: int = _number("FEEDER_RETRIES", 5, 0, 20, "attempts",
        "after the first, for the service and for a source, with growing pauses")  # fmt: skip
    source_timeout_s: float = _number("FEEDER_SOURCE_TIMEOUT_S", 120, 1, 3_600, "seconds",
        "one statement of a source database may take")  # fmt: skip
    probe_rows: int = _number("FEEDER_PROBE_ROWS", 200, 10, 5_000, "rows", "re-embedded by the space probe")
    probe_text_min: float = _number("FEEDER_PROBE_TEXT_MIN", 0.999, 0, 1, "cosine",
        "the median a text collection's sample must reach")  # fmt: skip
    probe_image_min: float = _number("FEEDER_PROBE_IMAGE_MIN", 0.99, 0, 1, "cosine",
        "the median a picture collection's sample must reach")  # fmt: skip
    noise_percent_max: float = _number("FEEDER_NOISE_PERCENT_MAX", 1, 0, 100, "percent",
        "of the sample may lie near cosine 0, where only noise lies")  # fmt: skip
    orphan_percent_max: float = _number("FEEDER_ORPHAN_PERCENT_MAX", 5, 0, 100, "percent",
        "of the ids may be missing in the items table before an import stops and asks")  # fmt: skip
    image_bytes_max: int = _number("FEEDER_IMAGE_BYTES_MAX", 20_000_000, 1_000, 100_000_000, "bytes",
        "of one picture fetched")  # fmt: skip
    image_timeout_s: float = _number("FEEDER_IMAGE_TIMEOUT_S", 10, 0.1, 120, "seconds",
        "for one picture, name to last byte")  # fmt: skip
    image_fetches: int = _number("FEEDER_IMAGE_FETCHES", 8, 1, 64, "pictures", "fetched at a time")
    picture_batch: int = _number("FEEDER_PICTURE_BATCH", 32, 1, 500, "pictures",
        "fetched and sent together; all of them are in memory")  # fmt: skip
    text_batch: int = _number("FEEDER_TEXT_BATCH", 200, 1, 5_000, "texts",
        "sent together for the service to embed")  # fmt: skip
    log_poll_ms: int = _number("FEEDER_LOG_POLL_MS", 50, 5, 60_000, "ms",
        "between two looks into a database's log")  # fmt: skip
    trigger_poll_ms: int = _number("FEEDER_TRIGGER_POLL_MS", 200, 5, 60_000, "ms",
        "between two looks at what triggers wrote; PostgreSQL wakes the feeder earlier")  # fmt: skip
    poll_s: int = _number("FEEDER_POLL_S", 300, 1, 86_400, "seconds",
        "between two full comparisons where the database grants neither log nor triggers")  # fmt: skip
    compare_s: int = _number("FEEDER_COMPARE_S", 3_600, 1, 604_800, "seconds",
        "between two full comparisons with a log or triggers, or 99 times what one takes")  # fmt: skip
    compare_percent: int = _number("FEEDER_COMPARE_PERCENT", 5, 1, 100, "percent",
        "of the time `sync` is at work while it compares everything; it pauses in between")  # fmt: skip
    brake_percent: float = _number("FEEDER_BRAKE_PERCENT", 5, 0, 100, "percent",
        "of the items may vanish in one comparison or window before it stops and asks; 100: all")  # fmt: skip
    brake_window_s: int = _number("FEEDER_BRAKE_WINDOW_S", 3_600, 60, 86_400, "seconds",
        "in which items that vanish are counted together for the brake")  # fmt: skip
    changes_max: int = _number("FEEDER_CHANGES_MAX", 2_000, 1, 100_000, "changes", "read at a time")
    nice: int = _number("FEEDER_NICE", 10, 0, 19, "steps",
        "of lower priority that `sync` has, so that searches on the same machine come first")  # fmt: skip
    metrics_port: int = _number("FEEDER_METRICS_PORT", 0, 0, 65_535, "port",
        "where `sync` serves its metrics, at FEEDER_METRICS_HOST; 0: nowhere")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Database:
    """How to reach one source database. `str()` leaves the password out."""

    engine: Engine
    host: str
    port: int
    name: str
    user: str
    password: str = field(repr=False)

    def __str__(self) -> str:
        return f"{self.engine}://{self.user}@{self.host}:{self.port}/{self.name}"


@dataclass(frozen=True, slots=True)
class Settings:
    """vectors: the pgvector database (TGT_DB_*). src, mariadb: where the items tables may lie.

    tier: how changes are noticed; "auto" takes the best that each database grants. state_dir: where `sync`
    remembers which id each source row carried.
    """

    service_url: str
    keys: Keys
    vectors: Database | None
    src: Database | None
    mariadb: Database | None
    collections: Mapping[str, CollectionTables]
    image_hosts: frozenset[str]
    image_networks: tuple[Network, ...]
    bounds: Bounds
    tier: TierChoice = "auto"
    state_dir: Path = Path(".feeder")
    metrics_host: str = "127.0.0.1"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Settings:
        """Raises SettingsWrong with every mistake found."""
        mistakes: list[str] = []
        text = _collections_text(environ, mistakes)
        settings = cls(
            service_url=_service_url(environ, mistakes),
            keys=Keys(*(_first_key(environ, f"{name}_API_KEY") for name in ("SEARCH", "WRITE", "ADMIN"))),
            vectors=_database(environ, "TGT", "POSTGRES_RECOMMEND_URL", mistakes),
            src=_database(environ, "SRC", None, mistakes),
            mariadb=_url_database(environ, "MARIADB_SERVICE_URL", mistakes),
            collections=parse_collections(text, mistakes),
            image_hosts=frozenset(environ.get("FEEDER_IMAGE_HOSTS", "").replace(",", " ").split()),
            image_networks=_networks(environ, mistakes),
            bounds=_bounds(environ, mistakes),
            tier=_tier(environ, mistakes),
            state_dir=Path(environ.get("FEEDER_STATE_DIR") or ".feeder"),
            metrics_host=environ.get("FEEDER_METRICS_HOST") or "127.0.0.1",
        )
        _check_names(environ, mistakes)
        if settings.vectors is not None and settings.vectors.engine != "postgresql":
            mistakes.append("POSTGRES_RECOMMEND_URL: pgvector lives in PostgreSQL")
        if mistakes:
            raise SettingsWrong("; ".join(mistakes))
        return settings

    def vector_database(self) -> Database:
        """Return the pgvector database. Raises SettingsWrong where none is configured."""
        if self.vectors is None:
            raise SettingsWrong(
                "the pgvector database is not set", hint="Set TGT_DB_* or POSTGRES_RECOMMEND_URL."
            )
        return self.vectors

    def items_database(self, tables: CollectionTables) -> Database | None:
        """Return where a collection's items table lies. Raises SettingsWrong when that is not clear."""
        if tables.items is None:
            return None
        named = {"src": self.src, "mariadb": self.mariadb}
        if tables.items.database is not None:
            database = named[tables.items.database]
            if database is None:
                raise SettingsWrong(
                    f"collections.{tables.name}.source.items wants database {tables.items.database!r},"
                    " which is not set",
                    hint="Set SRC_DB_* or MARIADB_SERVICE_URL.",
                )
            return database
        given = [database for database in named.values() if database is not None]
        if len(given) != 1:
            where = f"collections.{tables.name}.source.items"
            if not given:
                raise SettingsWrong(
                    f"{where}: no database is set (SRC_DB_*, MARIADB_SERVICE_URL)",
                    hint="Set SRC_DB_* or MARIADB_SERVICE_URL.",
                )
            raise SettingsWrong(
                f"{where}: SRC_DB_* and MARIADB_SERVICE_URL are both set",
                hint='Unset one, or say database = "src" or "mariadb" there, in COLLECTIONS_FILE.',
            )
        return given[0]


def _first_key(environ: Mapping[str, str], name: str) -> str:
    """Several keys may stand in a variable while they are rotated; any of them opens."""
    return next(iter(environ.get(name, "").replace(",", " ").split()), "")


def _collections_text(environ: Mapping[str, str], mistakes: list[str]) -> str:
    path = environ.get("COLLECTIONS_FILE", "")
    if not path:
        return BUILT_IN
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        mistakes.append(f"COLLECTIONS_FILE: cannot read {path}: {exc}")
        return ""


def _service_url(environ: Mapping[str, str], mistakes: list[str]) -> str:
    url = environ.get("ML_INFERENCE_URL") or f"http://127.0.0.1:{environ.get('PORT') or 8080}"
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        mistakes.append(f"ML_INFERENCE_URL: not an http address: {url!r}")
    return url


def _database(
    environ: Mapping[str, str], prefix: str, url_name: str | None, mistakes: list[str]
) -> Database | None:
    """Read `<prefix>_DB_*`; without a name or host there, the deployed URL variable."""
    values = {
        name: environ.get(f"{prefix}_DB_{name}", "") for name in ("HOST", "PORT", "NAME", "USER", "PASS")
    }
    if not any(values.values()):
        return _url_database(environ, url_name, mistakes) if url_name else None
    missing = [f"{prefix}_DB_{name}" for name in ("NAME", "USER") if not values[name]]
    if missing:
        mistakes.append(f"{', '.join(missing)}: missing")
    engine = environ.get(f"{prefix}_DB_ENGINE") or ("mariadb" if values["PORT"] == "3306" else "postgresql")
    if engine not in PORTS:
        mistakes.append(f"{prefix}_DB_ENGINE: postgresql or mariadb, got {engine!r}")
        engine = "postgresql"
    port = _port(values["PORT"] or str(PORTS[URL_ENGINES[engine]]), f"{prefix}_DB_PORT", mistakes)
    host = values["HOST"] or "localhost"
    return Database(URL_ENGINES[engine], host, port, values["NAME"], values["USER"], values["PASS"])


def _url_database(environ: Mapping[str, str], name: str, mistakes: list[str]) -> Database | None:
    """Read an SQLAlchemy-style URL: a driver after a plus sign is ignored."""
    url = environ.get(name, "")
    if not url:
        return None
    parts = urlsplit(url)
    engine = URL_ENGINES.get(parts.scheme.split("+")[0])
    database = parts.path.strip("/")
    if engine is None or not parts.hostname or not database:
        mistakes.append(f"{name}: scheme://user:password@host:port/database is needed")
        return None
    try:
        port = parts.port or PORTS[engine]
    except ValueError:
        mistakes.append(f"{name}: the port is not a number 1..65535")
        return None
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Database(engine, parts.hostname, port, unquote(database), user, password)


def _port(text: str, name: str, mistakes: list[str]) -> int:
    if text.isdecimal() and 1 <= int(text) <= 65535:
        return int(text)
    mistakes.append(f"{name}: a whole number 1..65535 is needed, got {text!r}")
    return 1


def _networks(environ: Mapping[str, str], mistakes: list[str]) -> tuple[Network, ...]:
    found: list[Network] = []
    for text in environ.get("FEEDER_IMAGE_NETWORKS", "").replace(",", " ").split():
        try:
            found.append(ip_network(text))
        except ValueError as exc:
            mistakes.append(f"FEEDER_IMAGE_NETWORKS: {exc}")
    return tuple(found)


def _tier(environ: Mapping[str, str], mistakes: list[str]) -> TierChoice:
    text = environ.get("FEEDER_TIER") or "auto"
    for tier in TIERS:
        if text == tier:
            return tier
    mistakes.append(f"FEEDER_TIER: one of {', '.join(TIERS)} is needed, got {text!r}")
    return "auto"


def _bounds(environ: Mapping[str, str], mistakes: list[str]) -> Bounds:
    values: dict[str, Any] = {}
    for bound in fields(Bounds):
        about = bound.metadata
        text = environ.get(about["env"], "")
        if not text:
            continue
        try:
            value = int(text) if isinstance(bound.default, int) and bound.type == "int" else float(text)
            if not about["low"] <= value <= about["high"]:
                raise ValueError
        except ValueError:
            mistakes.append(
                f"{about['env']}: {about['low']}..{about['high']} {about['unit']} is needed, got {text!r}"
            )
            continue
        values[bound.name] = value
    return Bounds(**values)


def _check_names(environ: Mapping[str, str], mistakes: list[str]) -> None:
    """A misspelt variable would be ignored in silence."""
    known = {bound.metadata["env"] for bound in fields(Bounds)}
    known |= {"FEEDER_IMAGE_HOSTS", "FEEDER_IMAGE_NETWORKS", "FEEDER_TIER", "FEEDER_STATE_DIR"}
    known.add("FEEDER_METRICS_HOST")
    mistakes += [
        f"{name}: {unknown(name, sorted(known))}"
        for name in environ
        if name.startswith("FEEDER_") and name not in known
    ]
