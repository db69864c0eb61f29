// What is said above the results: how many there are, and what the service or the browser made of the question.

import { h } from "./dom.js";
import { fixed, number } from "./format.js";
import { command } from "./parts.js";
import { t } from "./words.js";

/** Return the line above an answer. shown: how many results are shown, near-duplicates put together as one.
 *  isPlaced: whether the question has a place on the map. */
export function summaryOf({ hits, last, ms }, shown, isPlaced) {
  const twins = hits.length - shown;
  const facts = [
    twins > 0 && t("twins_in_all", { count: number(twins) }),
    t("took", { service: fixed(last.took_ms, 1), all: fixed(ms, 0) }),
    last.mode && t(`mode_${last.mode}`),
    last.embedding_version,
    `seq ${last.seq}`,
  ];
  return h("div", { class: "summary" },
    h("h2", {}, hits.length ? t("found", { count: number(shown) }) : t("found_none")),
    h("p", { class: "quiet", role: "status" }, facts.filter(Boolean).join(" · ")),
    isPlaced && h("a", { class: "quiet", href: "#/map" }, t("on_the_map")));
}

/** Return what the service says of the question, beside its results. */
export function noticesOf({ last, isNothingGood }) {
  return [
    last.interpreted_as && h("p", { class: "told-as", role: "status" }, t("interpreted_as", { text: last.interpreted_as })),
    isNothingGood && h("p", { class: "warning", role: "status" }, t("no_good_match")),
    last.truncated && h("p", { class: "warning" }, t("truncated")),
    (last.warnings ?? []).map((each) => h("p", { class: "warning" }, each)),
  ];
}

/** Return what to do about a picture that the browser did not load. address: of it. */
export function blockedNotice(address) {
  const { host } = new URL(address, location.origin);
  return h("div", { class: "warning blocked" }, command(t("picture_blocked", { host })));
}
