// The filter: one row a condition, with the keys and values that were seen in this collection.

import { fill, h, icon } from "./dom.js";
import { number } from "./format.js";
import { t } from "./words.js";

const OPERATORS = ["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists", "missing"];

/** Return the element. conditions: changed in place. seen: SeenItems. ask: called when the filter has changed. */
export function filterEditor(conditions, seen, ask) {
  const rows = h("div", { class: "conditions" });
  const about = h("p", { class: "quiet" });
  const draw = () => {
    fill(about, t("filter_about", { count: number(seen.items.size) }));
    fill(rows, conditions.map((each, place) => row(each, place)));
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
  return { element: h("div", { class: "filter" }, rows, add, about), draw };
}
