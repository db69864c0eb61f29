// What goes around a question: what it leaves out or leans on, its filter, its options, and one item explained.

import { besides } from "./compare.js";
import { fill, h, icon } from "./dom.js";
import { ALIKE } from "./duplicates.js";
import { explanation, isExplained } from "./explain.js";
import { choice } from "./parts.js";
import { isRecommended, modeOf } from "./question.js";
import { rankingOptions } from "./ranking.js";
import { t } from "./words.js";

/** Return what the answer leaves out or leans on, each with a way back. again(): draws and asks. */
export function chipsOf(question, again) {
  const chip = (words, label, drop) => h("button", { type: "button", class: "chip", title: label, "aria-label": label, onclick: () => {
    drop();
    again();
  } }, words, icon("close"));
  const without = (list, id) => list.splice(list.indexOf(id), 1);
  const { kind, like, unlike, exclude } = question;
  return h("p", { class: "chips" },
    kind === "ids" && like.map((id) => chip(t("liked", { id }), t("take_out", { id }), () => without(like, id))),
    kind === "ids" && unlike.map((id) => chip(t("unliked", { id }), t("take_out", { id }), () => without(unlike, id))),
    exclude.map((id) => chip(t("hidden", { id }), t("show_again", { id }), () => without(exclude, id))));
}

/** Return the parts that are folded away. abilities: of the collection. acts: ask(), again(focused): draws, too, learn(): the keys and values, body(): of the
 *  question, null without one. isOpen: names of the parts that a reader has opened; kept up to date here. */
export function foldsOf(question, abilities, filter, seen, acts, isOpen) {
  const fold = (name, words, content, ontoggle) => h("details", { open: isOpen.has(name), ontoggle: (event) => {
    if (event.target.open) isOpen.add(name);
    else isOpen.delete(name);
    ontoggle?.(event);
  } }, h("summary", {}, words), content);
  const { conditions } = question;
  const filterWords = [t("filter"), conditions.length > 0 && h("span", { class: "count" }, conditions.length)];
  const set = [question.exact, question.maxDistance !== "", question.alike, question.beside, question.diversity, question.groupKey, isRecommended(question) && question.recommend !== "mean"].filter(Boolean).length;
  return h("div", { class: "folds" },
    fold("filter", filterWords, filter.element, (event) => event.target.open && acts.learn()),
    fold("options", [t("options"), set > 0 && h("span", { class: "count" }, set)], optionsOf(question, abilities, seen, acts), (event) => event.target.open && !seen.facets && acts.learn()),
    fold("explain", t("explain"), explainer(seen, acts)));
}

function optionsOf(question, abilities, seen, acts) {
  const pick = (name, options) => choice(name, t(name), question[name], options, (value) => {
    question[name] = value;
    acts.again(name);
  });
  return h("div", { class: "options" },
    h("label", { class: "field" }, h("span", {}, t("page_size")), h("input", { type: "number", min: 1, max: 1000, value: question.pageSize, onchange: (event) => {
      question.pageSize = Math.min(1000, Math.max(1, Math.round(Number(event.target.value)) || 24));
      acts.ask();
    } })),
    h("label", { class: "field" }, h("span", {}, t("max_distance")), h("input", { type: "number", disabled: modeOf(question, abilities) === "lexical", step: "any", value: question.maxDistance, onchange: (event) => {
      question.maxDistance = event.target.value;
      acts.ask();
    } })),
    rankingOptions(question, seen, acts.again),
    pick("alike", [["", t("alike_off")], ...ALIKE.map((each) => [each, t("alike_from", { cosine: each })])]),
    pick("beside", [["", t("beside_nothing")], ...besides(question, abilities).map((each) => [each, t(`beside_${each}`)])]),
    question.beside === "text" && h("label", { class: "field" }, h("span", {}, t("beside_other_text")), h("input", { id: "other-text", value: question.otherText, autocomplete: "off", maxlength: 1000, onchange: (event) => {
      question.otherText = event.target.value;
      acts.ask();
    } })),
    h("label", { class: "check" }, h("input", { type: "checkbox", id: "exact", checked: question.exact, onchange: (event) => {
      question.exact = event.target.checked;
      acts.again("exact");
    } }), t("exact")),
    question.alike && h("p", { class: "quiet wide" }, t("alike_about", { cosine: question.alike })),
    question.beside && question.kind === "look" && ["next", "former"].includes(question.beside) && h("p", { class: "warning wide" }, t("beside_needs")));
}

function explainer(seen, acts) {
  const told = h("div", {});
  const input = h("input", { id: "explain-id", autocomplete: "off", spellcheck: "false" });
  const explain = (event) => {
    if (event.type === "keydown" && event.key !== "Enter") return;
    event.preventDefault(); // the form around it would search
    const body = acts.body();
    if (!input.value.trim() || !body) fill(told, h("p", { class: "quiet" }, t("nothing_asked")));
    else if (!isExplained(body)) fill(told, h("p", { class: "quiet" }, t("explain_not")));
    else fill(told, explanation(seen.typedId(input.value), body));
  };
  input.addEventListener("keydown", explain);
  return h("div", { class: "explainer" },
    h("p", { class: "quiet" }, t("explain_about")),
    h("div", { class: "ask" }, h("label", { class: "field" }, h("span", {}, t("explain_id")), input),
      h("button", { type: "button", onclick: explain }, t("explain_do"))),
    told);
}
