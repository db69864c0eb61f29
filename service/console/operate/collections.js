// What is held: collections, their generations, and how they stand to their sources.

import { h } from "./dom.js";
import { duration, moment, number } from "./format.js";
import { command, problemBox } from "./parts.js";
import { get } from "./service.js";
import { t } from "./words.js";
import { watchedPage } from "./watch.js";

const BRAKE = "sync.brake"; // the cursor by which a feeder tells that it holds deletes back

/** Return the page, see app.js. */
export const collectionsPage = () => watchedPage(t("nav_collections"), { load, show, every_s: 10 });

/** What is open to everyone comes with every answer; the rest where the key opens it. */
async function load() {
  const { data: health } = await get("/health", { accept: [503] });
  try {
    const [{ data: all }, { data: sync }] = await Promise.all([get("/v1/collections"), get("/v1/sync/status")]);
    const generations = await Promise.all(
      all.collections.map(({ name }) => get(`/v1/collections/${encodeURIComponent(name)}/generations`).then(({ data }) => data.generations, () => [])));
    return { health, all: all.collections, sync: sync.collections, generations };
  } catch (problem) {
    if (!problem.asksForKey) throw problem;
    return { health, problem };
  }
}

function show({ health, problem, all, sync, generations }, again) {
  if (problem) {
    return [problemBox(problem, again), h("p", { class: "quiet" }, t("without_key")),
      h("div", { class: "tiles" }, Object.entries(health.collections).map(([name, each]) => tile({ ...each, name, embedding_version: each.version }, each)))];
  }
  return h("div", { class: "tiles" }, all.map((each, place) => tile(each, sync[each.name], generations[place])));
}

function tile(collection, sync, generations) {
  const { name, problem, reason, hint } = collection;
  return h("section", { class: "panel tile", "aria-label": name },
    h("div", { class: "row between" }, h("h2", {}, name), syncMark(sync)),
    (problem ?? reason) && h("div", { class: "warning" }, h("p", {}, problem ?? reason), hint && command(hint)),
    h("p", { class: "figure" }, number(collection.count), h("span", { class: "quiet" }, ` ${t("items_live")}`)),
    facts([
      [t("model"), [collection.model, !collection.model_available && h("span", { class: "mark bad" }, t("model_missing"))]],
      [t("version"), h("code", {}, collection.embedding_version || "–")],
      [t("dim_metric"), [number(collection.dim), collection.metric].filter(Boolean).join(" · ")],
      collection.id_field && [t("id_field"), `${collection.id_field} (${collection.id_type})`],
      collection.text_template && [t("text_template"), h("code", {}, collection.text_template)],
      ["seq", number(collection.seq)],
    ]),
    h("h3", {}, t("sync")), syncFacts(sync),
    generations?.length > 0 && [h("h3", {}, t("generations")), generationTable(generations)]);
}

/** Return a list of names and what they are. */
export const facts = (pairs) => h("dl", {}, pairs.filter(Boolean).map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));

function syncMark(sync) {
  if (!sync || sync.in_sync === null) return h("span", { class: "mark" }, t("sync_unknown"));
  return sync.in_sync ? h("span", { class: "mark good" }, t("sync_equal")) : h("span", { class: "mark bad" }, t("sync_differs"));
}

function syncFacts(sync) {
  if (!sync) return null;
  const brake = brakeOf(sync.cursors);
  const cursors = Object.entries(sync.cursors ?? {}).filter(([, value]) => value !== "");
  return [
    brake && h("div", { class: "warning" }, h("p", {}, h("strong", {}, t("brake")), ` ${brake.why}`),
      h("p", {}, t("brake_since", { when: moment(brake.since_ms) })), brake.hint && command(brake.hint)),
    facts([
      [t("lag"), sync.lag_ms === null ? "–" : duration(sync.lag_ms / 1000)],
      sync.as_of_ms !== undefined && [t("compared_at"), moment(sync.as_of_ms)],
      sync.quarantined !== undefined && [t("quarantined"), [number(sync.quarantined), sync.quarantined > 0 && h("span", { class: "quiet" }, ` ${t("quarantined_how")}`)]],
    ]),
    cursors.length > 0 && h("details", {}, h("summary", {}, t("cursors", { count: cursors.length })),
      facts(cursors.map(([name, value]) => [name, h("code", {}, value.length > 300 ? `${value.slice(0, 300)}…` : value)]))),
  ];
}

function brakeOf(cursors) {
  try {
    const told = JSON.parse(cursors?.[BRAKE] ?? "null");
    return told && typeof told.why === "string" ? told : null;
  } catch {
    return null; // any caller with a write key may store cursors
  }
}

export function generationTable(generations) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": t("generations") }, h("table", {},
    h("thead", {}, h("tr", {}, ["role", "version", "live", "items_all", "kept", "waiting"].map((each) => h("th", { scope: "col" }, t(each))), h("th", { scope: "col" }, "seq"))),
    h("tbody", {}, generations.map((each) => h("tr", {},
      h("td", {}, h("span", { class: `mark ${each.role === "current" ? "good" : ""}` }, t(`role_${each.role}`))),
      h("td", {}, h("code", {}, each.embedding_version || each.generation)),
      [each.live, each.items, each.contents, each.awaiting, each.seq].map((count) => h("td", { class: "number" }, number(count))))))));
}
