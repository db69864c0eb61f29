// One result as a card, and everything that is known of it in a dialog.

import { dialog, fill, h, icon } from "./dom.js";
import { explanation, isExplained } from "./explain.js";
import { fixed, number } from "./format.js";
import { problemBox } from "./parts.js";
import { factsOf, idFieldOf, idOf, pictureOf, titleOf } from "./seen.js";
import { get, toJson } from "./service.js";
import { t } from "./words.js";

const FACTS_MAX = 4;

/** Return the card of a hit. common: as commonOf says. best: the largest score of the answer. acts: like(id), unlike(id) or null, hide(id), only(key, value),
 *  open(hit), and unfold(id) where it stands for `twins` near-duplicates. isTwin: whether it is one of them. */
export function card(hit, common, acts, { best = 1, twins = 0, isUnfolded = false, isTwin = false } = {}) {
  const id = idOf(hit);
  const title = titleOf(hit);
  const isSure = hit.confidence !== undefined;
  return h("article", { class: isTwin ? "card twin" : "card" },
    h("button", { class: "picture", title: t("details"), "aria-label": `${t("details")}: ${title}`, onclick: () => acts.open(hit) },
      pictureElement(hit, title), h("span", { class: "rank" }, hit.rank)),
    h("div", { class: "card-text" },
      h("h3", { title }, title),
      title !== String(id) && h("p", { class: "id" }, id),
      h("meter", { min: 0, max: isSure ? 1 : Math.max(1, best), value: isSure ? hit.confidence : hit.score, "aria-label": t(isSure ? "confidence" : "score") }),
      isSure && h("p", { class: "confidence" }, h("span", { class: "quiet" }, t("confidence")), ` ${percent(hit)}`),
      h("p", { class: "measures" },
        h("span", {}, h("span", { class: "quiet" }, t("score")), ` ${fixed(hit.score, 4)}`),
        isNear(hit) && h("span", {}, h("span", { class: "quiet" }, t("distance")), ` ${fixed(hit.distance, 4)}`)),
      hit.why && h("p", { class: "why" }, whyOf(hit, common)),
      wordsOf(hit, common) && h("p", { class: "why" }, wordsOf(hit, common)),
      h("p", { class: "facts" }, factsOf(hit, FACTS_MAX).map(([key, value]) =>
        h("button", { class: common.shared.has(key) ? "fact shared" : "fact", title: t("only_these", { key, value }), onclick: () => acts.only(key, value) },
          common.shared.has(key) && h("span", { class: "same" }, h("span", { "aria-hidden": "true" }, "= "), h("span", { class: "unseen" }, t("why_same"))),
          h("span", { class: "quiet" }, key), " ", String(value)))),
      twins > 0 && h("button", { class: "small twins", "aria-expanded": String(isUnfolded), "data-twins": String(id), onclick: () => acts.unfold(id) }, t(isUnfolded ? "twins_hide" : "twins", { count: twins }))),
    h("div", { class: "card-acts" },
      h("button", { onclick: () => acts.like(id), "aria-label": `${t("like")}: ${title}` }, t("like")),
      acts.unlike && iconButton("unlike", title, () => acts.unlike(id)),
      iconButton("hide", title, () => acts.hide(id))));
}

function iconButton(name, title, onclick) {
  return h("button", { class: "only-icon", title: t(name), "aria-label": `${t(name)}: ${title}`, onclick }, icon(name));
}

/** Return the item's picture, or letters of its title where there is none. */
export function pictureElement(hit, title) {
  const address = pictureOf(hit);
  const letters = h("span", { class: "letters", css: { "--hue": hueOf(title) }, "aria-hidden": "true" }, [...title].slice(0, 2).join(""));
  if (!address) return letters;
  const image = h("img", { src: address, alt: "", loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
  image.addEventListener("error", () => image.replaceWith(letters));
  return image;
}

/** Whether the hit was found by its vector, not by words alone: only then it has a distance. */
export const isNear = (hit) => hit.distance !== undefined;

const hueOf = (text) => [...text].reduce((sum, each) => (sum * 31 + each.codePointAt(0)) % 360, 7);

/** Nothing is told as certain that was fitted to judgements. */
function percent({ confidence }) {
  if (confidence > 0.99) return "> 99 %";
  return confidence < 0.001 ? "< 0.1 %" : `${number(100 * confidence, confidence < 0.1 ? 1 : 0)} %`;
}

/** Of what the score is made, or which liked item the hit is for, as the service tells it. */
function whyOf({ why }, { titleOf: titleOfLiked }) {
  if (why.like_id !== undefined) return t("why_liked", { title: titleOfLiked(why.like_id) });
  const words = fixed((why.weight ?? 1) * (why.lexical ?? 0), 3);
  return [why.dense !== undefined && t("why_dense", { score: fixed(why.dense, 3) }), Number(words) > 0 && t("why_lexical", { score: words })].filter(Boolean).join(" + ");
}

/** Which words of the question the hit holds: as the service tells it, else those that stand in its metadata as they are. */
function wordsOf({ why }, { words }) {
  const told = why?.matched?.map(({ word, by }) => (by === "sounds" ? t("why_sounds", { word }) : `“${word}”`)) ?? words.map(([word, key]) => `“${word}” (${key})`);
  return told.length > 0 && t("why_words", { words: told.join(", ") });
}

/** Show everything of a hit. asked: body of the search that it answers. common: as commonOf says. */
export function showItem(hit, collection, asked, common) {
  const id = idOf(hit);
  return dialog(titleOf(hit), (close) => {
    const stored = h("div", {}, h("p", { class: "quiet" }, t("loading")));
    const load = async () => {
      try {
        const { data } = await get(`/v1/items/${encodeURIComponent(id)}?collection=${encodeURIComponent(collection)}`);
        fill(stored, h("pre", { tabindex: "0" }, toJson(data, 2)));
      } catch (problem) {
        fill(stored, problemBox(problem, load));
      }
    };
    load();
    return h("div", { class: "item" },
      pictureOf(hit) && h("div", { class: "picture large" }, pictureElement(hit, titleOf(hit))),
      h("dl", {},
        h("dt", {}, idFieldOf(hit)), h("dd", {}, id),
        h("dt", {}, t("score")), h("dd", {}, fixed(hit.score, 6)),
        hit.confidence !== undefined && [h("dt", {}, t("confidence")), h("dd", {}, percent(hit))],
        isNear(hit) && [h("dt", {}, t("distance")), h("dd", {}, fixed(hit.distance, 6))]),
      h("h3", {}, t("why")),
      hit.why && h("p", {}, whyOf(hit, common)),
      h("p", {}, isNear(hit) && t("why_vector"), wordsOf(hit, common) && ` ${wordsOf(hit, common)}`,
        common.shared.size > 0 && ` ${t("why_shared", { keys: [...common.shared].join(", ") })}`),
      isExplained(asked) && explanation(id, asked),
      h("h3", {}, t("item_stored")), stored,
      h("p", { class: "row" }, h("button", { autofocus: true, onclick: () => close() }, t("close"))));
  });
}
