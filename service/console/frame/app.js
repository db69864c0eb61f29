// The frame around the pages: which one is shown, theme, language and key.

import { collectionsPage } from "./collections.js";
import { fill, h, icon } from "./dom.js";
import { healthPage } from "./health.js";
import { mapPage } from "./map.js";
import { modelPage } from "./model.js";
import { askForKey } from "./parts.js";
import { searchPage } from "./search.js";
import { keptKey } from "./service.js";
import { language, t } from "./words.js";

/** Each makes { element, start, stop }: start asks the service, stop ends what still asks. */
const PAGES = { search: searchPage, collections: collectionsPage, model: modelPage, health: healthPage, map: mapPage };
const THEMES = ["auto", "light", "dark"];

const root = document.documentElement;
let shown = null;

function draw() {
  shown?.stop();
  const name = pageName();
  const page = PAGES[name]();
  document.title = `${t(`nav_${name}`)} · ${t("title")}`;
  fill(document.body,
    h("a", { class: "skip", href: "#content", onclick: skip }, t("skip")),
    h("header", { class: "top" },
      h("a", { class: "brand", href: "#/search" }, h("img", { src: "/console/icon.svg", alt: "", width: 26, height: 26 }), t("title")),
      h("nav", { "aria-label": t("nav") },
        Object.keys(PAGES).map((each) => h("a", { href: `#/${each}`, "aria-current": each === name && "page" }, t(`nav_${each}`))),
        h("a", { href: "/docs" }, t("nav_docs"))),
      h("div", { class: "tools" }, keyButton(), themeButton(), languageButton())),
    h("main", { id: "content", tabindex: "-1" }, page.element),
    h("p", { id: "notice", role: "status" }));
  document.querySelector("nav [aria-current]").scrollIntoView({ inline: "center", block: "nearest" });
  shown = page;
  page.start();
}

function pageName() {
  const name = location.hash.replace(/^#\//, "");
  return Object.hasOwn(PAGES, name) ? name : "search";
}

function skip(event) {
  event.preventDefault();
  document.getElementById("content").focus();
}

function keyButton() {
  const words = t(keptKey() ? "key_kept" : "key");
  return h("button", { id: "key-button", class: keptKey() ? "tool on" : "tool", title: words, "aria-label": words, onclick: askForKey }, icon("key"));
}

function themeButton() {
  const theme = root.dataset.theme ?? "auto";
  const words = t("theme", { theme: t(`theme_${theme}`) });
  return h("button", { class: "tool", title: words, "aria-label": words, onclick: () => {
    const next = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    localStorage.setItem("console.theme", next === "auto" ? "" : next);
    drawTools();
  } }, icon("theme"));
}

function languageButton() {
  const other = language() === "ko" ? "en" : "ko";
  return h("button", { class: "tool words", lang: other, onclick: () => {
    root.lang = other;
    localStorage.setItem("console.language", other);
    draw();
  } }, t("language"));
}

function drawTools() {
  fill(document.querySelector(".tools"), keyButton(), themeButton(), languageButton());
}

addEventListener("hashchange", () => {
  draw();
  document.getElementById("content").focus();
});
document.addEventListener("key-changed", drawTools);
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest?.("input, textarea, select, dialog");
  if (event.key === "/" && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    document.querySelector("[data-first]")?.focus();
  }
});
draw();
