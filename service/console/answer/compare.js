// Two answers side by side: the question as it stands, and the same under one other setting or from another generation.

import { isNear, pictureElement } from "./cards.js";
import { h } from "./dom.js";
import { fixed, number } from "./format.js";
import { problemBox } from "./parts.js";
import { idOf, titleOf } from "./seen.js";
import { included, isRecommended, modeOf } from "./question.js";
import { post } from "./service.js";
import { t } from "./words.js";
import { movesOf } from "./why.js";

export const RECOMMENDS = ["mean", "best", "each"];
const GENERATIONS = ["next", "former"];

/** What may stand beside an answer, for `question`: names for the words `beside_...`. abilities: of its collection. */
export function besides(question, abilities) {
  const mode = modeOf(question, abilities);
  return [
    question.exact ? "approximate" : "exact",
    "unfiltered",
    ...(mode ? abilities.modes.filter((each) => each !== mode).map((each) => `mode_${each}`) : []),
    ...(isRecommended(question) ? RECOMMENDS.filter((each) => each !== question.recommend).map((each) => `recommend_${each}`) : []),
    ...(question.diversity || question.groupKey ? ["unranked"] : []),
    ...(question.kind === "text" ? ["text"] : []),
    ...GENERATIONS,
  ];
}

/** Return the answer to `body` under the other setting. Throws Problem. */
export async function askBeside(question, body, abilities, signal) {
  const { beside, otherText, collection } = question;
  if (GENERATIONS.includes(beside)) {
    const path = `/v1/collections/${encodeURIComponent(collection)}/generations/${beside}/search`;
    const include = body.include.filter((each) => each !== "confidence"); // its model may not be calibrated
    return (await post(path, { ...body, include }, { signal })).data;
  }
  const other = { ...body };
  if (beside === "exact") other.exact = true;
  if (beside === "approximate") delete other.exact;
  if (beside === "unfiltered") for (const each of ["filter", "exclude_ids", "max_distance"]) delete other[each];
  const [, field, value] = /^(mode|recommend)_(.+)$/.exec(beside) ?? [];
  if (field) other[field] = value;
  if (field) other.include = included(other, abilities.confidence.includes(other.mode));
  if (value === "lexical") delete other.max_distance; // words have none
  if (beside === "unranked") for (const each of ["diversity", "group_by"]) delete other[each];
  if (beside === "text" && otherText.trim()) other.query = otherText.trim();
  return (await post("/v1/search", other, { signal })).data;
}

/** Return both lists. answer: as /v1/search gave it; other: likewise, a Problem, or null while it is asked for.
 *  open(hit): called for the hit that a reader wants to see whole. */
export function comparison(answer, other, question, { open, retry }) {
  const isThere = other && !(other instanceof Error);
  const [before, after] = [answer.results, isThere ? other.results : []];
  return h("div", { class: "comparison" },
    isThere && summary(before, after),
    h("div", { class: "columns" },
      column(t("beside_this"), answer, isThere ? gone(before, after) : new Map(), open),
      isThere ? column(besideWords(question), other, rises(before, after), open)
        : h("section", { class: "panel column" }, h("h3", {}, besideWords(question)),
          other ? problemBox(other, retry) : h("p", { class: "quiet" }, t("searching")))));
}

const besideWords = ({ beside, otherText }) => (beside === "text" ? `“${otherText}”` : t(`beside_${beside}`));

function summary(before, after) {
  const moves = [...movesOf(after, before).values()];
  const kept = moves.filter((each) => each !== null).length;
  const moved = moves.filter(Boolean).length;
  return h("p", { class: "moved", role: "status" }, kept === before.length && kept === after.length && !moved
    ? t("beside_equal")
    : t("beside_differs", { kept: number(kept), count: number(Math.max(before.length, after.length)), moved: number(moved), fresh: number(after.length - kept) }));
}

function column(title, { results, embedding_version, took_ms }, marks, open) {
  return h("section", { class: "panel column" }, h("h3", {}, title),
    h("p", { class: "quiet" }, [embedding_version, `${fixed(took_ms, 1)} ms`].join(" · ")),
    results.length === 0 && h("p", { class: "quiet" }, t("found_none")),
    h("ol", { class: "ranking" }, results.map((hit, place) => h("li", {},
      h("span", { class: "place" }, place + 1),
      h("button", { class: "row-picture", title: t("details"), "aria-label": `${t("details")}: ${titleOf(hit)}`, onclick: () => open(hit) }, pictureElement(hit, titleOf(hit))),
      h("span", { class: "row-text" }, h("strong", {}, titleOf(hit)), h("span", { class: "quiet" }, idOf(hit), h("span", { class: "far" }, ` · ${fixed(isNear(hit) ? hit.distance : hit.score, 4)}`))),
      marks.get(idOf(hit))))));
}

/** Marks of the left list: only what the right one has not. */
const gone = (before, after) =>
  new Map([...movesOf(before, after)].filter(([, by]) => by === null).map(([id]) => [id, h("span", { class: "mark bad" }, t("beside_gone"))]));

/** Marks of the right list: how far each has moved. */
function rises(before, after) {
  const mark = (by) => {
    if (by === null) return h("span", { class: "mark good" }, t("beside_new"));
    if (by === 0) return null;
    const words = t(by > 0 ? "beside_up" : "beside_down", { count: Math.abs(by) });
    return h("span", { class: "mark", title: words, "aria-label": words, role: "img" }, `${by > 0 ? "▲" : "▼"}${Math.abs(by)}`);
  };
  return new Map([...movesOf(after, before)].map(([id, by]) => [id, mark(by)]));
}
