// A page that asks again and again while somebody looks at it.

import { fill, h } from "./dom.js";
import { problemBox } from "./parts.js";
import { t } from "./words.js";

const PAUSE_S = 10; // until a page has loaded what its pause depends on

/** Return a page as app.js wants it. load(isAsked): asks the service, isAsked: because somebody wants it now;
 *  show(loaded, again): its element; every_s: between two questions, or a function of what was loaded that says it.
 *  Hidden tabs ask nothing, and ask at once when they are seen again. What somebody is typing into is not replaced; what was unfolded stays so. */
export function watchedPage(title, { load, show, every_s }) {
  const body = h("div", { class: "page" }, h("p", { class: "quiet" }, t("loading")));
  const element = h("div", { class: "page" }, h("h1", {}, title), body);
  let timer = null;
  let isStopped = true;
  let round = 0;
  let pause_s = typeof every_s === "number" ? every_s : PAUSE_S;

  const again = async (isAsked = true) => {
    clearTimeout(timer);
    if (isStopped) return;
    const own = ++round;
    if (isAsked || (!document.hidden && !isBusy(body))) {
      try {
        const loaded = await load(isAsked);
        if (isStopped || own !== round) return;
        if (typeof every_s === "function") pause_s = every_s(loaded);
        if (isAsked || !isBusy(body)) replace(body, show(loaded, again));
      } catch (problem) {
        if (isStopped || own !== round) return;
        fill(body, problemBox(problem, again));
      }
    }
    timer = setTimeout(() => again(false), pause_s * 1000);
  };
  const onKey = () => again();
  const onSeen = () => !document.hidden && again(false);
  return {
    element,
    start: () => {
      isStopped = false;
      document.addEventListener("key-changed", onKey);
      document.addEventListener("visibilitychange", onSeen);
      again();
    },
    stop: () => {
      isStopped = true;
      clearTimeout(timer);
      document.removeEventListener("key-changed", onKey);
      document.removeEventListener("visibilitychange", onSeen);
    },
  };
}

/** Put a new picture in place of the old one; parts that were unfolded, and how far tables were scrolled, stay. */
function replace(body, content) {
  const folds = () => [...body.querySelectorAll("details")];
  const scrolls = () => [...body.querySelectorAll(".scroll")];
  const [open, left] = [folds().map((each) => each.open), scrolls().map((each) => each.scrollLeft)];
  fill(body, content);
  if (folds().length === open.length) folds().forEach((each, place) => (each.open = open[place]));
  if (scrolls().length === left.length) scrolls().forEach((each, place) => (each.scrollLeft = left[place]));
}

/** Whether somebody is at something that a new picture would take away. */
function isBusy(body) {
  const { activeElement } = document;
  const isTyping = body.contains(activeElement) && activeElement.matches("input, select, textarea, summary, button, pre");
  return isTyping || document.querySelector("dialog[open]") !== null;
}
