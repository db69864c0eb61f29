// What several pages show alike: refusals, the key's dialog, a choice, a text to copy, notices read aloud.

import { dialog, h, icon } from "./dom.js";
import { keepKey, keptKey } from "./service.js";
import { t } from "./words.js";

/** Return a box that tells a refusal. retry: called when the reader has typed a key, or wants to try again. */
export function problemBox(problem, retry) {
  const word = `refused_${problem.code}`;
  const isKnown = t(word) !== word;
  const detail = problem.status === 0 ? "" : problem.message; // the service's own, in English
  const text = problem.status === 0 ? t("no_answer") : isKnown ? t(word) : detail;
  const places = (problem.errors ?? [])
    .filter((each) => !detail.includes(each.msg) && !each.msg.includes(detail))
    .map((each) => `${each.loc.join(".")}: ${each.msg}`);
  return h("div", { class: "problem", role: "alert" },
    h("p", { class: "problem-text" }, text),
    isKnown && detail && h("p", { lang: "en" }, detail),
    places.length > 0 && h("ul", {}, places.map((each) => h("li", {}, each))),
    problem.hint && command(problem.hint),
    h("p", { class: "quiet" }, [problem.status || "", problem.code, problem.requestId && t("request_id", { id: problem.requestId })].filter(Boolean).join(" · ")),
    (problem.asksForKey || retry) && h("p", { class: "row" },
      problem.asksForKey && h("button", { class: "primary", onclick: () => askForKey().then((kept) => kept && retry?.()) }, icon("key"), t("key")),
      retry && h("button", { onclick: retry }, t("retry"))));
}

/** Return a command or a setting, with a button that copies it. Of a sentence with commands between backticks
 *  only the first of these is copied. */
export function command(text) {
  const parts = text.split("`");
  if (parts.length < 3) return h("div", { class: "command" }, h("code", {}, text), copyButton(() => text));
  return h("div", { class: "command" }, h("span", {}, parts.map((part, place) => (place % 2 ? h("code", {}, part) : part))), copyButton(() => parts[1]));
}

/** Return a choice with its label. options: [value, words] of each. change(value): called with what was chosen. */
export function choice(id, label, value, options, change) {
  return h("label", { class: "field" }, h("span", {}, label),
    h("select", { id, value, onchange: (event) => change(event.target.value) },
      options.map(([each, words]) => h("option", { value: each }, words))));
}

export function copyButton(text) {
  return h("button", { class: "small", type: "button", onclick: async () => {
    await navigator.clipboard.writeText(text());
    say(t("copied"));
  } }, icon("copy"), t("copy"));
}

/** Show a short notice, and have it read aloud. */
export function say(text) {
  const live = document.getElementById("notice");
  live.textContent = text;
  live.classList.add("shown");
  clearTimeout(say.timer);
  say.timer = setTimeout(() => live.classList.remove("shown"), 4000);
}

/** Ask for the key; resolves to true if it was kept or forgotten, null if the reader thought better of it. */
export function askForKey() {
  return dialog(t("key"), (close) => {
    const wrong = h("p", { class: "problem-text", role: "alert" });
    const input = h("input", { id: "key-input", type: "password", autocomplete: "off", value: keptKey(), spellcheck: "false" });
    const keep = (event) => {
      event.preventDefault();
      const key = input.value.trim();
      if (!/^[\x20-\x7e]*$/.test(key)) {
        wrong.textContent = t("key_wrong");
        return;
      }
      keepKey(key);
      changed();
      close(true);
    };
    const forget = () => {
      keepKey("");
      changed();
      close(true);
    };
    return h("form", { onsubmit: keep },
      h("p", { class: "quiet" }, t("key_about")),
      h("label", { for: "key-input" }, t("key")), input, wrong,
      h("p", { class: "row" },
        h("button", { class: "primary", type: "submit" }, t("key_save")),
        keptKey() && h("button", { type: "button", onclick: forget }, t("key_forget")),
        h("button", { type: "button", onclick: () => close() }, t("cancel"))));
  });
}

const changed = () => document.dispatchEvent(new Event("key-changed"));
