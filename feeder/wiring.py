"""Names the implementations: plain constructor calls, top to bottom."""

from __future__ import annotations

from feeder.applying import Applier
from feeder.errors import SettingsWrong
from feeder.images import PictureFetcher
from feeder.importing import Importer, Parts
from feeder.probe import ProbeRules, SpaceProbe
from feeder.reporting import Progress
from feeder.settings import Settings
from feeder.sources.mariadb import MariaDBItems
from feeder.sources.pgvector import PgVectorSource
from feeder.sources.port import ItemSource, VectorSource
from feeder.sources.postgres import PostgresItems
from feeder.sources.session import Patience, maria_session, postgres_session
from feeder.tables import CollectionTables
from vector_client.http import VectorClient
from vector_client.transport import Limits


def client_of(settings: Settings) -> VectorClient:
    bounds = settings.bounds
    limits = Limits(bounds.timeout_s, bounds.retries, connections_max=bounds.connections + 1)
    return VectorClient.to(settings.service_url, settings.keys, limits)


def vectors_of(settings: Settings, tables: CollectionTables) -> VectorSource:
    if settings.vectors is None:
        raise SettingsWrong("the pgvector database is not set: TGT_DB_* or POSTGRES_RECOMMEND_URL")
    session = postgres_session(settings.vectors, patience_of(settings))
    return PgVectorSource(session, tables.vectors, tables.id_kind, tables.dim)


def items_of(settings: Settings, tables: CollectionTables) -> ItemSource | None:
    database = settings.items_database(tables)
    if database is None or tables.items is None:
        return None
    if database.engine == "mariadb":
        return MariaDBItems(maria_session(database, patience_of(settings)), tables.items, tables.id_kind)
    return PostgresItems(postgres_session(database, patience_of(settings)), tables.items, tables.id_kind)


def patience_of(settings: Settings) -> Patience:
    return Patience(settings.bounds.source_timeout_s, settings.bounds.retries)


def importer_of(
    settings: Settings, tables: CollectionTables, client: VectorClient, progress: Progress
) -> Importer:
    bounds = settings.bounds
    median_min = bounds.probe_text_min if tables.modality == "text" else bounds.probe_image_min
    parts = Parts(
        vectors=vectors_of(settings, tables),
        items=items_of(settings, tables),
        applier=Applier(
            client,
            tables.name,
            dim=tables.dim,
            batch_items=bounds.batch_items,
            connections=bounds.connections,
        ),
        probe=SpaceProbe(
            client,
            tables.name,
            tables.modality,
            tables.vectors.text_template,
            ProbeRules(median_min, bounds.noise_percent_max),
        ),
        pictures=PictureFetcher(
            settings.image_hosts, settings.image_networks, bounds.image_bytes_max, bounds.image_timeout_s
        ),
        progress=progress,
    )
    return Importer(tables, parts, bounds)
