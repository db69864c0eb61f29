// Elements out of values. Text is set as text, never parsed: what the service answers can't become markup.

import { t } from "./words.js";

/** Return an element. props: attributes; `on...` is a listener, `css` custom properties, true an empty attribute;
 *  null, undefined and false are left out. children: nodes, texts, numbers, or lists of them. */
export function h(name, props = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "css") for (const [part, to] of Object.entries(value)) element.style.setProperty(part, to);
    else if (key !== "value") element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...nodes(children));
  if (props.value !== null && props.value !== undefined) element.value = props.value; // of a list, once it is full
  return element;
}

/** Put `children` in the place of what `element` holds. */
export function fill(element, ...children) {
  element.replaceChildren(...nodes(children));
  return element;
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((each) => each !== null && each !== undefined && each !== false)
    .map((each) => (each instanceof Node ? each : document.createTextNode(String(each))));
}

const SVG = "http://www.w3.org/2000/svg";
const ICONS = {
  search: "M10 4a6 6 0 1 0 0 12 6 6 0 0 0 0-12m4.500 10.500L20 20",
  key: "M8 11a4 4 0 1 0 0 6 4 4 0 0 0 0-6m1 1L20 4m-3 2 2 3m-5 0 2 2",
  theme: "M12 4a8 8 0 1 0 0 16zM12 4a8 8 0 0 1 0 16",
  close: "M6 6l12 12M18 6 6 18",
  copy: "M9 9h10v11H9zM5 15V4h10",
  like: "M12 5v14M5 12h14",
  unlike: "M5 12h14",
  hide: "M4 12s3-6 8-6 8 6 8 6-3 6-8 6-8-6-8-6M5 19 19 5",
  picture: "M4 5h16v14H4zM4 16l5-5 4 4 3-2 4 4M15 9h.01",
};

/** Return a line drawing of 24 units, hidden from screen readers: the button around it has the words. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}

/** Return an SVG element with attributes. */
export function shape(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  element.append(...nodes(children));
  return element;
}

/** Ask for one line in a dialog, with `close(value)` for its buttons; resolves to the value, null if dismissed. */
export function dialog(title, build) {
  return new Promise((resolve) => {
    let answer = null;
    const close = (value = null) => {
      answer = value;
      box.close();
    };
    const heading = h("h2", { id: "dialog-title" }, title);
    const cross = h("button", { class: "only-icon dialog-close", type: "button", title: t("close"), "aria-label": t("close"), onclick: () => close() }, icon("close"));
    const box = h("dialog", { "aria-labelledby": "dialog-title" }, heading, build(close), cross); // last: what is asked for has the focus first
    box.addEventListener("close", () => {
      box.remove();
      resolve(answer);
    });
    box.addEventListener("click", (event) => event.target === box && close());
    document.body.append(box);
    box.showModal();
  });
}
