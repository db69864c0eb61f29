// How results are found and ordered, beyond the question itself: the mode of a text, liked items, diversity, groups.

import { RECOMMENDS } from "./compare.js";
import { fill, h } from "./dom.js";
import { fixed } from "./format.js";
import { choice } from "./parts.js";
import { isRecommended, modeOf } from "./question.js";
import { t } from "./words.js";

const PER_GROUP_MAX = 100;

/** Return the choice how a text is searched, null where there is none. abilities: of the collection.
 *  change(id): draws and asks, with the focus on that element. */
export function modeChoice(question, abilities, change) {
  const { modes = [] } = abilities;
  if (question.kind !== "text" || modes.length < 2) return null;
  return choice("mode", t("mode"), modeOf(question, abilities), modes.map((each) => [each, t(`mode_${each}`)]), (value) => {
    question.mode = value;
    change("mode");
  });
}

/** Fill the choice of a key to group by with the collection's own. seen: SeenItems. Return it. */
export function offerKeys(select, question, seen) {
  const keys = (seen.facets ?? []).map(({ key }) => key);
  fill(select, h("option", { value: "" }, t("group_off")), keys.map((each) => h("option", { value: each }, each)));
  select.value = question.groupKey;
  return select;
}

/** Return the choices of the order. seen: SeenItems. change: as modeChoice takes it. */
export function rankingOptions(question, seen, change) {
  return [
    isRecommended(question) && choice("recommend", t("recommend"), question.recommend, RECOMMENDS.map((each) => [each, t(`recommend_${each}`)]), (value) => {
      question.recommend = value;
      change("recommend");
    }),
    diversityChoice(question, change),
    h("label", { class: "field" }, h("span", {}, t("group_key")),
      offerKeys(h("select", { id: "group-key", onchange: (event) => {
        question.groupKey = event.target.value;
        change("group-key");
      } }), question, seen)),
    question.groupKey && h("label", { class: "field" }, h("span", {}, t("group_max")),
      h("input", { id: "group-max", type: "number", min: 1, max: PER_GROUP_MAX, value: question.groupMax, onchange: (event) => {
        question.groupMax = Math.min(PER_GROUP_MAX, Math.max(1, Math.round(Number(event.target.value)) || 1));
        change("group-max");
      } })),
  ];
}

function diversityChoice(question, change) {
  const told = (value) => (value ? fixed(value, 1) : t("diversity_off"));
  const shown = h("output", { for: "diversity" }, told(question.diversity));
  return h("label", { class: "field" }, h("span", {}, t("diversity"), " ", shown),
    h("input", { id: "diversity", type: "range", min: 0, max: 1, step: 0.1, value: question.diversity, oninput: (event) => {
      shown.textContent = told(Number(event.target.value));
    }, onchange: (event) => {
      question.diversity = Number(event.target.value);
      change("diversity");
    } }));
}
