// One result as a card, and everything that is known of it in a dialog.

import { dialog, fill, h, icon } from "./dom.js";
import { fixed } from "./format.js";
import { problemBox } from "./parts.js";
import { factsOf, idFieldOf, idOf, pictureOf, titleOf } from "./seen.js";
import { get, toJson } from "./service.js";
import { t } from "./words.js";

const FACTS_MAX = 4;

/** Return the card of a hit. acts: like(id), unlike(id) or null, hide(id), only(key, value). */
export function card(hit, collection, acts) {
  const id = idOf(hit);
  const title = titleOf(hit);
  return h("article", { class: "card" },
    h("button", { class: "picture", title: t("details"), "aria-label": `${t("details")}: ${title}`, onclick: () => showItem(hit, collection) },
      pictureElement(hit, title), h("span", { class: "rank" }, hit.rank)),
    h("div", { class: "card-text" },
      h("h3", { title }, title),
      title !== String(id) && h("p", { class: "id" }, id),
      h("meter", { min: 0, max: 1, value: hit.score, "aria-label": t("score") }),
      h("p", { class: "measures" },
        h("span", {}, h("span", { class: "quiet" }, t("score")), ` ${fixed(hit.score, 4)}`),
        h("span", {}, h("span", { class: "quiet" }, t("distance")), ` ${fixed(hit.distance, 4)}`)),
      h("p", { class: "facts" }, factsOf(hit, FACTS_MAX).map(([key, value]) =>
        h("button", { class: "fact", title: t("only_these", { key, value }), onclick: () => acts.only(key, value) },
          h("span", { class: "quiet" }, key), " ", String(value))))),
    h("div", { class: "card-acts" },
      h("button", { onclick: () => acts.like(id), "aria-label": `${t("like")}: ${title}` }, t("like")),
      acts.unlike && iconButton("unlike", title, () => acts.unlike(id)),
      iconButton("hide", title, () => acts.hide(id))));
}

function iconButton(name, title, onclick) {
  return h("button", { class: "only-icon", title: t(name), "aria-label": `${t(name)}: ${title}`, onclick }, icon(name));
}

function pictureElement(hit, title) {
  const address = pictureOf(hit);
  const letters = h("span", { class: "letters", css: { "--hue": hueOf(title) }, "aria-hidden": "true" }, [...title].slice(0, 2).join(""));
  if (!address) return letters;
  const image = h("img", { src: address, alt: "", loading: "lazy", decoding: "async", referrerpolicy: "no-referrer" });
  image.addEventListener("error", () => image.replaceWith(letters));
  return image;
}

const hueOf = (text) => [...text].reduce((sum, each) => (sum * 31 + each.codePointAt(0)) % 360, 7);

function showItem(hit, collection) {
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
        h("dt", {}, t("score")), h("dd", {}, hit.score),
        h("dt", {}, t("distance")), h("dd", {}, hit.distance)),
      h("h3", {}, t("item_stored")), stored,
      h("p", { class: "row" }, h("button", { autofocus: true, onclick: () => close() }, t("close"))));
  });
}
