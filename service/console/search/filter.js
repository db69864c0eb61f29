// The filter: one row a condition, with the collection's own keys and values, and how many items pass.

import { fill, h, icon } from "./dom.js";
import { number } from "./format.js";
import { t } from "./words.js";

const OPERATORS = ["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists", "missing"];
const PICKED_FROM_MAX = 12; // values or ranges of a key that are offered as buttons

/** Return { element, draw, tell }. conditions: changed in place. seen: SeenItems. ask: called when the filter has
 *  changed. tell(count): shows how many items pass, null where that is not known. */
export function filterEditor(conditions, seen, ask) {
  const rows = h("div", { class: "conditions" });
  const offered = h("div", { class: "facets" });
  const passing = h("p", { class: "quiet", role: "status" });
  const draw = () => {
    fill(rows, conditions.map((each, place) => row(each, place)));
    fill(offered, facets(seen.facets ?? [], conditions, (added) => {
      conditions.push(...added);
      draw();
      ask();
    }));
  };
  const row = (condition, place) => {
    const keys = `filter-keys-${place}`;
    const values = `filter-values-${place}`;
    const known = seen.keys.get(condition.key.trim());
    const isBare = condition.operator === "exists" || condition.operator === "missing";
    return h("div", { class: "condition" },
      h("input", { list: keys, value: condition.key, "aria-label": t("filter_key"), placeholder: t("filter_key"), onchange: (event) => {
        condition.key = event.target.value;
        draw();
        if (condition.value) ask();
      } }),
      h("datalist", { id: keys }, [...seen.keys.keys()].map((key) => h("option", { value: key }))),
      h("select", { "aria-label": t("filter_operator"), value: condition.operator, onchange: (event) => {
        condition.operator = event.target.value;
        draw();
        ask();
      } }, OPERATORS.map((each) => h("option", { value: each }, t(`op_${each}`)))),
      !isBare && h("input", { list: values, value: condition.value, "aria-label": t("filter_value"), placeholder: t("filter_value"), onchange: (event) => {
        condition.value = event.target.value;
        ask();
      } }),
      !isBare && h("datalist", { id: values }, [...(known?.keys() ?? [])].map((each) => h("option", { value: each }))),
      h("button", { class: "only-icon", type: "button", title: t("filter_remove"), "aria-label": t("filter_remove"), onclick: () => {
        conditions.splice(place, 1);
        draw();
        ask();
      } }, icon("close")));
  };
  const add = h("button", { type: "button", class: "small", onclick: () => {
    conditions.push({ key: "", operator: "eq", value: "" });
    draw();
    rows.lastElementChild.querySelector("input").focus();
  } }, icon("like"), t("filter_add"));
  draw();
  const tell = (count) => fill(passing, count === null ? null : t("filter_passing", { count: number(count) }));
  return { element: h("div", { class: "filter" }, offered, rows, add, passing), draw, tell };
}

/** Return buttons for keys with few values, and for ranges of those with many numbers. */
function facets(all, conditions, add) {
  const button = (words, count, added) => h("button", { class: "fact", type: "button", onclick: () => add(added) }, words, h("span", { class: "quiet" }, ` ${number(count)}`));
  const isFree = (key) => !conditions.some((each) => each.key.trim() === key);
  return all.filter(({ key }) => isFree(key)).map(({ key, distinct, values, ranges }) => {
    const isFew = distinct !== null && distinct > 1 && distinct <= PICKED_FROM_MAX;
    const buttons = isFew
      ? values.filter(({ value }) => value !== null && value !== "").map(({ value, count }) => button(String(value), count, [{ key, operator: "eq", value: String(value) }]))
      : distinct !== 1 && ranges.slice(0, PICKED_FROM_MAX).map(({ from, to, count }) => button(`${number(from, 2)} – ${number(to, 2)}`, count, [
        { key, operator: "gte", value: String(from) }, { key, operator: "lt", value: String(to) }]));
    return buttons && buttons.length > 0 && h("p", { class: "facts" }, h("span", { class: "quiet" }, key), buttons);
  });
}
