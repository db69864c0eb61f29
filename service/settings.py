"""Everything the service reads from its environment, read once, by `__main__`.

A field's name in capitals is the variable's name. docs/SETTINGS.md is this file as a table; a test holds
the two together.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from service.access import access_of, example_keys_refused
from service.errors import BadConfiguration
from service.setting_kinds import (
    choice,
    header_fields,
    hosts,
    http_address,
    keys,
    names,
    networks,
    number,
    optional_path,
    origins,
    path,
    postgres_address,
    switch,
    text,
)

FOREIGN_NAMES = frozenset(
    [f"{side}_DB_{part}" for side in ("SRC", "TGT") for part in ("HOST", "PORT", "NAME", "USER", "PASS")]
    + ["ML_MODE", "ML_INFERENCE_URL", "ML_TIMEOUT", "ML_RETRIES", "MARIADB_SERVICE_URL"]
    + ["POSTGRES_RECOMMEND_URL"]
)
"""Names that the feeder and the client read from the same environment."""

_OUR_PREFIXES = ("UPSERT_", "QUERY_", "EMBED_", "IMAGE_", "SEARCH_", "MODEL_", "COLLECTIONS_", "TEXT_")
_ORCHESTRATOR_NAME = re.compile(r".*_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_\d+_.*)?)$")
"""What Kubernetes and Docker links put into every container; `SEARCH_PORT` may be theirs."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting of the service, each with its default, bounds and meaning. Constant."""

    host: str = text("0.0.0.0", "Address to listen on.")
    port: int = number(8080, 0, 65_535, "port", "Port to listen on; 0 takes a free one.")
    workers: int = number(1, 1, 64, "processes", "Serving processes; all share one index on disk.")
    data_dir: Path = path(".data", "Where the collections are kept; made when missing.")  # noqa: RUF009
    index_url: str = postgres_address(
        "PostgreSQL with pgvector that keeps the collections instead of DATA_DIR, as postgresql://..."
    )
    models_dir: Path = path(".models", "Where model files in serving form are kept.")  # noqa: RUF009
    collections_file: Path | None = optional_path(  # noqa: RUF009
        "TOML file that declares the collections; without it recipes and products."
    )
    text_model: str = text("", "Model of the built-in text collection instead of the production one.")
    image_model: str = text("", "Model of the built-in picture collection instead of the production one.")
    enable_clip: bool | None = switch(
        "Picture model where a collection leaves it open: 1 open_clip, 0 the placeholder, unset IMAGE_MODEL."
    )
    embed_dim: int = number(512, 1, 4096, "floats", "Dimension of the built-in picture collection.")
    model_fallback: str = choice(
        "none",
        ("none", "placeholder"),
        "What serves a new collection whose model can't load; the placeholder has a version of its own.",
    )
    model_runtime: str = choice(
        "auto",
        ("auto", "onnx", "torch"),
        "What runs a model that has two forms: auto and onnx take the exported one, torch the source.",
    )
    model_threads: int = number(1, 1, 64, "threads", "Threads of one forward pass.")
    model_streams: int = number(
        0, 0, 64, "streams", "Forward passes of one model at a time; 0: as many as cores, 2 at least."
    )
    batch_size: int = number(
        32, 1, 5_000, "items", "Most texts of one forward pass; pictures go by 4 at a time."
    )
    default_top_k: int = number(
        5, 1, 10_000, "results", "top_k of /search_similar when the caller names none."
    )
    search_top_k: int = number(25, 1, 10_000, "results", "top_k of /v1/search when the caller names none.")
    top_k_max: int = number(10_000, 1, 100_000, "results", "Largest top_k.")
    query_chars_max: int = number(1000, 1, 100_000, "characters", "Longest query or embed text.")
    text_chars_max: int = number(20_000, 1, 1_000_000, "characters", "Longest text of an upserted item.")
    embed_texts_max: int = number(100, 1, 10_000, "texts", "Most texts of one embed-batch.")
    searches_max: int = number(100, 1, 1000, "searches", "Most searches of one search-batch.")
    answer_bytes_max: int = number(
        32 << 20,
        64 << 10,
        1 << 30,
        "bytes",
        "Largest answer to a search, or to all searches of a batch, as expected before they begin.",
    )
    gzip_bytes_min: int = number(
        65_536,
        0,
        1 << 30,
        "bytes",
        "Answers from this size on are packed with gzip for callers that accept it; 0: none.",
    )
    cors_origins: tuple[str, ...] = origins(
        "Origins whose web pages may call (https://shop.example), * for any; none: no page of another origin."
    )
    search_bytes_max: int = number(
        16 << 20, 1024, 1 << 30, "bytes", "Largest body of every route but upsert and picture upload."
    )
    upsert_bytes_max: int = number(64 << 20, 1024, 1 << 30, "bytes", "Largest upsert body.")
    upsert_items_max: int = number(5000, 1, 100_000, "items", "Most items, and most deletes, of one write.")
    brake_percent: int = number(
        5,
        0,
        100,
        "percent",
        "Share of a collection's items that one write by filter may change without `confirm`, 10 items "
        "always; 100 is no brake.",
    )
    digest_rows_max: int = number(
        50_000, 1, 10_000_000, "rows", "About how many rows one answer to a compared digest lists."
    )
    metadata_bytes_max: int = number(65_536, 64, 1 << 20, "bytes", "Largest metadata of one item, as JSON.")
    image_bytes_max: int = number(20_000_000, 1024, 1 << 28, "bytes", "Largest picture file.")
    image_pixels_max: int = number(
        25_000_000,
        64,
        1 << 28,
        "pixels",
        "Largest picture, known before it is decoded; 4 times that for a JPEG.",
    )
    image_work_ms_max: int = number(
        2000, 50, 60_000, "ms", "Processor time that decoding one picture may take; after this it is refused."
    )
    image_url_hosts: tuple[str, ...] = names(
        "Hosts that pictures may be fetched from (*.shop.example for its subdomains); none: fetching is off."
    )
    console_image_hosts: tuple[str, ...] = hosts(
        "Hosts whose pictures /console may show beside the service's own (*.shop.example for subdomains)."
    )
    image_url_ms_max: int = number(5000, 100, 60_000, "ms", "Longest fetch of one picture.")
    search_deadline_ms: int = number(3000, 50, 120_000, "ms", "After this a search or embed answers 503.")
    upsert_deadline_ms: int = number(
        300_000, 1000, 3_600_000, "ms", "After this a write that still embeds answers 503."
    )
    queue_ms_max: int = number(
        400,
        10,
        60_000,
        "ms",
        "Expected wait in line beyond which a request is turned away; a quarter if it lasts.",
    )
    queue_requests_max: int = number(4096, 1, 1_000_000, "requests", "Longest line in front of one thread.")
    write_threads: int = number(64, 1, 512, "threads", "Writes that share commits at a time.")
    min_seq_wait_ms: int = number(1000, 0, 60_000, "ms", "How long a search waits for its min_seq.")
    body_read_s_max: int = number(60, 1, 3600, "seconds", "Longest time a caller may take to send a body.")
    bodies_bytes_max: int = number(
        128 << 20,
        1 << 20,
        1 << 40,
        "bytes",
        "What all bodies that still arrive hold together, in each process; one of any kind always fits.",
    )
    head_bytes_max: int = number(
        65_536, 1024, 1 << 20, "bytes", "Largest head of a request: its line and header fields."
    )
    head_fields_max: int = number(100, 10, 1000, "fields", "Most header fields of a request.")
    head_read_s_max: int = number(
        10, 1, 600, "seconds", "Longest time from the connection, or a head's first byte, to the head's end."
    )
    answer_stall_s_max: int = number(
        30, 1, 3600, "seconds", "How long a caller may read nothing of its answer before it is cut off."
    )
    keep_alive_s: int = number(75, 1, 3600, "seconds", "How long an idle connection is kept.")
    maintenance: str = choice(
        "on", ("on", "off"), "Whether a process of its own seals, merges and checks segments."
    )
    set_aside_keep_days: int = number(
        7, 1, 3650, "days", "How long a generation that no role names any more is kept before it is removed."
    )
    on_model_change: str = choice(
        "keep",
        ("keep", "rebuild"),
        "What a start under another model than the one that made the data does beside serving by the old "
        "one: keep proposes a rebuild, rebuild begins it, once for each change.",
    )
    retire_after_h: int = number(
        168,
        0,
        87_600,
        "hours",
        "How long after a promotion or rollback the former generation is written to and can be rolled back "
        "to; then it is retired and its model leaves the memory. 0: until `python -m service retire`.",
    )
    rebuild_search_ms_max: int = number(
        50,
        1,
        60_000,
        "ms",
        "Filling a new generation slows down while a hundredth of the searches take half as long again as "
        "they do in its breaks; where too few are made in those to tell (200 in 18 s): longer than this.",
    )
    record_queries_percent: int = number(
        0, 0, 100, "percent", "Share of the searches by text or by items that are kept for reports; 0: none."
    )
    recorded_queries_max: int = number(
        10_000, 100, 1_000_000, "queries", "Most recorded queries of a collection; the oldest go first."
    )
    recorded_queries_bytes_max: int = number(
        16 << 20, 64 << 10, 1 << 30, "bytes", "What a collection's recorded queries take on disk at most."
    )
    recorded_queries_days: int = number(
        7, 1, 365, "days", "After these a recorded query is removed, also when no more are recorded."
    )
    report_queries_max: int = number(
        500,
        10,
        10_000,
        "queries",
        "Most queries of callers that a report replays; of items of each kind it draws as many, 100 at most.",
    )
    snapshots_kept: int = number(
        7, 0, 1000, "snapshots", "How many of /v1/snapshot are kept, the oldest go first; 0 keeps all."
    )
    rate_limit_search: int = number(
        0,
        0,
        1_000_000_000,
        "units",
        "What each key, else each address, may ask for in RATE_LIMIT_WINDOW_S: a search by vector is 1 unit, "
        "by text 11, by picture 41, more for more results; 0: no limit.",
    )
    rate_limit_write: int = number(
        0, 0, 1_000_000_000, "items", "What each key may write or delete in RATE_LIMIT_WINDOW_S; 0: no limit."
    )
    rate_limit_window_s: int = number(60, 1, 86_400, "seconds", "Window of the rate limits; it slides.")
    seen_keys_max: int = number(
        10_000, 0, 1_000_000, "keys", "Values of `seen_key` that are remembered; 0: none, they are refused."
    )
    seen_ids_max: int = number(
        1000,
        10,
        100_000,
        "items",
        "Items remembered as shown under one `seen_key`; the oldest go first.",
    )
    seen_bytes_max: int = number(
        64 << 20, 1 << 20, 4 << 30, "bytes", "What all that is remembered under `seen_key` takes at most."
    )
    seen_s: int = number(3600, 10, 604_800, "seconds", "After its last search a `seen_key` is forgotten.")
    audit_files: int = number(
        8, 0, 1000, "files", "Files of the audit log, the current one included; 0 keeps none."
    )
    audit_file_bytes_max: int = number(
        16 << 20, 64 << 10, 1 << 30, "bytes", "Size at which a file of the audit log is turned over."
    )
    drain_s: int = number(20, 1, 600, "seconds", "How long a stop waits for requests in flight.")
    probe_s: int = number(
        5,
        1,
        600,
        "seconds",
        "Between two probes of every collection, whose outcome /health and /readyz repeat.",
    )
    recall_sample_s: int = number(
        30,
        0,
        86_400,
        "seconds",
        "Between two searches of a collection that a process compares with exact search; 0: none.",
    )
    search_api_key: tuple[str, ...] = keys("Keys that open search and embed; none: they are open.")
    write_api_key: tuple[str, ...] = keys("Keys that open write routes; none: see KEYLESS_WRITES.")
    admin_api_key: tuple[str, ...] = keys("Keys that open every route; none: see KEYLESS_WRITES.")
    keyless_writes: str = choice(
        "off",
        ("off", "loopback"),
        "Who may write and operate where no key is set: nobody, or this machine, a proxy on it included.",
    )
    trusted_proxies: tuple[str, ...] = networks(
        "Networks whose X-Forwarded-For tells callers apart, in the log and in line; it never opens a route."
    )
    otel_exporter_otlp_endpoint: str = http_address(
        "Where traces are sent as OTLP over HTTP, below /v1/traces (extra `tracing`); unset: none are made."
    )
    otel_exporter_otlp_headers: tuple[tuple[str, str], ...] = header_fields(
        "Header fields that the receiver of traces asks for, as name=value."
    )
    otel_service_name: str = text("uhok-ml-inference", "Name of the service in its traces.")
    trace_percent: int = number(
        10, 0, 100, "percent", "Share of the requests without a `traceparent` that is traced."
    )
    log_level: str = choice("info", ("debug", "info", "warning", "error"), "Least level that is logged.")

    @staticmethod
    def from_environ(environ: Mapping[str, str]) -> Settings:
        """Raises BadConfiguration with every mistake in one message. An empty variable is an unset one."""
        values: dict[str, Any] = {}
        mistakes: list[str] = []
        for setting in fields(Settings):
            raw = environ.get(variable(setting), "").strip()
            if not raw:
                continue
            try:
                values[setting.name] = setting.metadata["parse"](raw)
            except ValueError as exc:
                mistakes.append(f"{variable(setting)} {exc}")
        mistakes.extend(_unknown_variables(environ))
        settings = Settings(**values)
        mistakes.extend(example_keys_refused(settings.host, settings.keys_by_variable()))
        if "*" in settings.cors_origins and settings.keyless_writes == "loopback":
            mistakes.append(
                "CORS_ORIGINS must list origins while KEYLESS_WRITES=loopback: any page in a browser on this "
                "machine could write without a key"
            )
        if mistakes:
            raise BadConfiguration(mistakes)
        return settings

    def keys_by_variable(self) -> Mapping[str, tuple[str, ...]]:
        """Return the keys by the variable that they were read from."""
        return {
            "SEARCH_API_KEY": self.search_api_key,
            "WRITE_API_KEY": self.write_api_key,
            "ADMIN_API_KEY": self.admin_api_key,
        }

    def access(self) -> dict[str, str]:
        """Return by role who may call, in words."""
        return access_of(
            search=bool(self.search_api_key),
            write=bool(self.write_api_key),
            admin=bool(self.admin_api_key),
            keyless_loopback=self.keyless_writes == "loopback",
        )


def variable(setting: Field[Any]) -> str:
    """Return the name of the environment variable of a setting."""
    return setting.name.upper()


def _unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """Return variables that look like misspelt settings: they would silently stay at their defaults."""
    known = {variable(setting) for setting in fields(Settings)}
    mistakes = []
    for name in sorted(environ):
        if name in known or name in FOREIGN_NAMES or _ORCHESTRATOR_NAME.match(name):
            continue
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.88) if len(name) >= 6 else []
        if close:
            mistakes.append(f"{name} is not a setting; {close[0]} is")
        elif name.startswith(_OUR_PREFIXES):
            mistakes.append(f"{name} is not a setting (docs/SETTINGS.md lists them)")
    return mistakes
