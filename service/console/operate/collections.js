// What is held: collections, their generations, what they weigh, and how they stand to their sources.

import { h } from "./dom.js";
import { bytes, duration, moment, number } from "./format.js";
import { metricSamples, sumOf } from "./metrics.js";
import { command, problemBox, say } from "./parts.js";
import { get, post } from "./service.js";
import { t } from "./words.js";
import { watchedPage } from "./watch.js";

const BRAKE = "sync.brake"; // cursors by which a feeder tells what it holds back, and hears a wish
const QUARANTINE = "sync.quarantine";
const RETRY = "sync.retry";
const BYTES_A_NUMBER = 4; // of a vector in memory

/** Return the page, see app.js. */
export const collectionsPage = () => watchedPage(t("nav_collections"), { load, show, every_s: 10 });

/** What is open to everyone comes with every answer; the rest where the key opens it. */
async function load(isAsked) {
  const { data: health } = await get("/health", { accept: [503] });
  try {
    const [{ data: all }, { data: sync }, samples] = await Promise.all([get("/v1/collections"), get("/v1/sync/status"), metricSamples(isAsked)]);
    return { health, all: all.collections, sync: sync.collections, samples };
  } catch (problem) {
    if (!problem.asksForKey) throw problem;
    return { health, problem };
  }
}

function show({ health, problem, all, sync, samples }, again) {
  if (problem) {
    return [problemBox(problem, again), h("p", { class: "quiet" }, t("without_key")),
      h("div", { class: "tiles" }, Object.entries(health.collections).map(([name, each]) => tile({ ...each, name, embedding_version: each.version }, each)))];
  }
  return h("div", { class: "tiles" }, all.map((each) => tile(each, sync[each.name], samples, again)));
}

function tile(collection, sync, samples, again) {
  const { name, problem, reason, hint } = collection;
  return h("section", { class: "panel tile", "aria-label": name },
    h("div", { class: "row between" }, h("h2", {}, name), syncMark(sync)),
    (problem ?? reason) && h("div", { class: "warning" }, h("p", {}, problem ?? reason), hint && command(hint)),
    h("p", { class: "figure" }, number(collection.count), h("span", { class: "quiet" }, ` ${t("items_live")}`)),
    facts([
      [t("model"), [collection.model, " ", !collection.model_available && h("span", { class: "mark bad" }, t("model_missing"))]],
      [t("version"), h("code", {}, collection.embedding_version || "–")],
      [t("dim_metric"), [number(collection.dim), collection.metric].filter(Boolean).join(" · ")],
      collection.id_field && [t("id_field"), `${collection.id_field} (${collection.id_type})`],
      collection.text_template && [t("text_template"), h("code", {}, collection.text_template)],
      ["seq", number(collection.seq)],
    ]),
    samples && [h("h3", {}, t("weight")), weightFacts(collection, samples)],
    h("h3", {}, t("sync")), syncFacts(name, sync, again),
    sync?.generations?.length > 0 && [h("h3", {}, t("generations")), generationTable(sync.generations)]);
}

/** Return a list of names and what they are. */
export const facts = (pairs) => h("dl", {}, pairs.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

/** What the collection takes on disk and in memory over all generations, and how well its searches find. */
function weightFacts({ name, dim }, samples) {
  const sum = (metric) => sumOf(samples, `uhok_collection_${metric}`, { collection: name });
  const [store, mapped, rows] = [sum("store_bytes"), sum("mapped_bytes"), sum("delta_rows")];
  const [expected, found] = ["expected", "found"].map((each) => sumOf(samples, `uhok_recall_${each}_total`, { collection: name }));
  return facts([
    [t("disk"), t("disk_parts", { all: bytes((store ?? 0) + (mapped ?? 0)), store: bytes(store), segments: bytes(mapped) })],
    [t("memory"), t("memory_parts", { mapped: bytes(mapped), rows: number(rows), bytes: bytes((rows ?? 0) * dim * BYTES_A_NUMBER) })],
    [t("segments"), t("segments_parts", { segments: number(sum("segments")), rows: number(sum("sealed_rows")), hidden: number(sum("hidden_rows")), tombstones: number(sum("tombstones")) })],
    [t("recall"), expected ? t("recall_of", { recall: `${number((100 * found) / expected, 2)}\u00a0%`, count: number(expected) }) : t("recall_none")],
  ]);
}

function syncMark(sync) {
  if (!sync || sync.in_sync === null) return h("span", { class: "mark" }, t("sync_unknown"));
  return sync.in_sync ? h("span", { class: "mark good" }, t("sync_equal")) : h("span", { class: "mark bad" }, t("sync_differs"));
}

function syncFacts(name, sync, again) {
  if (!sync) return null;
  const brake = told(sync.cursors, BRAKE, (each) => typeof each.why === "string");
  const cursors = Object.entries(sync.cursors ?? {}).filter(([, value]) => value !== "");
  if (sync.in_sync === null && !brake && cursors.length === 0) return h("p", { class: "quiet" }, t("sync_none"));
  return [
    brake && h("div", { class: "warning" }, h("p", {}, h("strong", {}, t("brake")), ` ${brake.why}`),
      h("p", {}, t("brake_since", { when: moment(brake.since_ms) })), brake.hint && command(brake.hint)),
    facts([
      [t("lag"), sync.lag_ms === null ? "–" : duration(sync.lag_ms / 1000)],
      sync.as_of_ms !== undefined && [t("compared_at"), moment(sync.as_of_ms)],
      sync.quarantined !== undefined && [t("quarantined"), number(sync.quarantined)],
    ]),
    quarantinePart(name, sync, again),
    cursors.length > 0 && h("details", {}, h("summary", {}, t("cursors", { count: cursors.length })),
      facts(cursors.map(([each, value]) => [each, h("code", {}, value.length > 300 ? `${value.slice(0, 300)}…` : value)]))),
  ];
}

/** Why items are set aside, some of them by name, and the wish that the feeder try them again. */
function quarantinePart(name, { quarantined, cursors }, again) {
  const quarantine = told(cursors, QUARANTINE, (each) => Array.isArray(each.reasons));
  if (!quarantine && !quarantined) return null;
  const retry = async () => {
    try {
      await post("/v1/upsert", { collection: name, items: [], source: { [RETRY]: String(Date.now()) } });
      say(t("retry_asked"));
    } catch (problem) {
      say(problem.message);
    }
    again();
  };
  return h("div", { class: "warning quarantine" },
    quarantine ? h("ul", {}, quarantine.reasons.map(({ why, count, ids }) => h("li", {}, h("strong", {}, number(count)), ` ${why}`,
      Array.isArray(ids) && h("span", { class: "quiet" }, ` (${ids.map(String).join(", ")}${count > ids.length ? ", …" : ""})`))))
      : h("p", {}, t("quarantined_how")),
    h("p", { class: "row" }, h("button", { class: "small", type: "button", onclick: retry }, t("quarantine_retry")), h("span", { class: "quiet" }, t("quarantine_retry_about"))));
}

/** What a feeder stored under a cursor, null if nothing that can be read: any caller with a write key may store some. */
function told(cursors, name, isIt) {
  try {
    const found = JSON.parse(cursors?.[name] || "null");
    return found && isIt(found) ? found : null;
  } catch {
    return null;
  }
}

export function generationTable(generations) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("generations") }, h("table", { class: "generations" },
    h("thead", {}, h("tr", {}, ["role", "live", "items_all", "kept", "waiting"].map((each) => h("th", { scope: "col" }, t(each))), h("th", { scope: "col" }, "seq"))),
    h("tbody", {}, generations.map((each) => h("tr", {},
      h("td", {}, h("span", { class: `mark ${each.role === "current" ? "good" : ""}` }, t(`role_${each.role}`)), h("br"), h("code", {}, each.embedding_version || each.generation)),
      [each.live, each.items, each.contents, each.awaiting, each.seq].map((count) => h("td", { class: "number" }, number(count))))))));
}
