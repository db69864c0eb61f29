// What a switch to the next generation would change, as the service compared it.

import { h, shape } from "./dom.js";
import { fixed, moment, number } from "./format.js";
import { pictureOf } from "./seen.js";
import { get } from "./service.js";
import { t } from "./words.js";
import { facts } from "./collections.js";
import { table } from "./health.js";

const CHANGED_MAX = 10;

/** Return the elements of a report (the schema Report of openapi.yaml). */
export function reportView(report) {
  const { overall } = report;
  return [
    h("p", {}, h("span", { class: `mark ${report.holds ? "good" : "bad"}` }, t(report.holds ? "gates_hold" : "gates_fail")),
      report.is_stale && [" ", h("span", { class: "mark" }, t("report_stale"))],
      h("span", { class: "quiet" }, ` ${moment(report.timing?.made_at)}`)),
    table([t("gate"), t("value"), t("limit"), t("gate_state")], report.gates.map((each) => [
      h("code", {}, each.name + (each.kind ? ` (${each.kind})` : "")), share(each.value), share(each.limit), h("span", { class: `mark ${each.holds ? "good" : "bad"}` }, t(each.holds ? "holds" : "fails"))]), t("gate")),
    overall && facts([
      [t("compared"), number(overall.queries)],
      [t("overlap_1"), share(overall.overlap_at_1)],
      [t("overlap_10"), share(overall.overlap_at_10)],
      [t("rbo"), share(overall.rbo)],
      [t("nothing_now"), number(overall.zero_new)],
    ]),
    report.overlap_histogram && [h("h3", {}, t("overlap_histogram")), bars(report.overlap_histogram)],
    report.rank_moves && Object.keys(report.rank_moves).length > 0 && [h("h3", {}, t("rank_moves")), facts(Object.entries(report.rank_moves).map(([move, count]) => [t(`move_${move}`), number(count)]))],
    report.changed?.length > 0 && [h("h3", {}, t("changed_most")), report.changed.slice(0, CHANGED_MAX).map((each) => changedQuery(each, report.collection))],
  ];
}

const share = (value) => (value === null || value === undefined ? "–" : fixed(value, 3));

/** Queries by how many of the first ten stayed: eleven bars. */
function bars(counts) {
  const most = Math.max(1, ...counts);
  const label = counts.map((count, place) => `${place / 10}: ${count}`).join(", ");
  return shape("svg", { viewBox: "0 0 330 120", class: "bars", role: "img", "aria-label": label },
    counts.map((count, place) => [
      shape("rect", { x: place * 30 + 3, y: 100 - (80 * count) / most, width: 24, height: (80 * count) / most, rx: 2 }),
      shape("text", { x: place * 30 + 15, y: 96 - (80 * count) / most, "text-anchor": "middle" }, count || ""),
      shape("text", { x: place * 30 + 15, y: 115, "text-anchor": "middle" }, place / 10)]));
}

function changedQuery(each, collection) {
  const rows = []; // [id, element]
  const row = (hit) => {
    const element = h("li", { class: hit.other_rank === null && "lone" }, hit.title || String(hit.id), h("span", { class: "quiet" }, ` ${fixed(hit.distance, 3)}${hit.other_rank ? ` (${hit.other_rank})` : ""}`));
    rows.push([hit.id, element]);
    return element;
  };
  const side = (role, hits) => h("div", {}, h("h4", {}, t(`role_${role}`)), h("ol", {}, hits.map(row)));
  const details = h("details", { class: "changed" }, h("summary", {}, each.label || each.kind, h("span", { class: "quiet" }, ` ${t("overlap_10")} ${share(each.overlap_at_10)}`)),
    h("div", { class: "sides" }, side("current", each.before), side("next", each.after)));
  details.addEventListener("toggle", () => showPictures(rows, collection), { once: true });
  return details;
}

/** Put pictures before titles, where the items have some; none where they can't be had. */
async function showPictures(rows, collection) {
  const read = (id) => get(`/v1/items/${encodeURIComponent(id)}?collection=${encodeURIComponent(collection)}`).then(({ data }) => pictureOf(data), () => null);
  const ids = [...new Set(rows.map(([id]) => id))];
  if (!ids.length || !(await read(ids[0]))) return;
  const pictures = new Map(await Promise.all(ids.map(async (id) => [id, await read(id)])));
  for (const [id, element] of rows) {
    const address = pictures.get(id);
    if (address) element.prepend(h("img", { src: address, alt: "", loading: "lazy", referrerpolicy: "no-referrer", onerror: (event) => event.target.remove() }));
  }
}
