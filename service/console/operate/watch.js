// A page that asks again and again while somebody looks at it.

import { fill, h } from "./dom.js";
import { problemBox } from "./parts.js";
import { t } from "./words.js";

/** Return a page as app.js wants it. load(): asks the service; show(loaded): its element; every_s: between two
 *  questions. Hidden tabs ask nothing. What somebody is typing into is not replaced. */
export function watchedPage(title, { load, show, every_s }) {
  const body = h("div", { class: "page" }, h("p", { class: "quiet" }, t("loading")));
  const element = h("div", { class: "page" }, h("h1", {}, title), body);
  let timer = null;
  let isStopped = true;
  let round = 0;

  const again = async (isAsked = true) => {
    clearTimeout(timer);
    const own = ++round;
    if (isAsked || (!document.hidden && !isBusy(body))) {
      try {
        const loaded = await load();
        if (isStopped || own !== round) return;
        if (isAsked || !isBusy(body)) fill(body, show(loaded, again));
      } catch (problem) {
        if (isStopped || own !== round) return;
        fill(body, problemBox(problem, again));
      }
    }
    timer = setTimeout(() => again(false), every_s * 1000);
  };
  const onKey = () => again();
  return {
    element,
    start: () => {
      isStopped = false;
      document.addEventListener("key-changed", onKey);
      again();
    },
    stop: () => {
      isStopped = true;
      clearTimeout(timer);
      document.removeEventListener("key-changed", onKey);
    },
  };
}

/** Whether somebody is at something that a new picture would take away. */
function isBusy(body) {
  const { activeElement } = document;
  const isTyping = body.contains(activeElement) && activeElement.matches("input, select, textarea, summary, button, pre");
  return isTyping || document.querySelector("dialog[open]") !== null;
}
