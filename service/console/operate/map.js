// A sample of a collection as points in a plane, coloured by a metadata key: what lies together is seen at once.

import { fill, h, icon, shape } from "./dom.js";
import { fixed, number } from "./format.js";
import { choice, problemBox } from "./parts.js";
import { neighbourList, placeOf } from "./place.js";
import { askLike, askedNow } from "./search.js";
import { SeenItems, idOf, pictureKeyOf, titleKeyOf } from "./seen.js";
import { get, post } from "./service.js";
import { t } from "./words.js";

const SAMPLES = [300, 1000, 3000];
const VALUES_ASKED = 50; // of each metadata key
const COLOURS = 10;
const SIDE = 1000; // of the drawing, in its own units
const EDGE = 24;

/** Kept while the tab is open. asked: { body, words } of the question that is placed, null for none. */
const chosen = { collection: null, key: null, sample: 1000, asked: null };
let lastAsked = null; // on the search page, when the map was last shown

/** Return the page, see app.js. */
export function mapPage() {
  const page = new MapPage();
  return { element: page.element, start: () => page.start(), stop: () => page.stop() };
}

class MapPage {
  constructor() {
    this.tools = h("div", { class: "choices" });
    this.asker = h("form", { class: "ask map-ask", onsubmit: (event) => this.askText(event) });
    this.body = h("div", { class: "page" }, h("p", { class: "quiet" }, t("loading")));
    this.element = h("div", { class: "page" }, h("h1", {}, t("nav_map")), h("section", { class: "panel page" }, this.tools, this.asker, this.body));
    this.onKey = () => this.load();
  }

  start() {
    document.addEventListener("key-changed", this.onKey);
    const asked = askedNow();
    if (asked && asked.words !== lastAsked?.words) Object.assign(chosen, { asked, key: asked.body.collection === chosen.collection ? chosen.key : null, collection: asked.body.collection });
    lastAsked = asked;
    this.load();
  }

  stop() {
    document.removeEventListener("key-changed", this.onKey);
    this.asking?.abort();
  }

  async load() {
    this.asking?.abort();
    const { signal } = (this.asking = new AbortController());
    this.body.setAttribute("aria-busy", "true");
    try {
      const [{ data }, { data: models }] = await Promise.all([get("/v1/collections", { signal }), get("/v1/model-info", { signal })]);
      this.collections = data.collections;
      const collection = this.collections.find(({ name }) => name === chosen.collection) ?? this.collections.find(({ count }) => count > 0) ?? this.collections[0];
      if (collection.name !== chosen.collection) this.choose(collection.name);
      this.readsText = models.collections[collection.name]?.modality === "text";
      this.seen = await this.keysOf(collection, signal);
      chosen.key ??= this.colourKeys()[0] ?? null;
      const fields = [...new Set([chosen.key, titleKeyOf(this.seen), pictureKeyOf(this.seen)].filter(Boolean))];
      const query = new URLSearchParams([["sample", chosen.sample], ["with_plane", "true"], ...fields.map((each) => ["field", each])]);
      this.map = (await get(`/v1/collections/${encodeURIComponent(chosen.collection)}/map?${query}`, { signal })).data;
      await this.placeAsked(signal);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      fill(this.asker);
      fill(this.body, problemBox(problem, () => this.load()));
    }
    this.body.removeAttribute("aria-busy");
  }

  choose(name) {
    Object.assign(chosen, { collection: name, key: null, asked: null });
  }

  /** Place the question, if there is one, and draw; what refuses it takes nothing from the map. */
  async placeAsked(signal) {
    this.place = null;
    this.refusal = null;
    if (chosen.asked && this.map.plane) {
      try {
        this.place = await placeOf(chosen.asked.body, this.map.plane, signal);
      } catch (problem) {
        if (problem.name === "AbortError") throw problem;
        this.refusal = problem;
      }
    }
    this.draw();
  }

  askText(event) {
    event.preventDefault();
    const text = this.asker.querySelector("input")?.value.trim();
    chosen.asked = text ? { body: { collection: chosen.collection, query: text }, words: `“${text}”` } : null;
    this.load();
  }

  async keysOf(collection, signal) {
    const seen = new SeenItems();
    if (!collection.count) return seen;
    seen.noteFacets((await post("/v1/facets", { collection: collection.name, top: VALUES_ASKED }, { signal })).data.facets);
    return seen;
  }

  /** Keys of few values first: by them a picture is coloured best. */
  colourKeys() {
    const { keys } = this.seen;
    const rank = (key) => (keys.get(key).size > 1 && keys.get(key).size <= COLOURS ? 0 : 1);
    return [...keys.keys()].filter((key) => key !== pictureKeyOf(this.seen)).sort((a, b) => rank(a) - rank(b) || keys.get(a).size - keys.get(b).size);
  }

  drawTools() {
    const pick = (id, label, value, options, change) => choice(id, label, value, options, (each) => {
      change(each);
      this.load();
    });
    fill(this.tools,
      pick("map-collection", t("collection"), chosen.collection, this.collections.map(({ name }) => [name, name]), (name) => this.choose(name)),
      pick("map-key", t("coloured_by"), chosen.key, this.colourKeys().map((key) => [key, key]), (key) => (chosen.key = key)),
      pick("map-sample", t("sample_size"), chosen.sample, SAMPLES.map((each) => [each, number(each)]), (each) => (chosen.sample = Number(each))));
    fill(this.asker,
      this.readsText && h("label", { class: "field" }, h("span", {}, t("map_ask")), h("input", { id: "map-query", type: "search", autocomplete: "off", maxlength: 1000, value: chosen.asked?.body.query ?? "" })),
      this.readsText && h("button", { type: "submit" }, t("map_place")),
      chosen.asked && h("button", { type: "button", class: "chip", "aria-label": t("map_unplace"), title: t("map_unplace"), onclick: () => {
        chosen.asked = null;
        this.load();
      } }, chosen.asked.words, icon("close")));
  }

  draw() {
    const { points, explained, live } = this.map;
    this.drawTools();
    if (points.length === 0) {
      fill(this.body, h("p", { class: "quiet" }, t(live ? "map_too_few" : "empty_collection")));
      return;
    }
    const colours = colouring(points.map(({ values }) => values[chosen.key]));
    this.told = h("div", { class: "told", role: "status" }, h("p", {}, t("map_how")));
    fill(this.body,
      h("p", { class: "quiet" }, t("map_about", { count: number(points.length), live: number(live), x: fixed(explained[0] * 100, 0), y: fixed(explained[1] * 100, 0) })),
      this.refusal && problemBox(this.refusal, () => this.load()),
      h("div", { class: "map" }, this.drawing(points, colours),
        h("div", { class: "beside" }, this.told,
          this.place && [neighbourList(this.place, (hit) => this.tell({ id: idOf(hit), values: hit.metadata ?? {} })), h("p", { class: "quiet" }, t("map_place_about"))],
          legend(colours))));
  }

  drawing(points, colours) {
    const { place: placed } = this;
    const place = placing([...points, ...(placed ? [placed, ...placed.hits] : [])]);
    const dots = points.map((point, number) => {
      const [x, y] = place(point);
      return shape("circle", { cx: x, cy: y, r: points.length > 800 ? 6 : 9, class: `dot c${colours.of(point.values[chosen.key])}`, "data-place": number });
    });
    const svg = shape("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, class: "plane", tabindex: "0", role: "application", "aria-label": t("map_label", { key: chosen.key ?? "" }) }, dots, placed && placedShapes(placed, place));
    const order = points.map((_, number) => number).sort((a, b) => points[a].x - points[b].x);
    let at = -1;
    const turn = (number) => {
      svg.querySelector(".chosen")?.classList.remove("chosen");
      dots[number].classList.add("chosen");
      this.tell(points[number]);
    };
    for (const kind of ["pointerover", "click"]) {
      svg.addEventListener(kind, ({ target }) => target.dataset?.place && turn(Number(target.dataset.place)));
    }
    svg.addEventListener("keydown", (event) => {
      if (event.key === "ArrowRight" || event.key === "ArrowLeft") {
        event.preventDefault();
        at = (at + (event.key === "ArrowRight" ? 1 : -1) + order.length) % order.length;
        turn(order[at]);
      }
      if (event.key === "Enter" && at >= 0) this.follow(points[order[at]].id);
    });
    return svg;
  }

  tell({ id, values }) {
    const picture = values[pictureKeyOf(this.seen)];
    const title = values[titleKeyOf(this.seen)];
    fill(this.told,
      picture && h("img", { src: new URL(picture, location.origin).href, alt: "", referrerpolicy: "no-referrer", onerror: (event) => event.target.remove() }),
      h("strong", {}, title ?? String(id)), title && h("span", { class: "quiet" }, String(id)),
      chosen.key in values && h("span", {}, `${chosen.key}: ${values[chosen.key]}`),
      h("p", {}, h("button", { class: "small", type: "button", onclick: () => this.follow(id) }, t("like"))));
  }

  follow(id) {
    askLike(chosen.collection, id);
    location.hash = "#/search";
  }
}

/** The question as a diamond, its nearest items ringed with their ranks, and a line to each. */
function placedShapes(placed, place) {
  const [x, y] = place(placed);
  const near = placed.hits.map(({ hit, ...at }) => ({ rank: hit.rank, at: place(at) }));
  return shape("g", { class: "placed", "pointer-events": "none" },
    near.map(({ at }) => shape("line", { x1: x, y1: y, x2: at[0], y2: at[1] })),
    near.map(({ at }) => shape("circle", { cx: at[0], cy: at[1], r: 13 })),
    near.map(({ rank, at }) => shape("text", { x: Number(at[0]) + 16, y: Number(at[1]) + 7 }, rank)),
    shape("path", { d: `M${x} ${y - 20}l20 20-20 20-20-20z` }));
}

/** Return point -> [x, y] in the drawing, both directions on one scale. */
function placing(points) {
  const [xs, ys] = [points.map(({ x }) => x), points.map(({ y }) => y)];
  const [left, top] = [Math.min(...xs), Math.min(...ys)];
  const wide = Math.max(Math.max(...xs) - left, Math.max(...ys) - top) || 1;
  const scale = (SIDE - 2 * EDGE) / wide;
  const shift = (most, least) => (SIDE - (most - least) * scale) / 2;
  const [dx, dy] = [shift(Math.max(...xs), left), shift(Math.max(...ys), top)];
  return ({ x, y }) => [fixed(dx + (x - left) * scale, 1), fixed(SIDE - dy - (y - top) * scale, 1)];
}

/** Return { of(value): number of a colour, entries: [number, words, count] }. Many numbers become ten steps. */
function colouring(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  const known = [...counts.keys()].filter((value) => value !== undefined);
  if (known.length > COLOURS && known.every((value) => typeof value === "number")) return steps(known, values);
  const named = known.sort((a, b) => counts.get(b) - counts.get(a)).slice(0, COLOURS);
  const of = (value) => (named.includes(value) ? named.indexOf(value) : "x");
  const others = values.filter((value) => of(value) === "x").length;
  return { of, entries: [...named.map((value, place) => [place, String(value), counts.get(value)]), ...(others ? [["x", t("others"), others]] : [])] };
}

function steps(known, values) {
  const [least, most] = [Math.min(...known), Math.max(...known)];
  const of = (value) => (value === undefined ? "x" : `s${Math.min(4, Math.floor((5 * (value - least)) / (most - least)))}`);
  const ends = (step) => `${number(least + ((most - least) * step) / 5, 2)} – ${number(least + ((most - least) * (step + 1)) / 5, 2)}`;
  return { of, entries: [0, 1, 2, 3, 4].map((step) => [`s${step}`, ends(step), values.filter((value) => of(value) === `s${step}`).length]) };
}

function legend(colours) {
  return h("ul", { class: "legend" }, colours.entries.map(([colour, words, count]) => h("li", {},
    shape("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, shape("circle", { cx: 10, cy: 10, r: 8, class: `dot c${colour}` })), words, h("span", { class: "quiet" }, ` ${number(count)}`))));
}
