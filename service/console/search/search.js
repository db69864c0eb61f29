// The search page: a question, its answer as cards, and the same question as code.

import { card, pictureElement, showItem } from "./cards.js";
import { askBeside, besides, comparison } from "./compare.js";
import { fill, h } from "./dom.js";
import { collapsed } from "./duplicates.js";
import { filterEditor } from "./filter.js";
import { number } from "./format.js";
import { blockedNotice, noticesOf, summaryOf } from "./notices.js";
import { choice, problemBox, say } from "./parts.js";
import { chipsOf, foldsOf } from "./options.js";
import { KINDS, bodyOf, filterOf, isAsked, newQuestion, randomPoint } from "./question.js";
import { inputOf, readPicture } from "./inputs.js";
import { modeChoice, offerKeys } from "./ranking.js";
import { SeenItems, idOf } from "./seen.js";
import { get, post } from "./service.js";
import { codeOf } from "./snippets.js";
import { commonOf } from "./why.js";
import { t } from "./words.js";

const VALUES_OFFERED = 50; // of each key of the filter
const PAGES_LISTED = 5;
const LIKED_READ = 10;
const question = newQuestion(); // kept while the tab is open, whichever page is shown
const seenItems = new Map(); // collection -> SeenItems
let collections = {}; // name -> { modality, dim, count, ... }
let answer = null; // { hits, last, ms, asked } of the question as it stands
const isOpen = new Set(); // folded parts that somebody opened

/** Return the page, see app.js. */
export function searchPage() {
  const page = new SearchPage();
  return { element: page.element, start: () => page.start(), stop: () => page.stop() };
}

/** Put the question that another page leads to: the items like one of them. */
export function askLike(collection, id) {
  Object.assign(question, { collection, kind: "ids", like: [id], unlike: [], exclude: [], conditions: [] });
  answer = null;
}

/** Return { body, words } of the question as it stands: a search and what a reader calls it. null for none, and for
 *  a look around, which asks nothing. */
export function askedNow() {
  if (!isPlaced()) return null;
  const { kind, text, image, like, unlike } = question;
  const words = { text: `“${text.trim()}”`, image: image?.name, ids: [t("liked", { id: like.join(", ") }), unlike.length && t("unliked", { id: unlike.join(", ") })].filter(Boolean).join(" "), vector: t("kind_vector") }[kind];
  const { mode, recommend, diversity, group_by, ...asked } = answer.asked;
  return { body: mode ? { ...asked, mode: "dense" } : asked, words }; // a map is of vectors
}

/** Whether the question has a place among vectors. */
const isPlaced = () => answer && question.kind !== "look" && (question.kind !== "text" || !answer.asked.mode || collections[question.collection].modes.includes("dense"));

class SearchPage {
  constructor() {
    this.form = h("form", { class: "question panel", role: "search", onsubmit: (event) => {
      event.preventDefault();
      if (question.kind === "ids") this.draw(document.activeElement.id); // its chips
      this.ask();
    } });
    this.results = h("section", { class: "results", "aria-label": t("nav_search") });
    this.code = h("section", { class: "panel code" });
    this.element = h("div", { class: "search" }, h("h1", { class: "unseen" }, t("nav_search")), this.form, this.results, this.code);
    this.onPaste = (event) => this.takeFile(event.clipboardData?.files?.[0], event);
    this.onDrop = (event) => this.takeFile(event.dataTransfer?.files?.[0], event);
    this.onDrag = (event) => event.preventDefault();
    this.onBlocked = (event) => this.noteBlocked(event);
    this.onKey = () => this.start();
    this.unfolded = new Set(); // ids whose near-duplicates are shown
  }

  async start() {
    this.stop();
    addEventListener("paste", this.onPaste);
    addEventListener("drop", this.onDrop);
    addEventListener("dragover", this.onDrag);
    document.addEventListener("securitypolicyviolation", this.onBlocked);
    document.addEventListener("key-changed", this.onKey);
    this.isStopped = false;
    try {
      const health = await get("/health", { accept: [503] });
      if (!health.data?.collections || health.data.status === "starting") {
        fill(this.results, h("p", { class: "quiet" }, t("starting")));
        this.timer = setTimeout(() => this.start(), 1000);
        return;
      }
      const { data } = await get("/v1/model-info");
      collections = Object.fromEntries(
        Object.entries(health.data.collections).map(([name, each]) => [name, { ...data.collections[name], ...each }]));
    } catch (problem) {
      fill(this.results, problemBox(problem, () => this.start()));
      return;
    }
    if (this.isStopped) return;
    if (!collections[question.collection]) this.choose(firstCollection());
    this.draw();
    if (answer) this.show();
    else this.ask();
  }

  stop() {
    this.isStopped = true;
    clearTimeout(this.timer);
    this.asking?.abort();
    removeEventListener("paste", this.onPaste);
    removeEventListener("drop", this.onDrop);
    removeEventListener("dragover", this.onDrag);
    document.removeEventListener("securitypolicyviolation", this.onBlocked);
    document.removeEventListener("key-changed", this.onKey);
  }

  /** Turn to a collection; what belongs to the former one is dropped. */
  choose(name) {
    Object.assign(question, { collection: name, like: [], unlike: [], exclude: [], conditions: [], groupKey: "" });
    question.look = randomPoint(collections[name].dim);
    if (question.kind === "ids" || question.kind === "vector") question.kind = "look";
    if (question.kind === "text" && !question.text) question.kind = "look";
  }

  get seen() {
    if (!seenItems.has(question.collection)) seenItems.set(question.collection, new SeenItems());
    return seenItems.get(question.collection);
  }

  /** What the collection can do, as /v1/model-info tells it. */
  get abilities() {
    return collections[question.collection];
  }

  /** Draw the question. focused: id of the element that has the focus afterwards. */
  draw(focused = null) {
    if (!besides(question, this.abilities).includes(question.beside)) question.beside = "";
    this.filter = filterEditor(question.conditions, this.seen, () => this.ask());
    const input = inputOf(question, this.seen, {
      ask: () => this.ask(),
      redraw: () => this.draw(),
      takeFile: (file) => this.takeFile(file),
      lookAgain: () => {
        question.look = randomPoint(collections[question.collection].dim);
        this.ask();
      },
    });
    fill(this.form,
      h("div", { class: "choices" },
        choice("collection", t("collection"), question.collection, Object.entries(collections).map(([name, each]) => [name, `${name} (${number(each.count)})`]), (name) => {
          this.choose(name);
          this.again();
        }),
        modeChoice(question, this.abilities, (id) => this.again(id)),
        h("fieldset", { class: "segments" }, h("legend", { class: "unseen" }, t("ask_by")),
          KINDS.map((kind) => h("label", {}, h("input", { type: "radio", name: "kind", value: kind, checked: question.kind === kind, onchange: () => {
            question.kind = kind;
            this.draw();
            if (kind === "look") this.ask();
            else this.form.querySelector("[data-first]")?.focus();
          } }), h("span", {}, t(`kind_${kind}`)))))),
      input,
      chipsOf(question, () => this.again()),
      foldsOf(question, this.abilities, this.filter, this.seen, {
        ask: () => this.ask(),
        again: (focused) => this.again(focused),
        learn: () => this.learn(),
        body: () => (isAsked(question) ? this.body() : null),
      }, isOpen));
    if (focused) document.getElementById(focused)?.focus();
    this.drawCode();
  }

  /** Draw and ask the question that an option has changed. focused: as draw takes it. */
  again(focused = null) {
    this.draw(focused);
    this.ask();
  }

  /** Learn the collection's own keys and values, once, and how many items pass the filter. */
  async learn() {
    const { seen } = this;
    try {
      if (!seen.facets) {
        seen.noteFacets((await post("/v1/facets", { collection: question.collection, top: VALUES_OFFERED })).data.facets);
        if (this.isStopped) return;
        this.filter.draw();
        offerKeys(this.form.querySelector("#group-key"), question, seen);
      }
      await this.count();
    } catch {
      this.filter.tell(null); // the filter can be typed without it
    }
  }

  async count() {
    const { filter } = this;
    const { conditions, collection } = question;
    const wanted = filterOf(conditions, (key, text) => this.typed(key, text));
    const { data } = await post("/v1/count", { collection, ...(wanted && { filter: wanted }) });
    filter.tell(data.count);
  }

  /** Read the items that the question starts from, so that hits can tell what they have in common with them. */
  async learnLiked() {
    const { kind, like, collection } = question;
    const { seen } = this;
    const unknown = kind === "ids" ? like.filter((id) => !seen.items.has(id)).slice(0, LIKED_READ) : [];
    const found = await Promise.all(unknown.map((id) => get(`/v1/items/${encodeURIComponent(id)}?collection=${encodeURIComponent(collection)}`).then(({ data }) => data, () => null)));
    seen.note(found.filter(Boolean));
  }

  /** List items, so that they can be found by their titles: 5,000 at most. */
  async list() {
    const { seen } = this;
    let cursor = "";
    for (let page = 0; page < PAGES_LISTED && cursor !== null; page += 1) {
      const query = new URLSearchParams({ collection: question.collection, live: "true", limit: "1000", ...(cursor && { cursor }) });
      const { data } = await get(`/v1/items?${query}`);
      seen.note(data.items);
      cursor = data.next_cursor;
    }
  }

  async takeFile(file, event) {
    if (!file) return;
    event?.preventDefault();
    const { picture, refusal } = await readPicture(file);
    if (refusal) {
      say(refusal);
      return;
    }
    if (question.image) URL.revokeObjectURL(question.image.url);
    Object.assign(question, { image: picture, kind: "image" });
    if (collections[question.collection].modality !== "image") {
      const pictures = Object.keys(collections).find((name) => collections[name].modality === "image");
      if (pictures) this.choose(pictures);
    }
    this.again();
  }

  typed(key, text) {
    return this.seen.typed(key, text);
  }

  /** Ask the question from its first page on. */
  async ask() {
    if (isOpen.has("filter") || (isOpen.has("options") && !this.seen.facets)) this.learn();
    if (!isAsked(question)) {
      if (!answer) say(t("nothing_asked"));
      return;
    }
    answer = null;
    await this.fetchPage(null);
  }

  async fetchPage(cursor) {
    this.asking?.abort();
    const asking = (this.asking = new AbortController());
    this.results.setAttribute("aria-busy", "true");
    if (!cursor && !this.results.querySelector(".cards, .comparison")) fill(this.results, h("p", { class: "quiet" }, t("searching")));
    this.drawCode();
    try {
      const asked = this.body();
      const body = { ...asked, ...(question.alike && { include: [...asked.include, "vector"] }), ...(cursor && { cursor }) };
      const [{ data, ms }] = await Promise.all([post("/v1/search", body, { signal: asking.signal }), this.learnLiked()]);
      this.seen.note(data.results);
      const isNothingGood = cursor ? answer.isNothingGood : data.no_good_match; // which the first page tells
      answer = { hits: [...(cursor ? answer.hits : []), ...data.results], last: data, ms, asked, isNothingGood, other: null };
      this.show(cursor ? answer.hits.length - data.results.length : null);
      if (question.beside) await this.fetchBeside(asking.signal);
    } catch (problem) {
      if (problem.name === "AbortError") return;
      this.refuse(problem);
    }
    if (asking === this.asking) this.results.removeAttribute("aria-busy");
  }

  /** Ask for what stands beside the answer; that it is refused takes nothing from the answer. */
  async fetchBeside(signal) {
    try {
      answer.other = await askBeside(question, answer.asked, this.abilities, signal);
      this.seen.note(answer.other.results);
    } catch (problem) {
      if (problem.name === "AbortError") throw problem;
      answer.other = problem;
    }
    this.show();
  }

  refuse(problem) {
    if (problem instanceof SyntaxError) {
      fill(this.results, h("p", { class: "problem", role: "alert" }, t("vector_wrong")));
      return;
    }
    const other = Object.keys(collections).find((name) => collections[name].modality === "text");
    const readsNoText = problem.status === 422 && question.kind === "text" && problem.errors?.[0]?.loc?.includes("collection");
    if (readsNoText) this.showNamed(other);
    else fill(this.results, problemBox(problem, () => this.start())); // what the collection can do may have changed
  }

  /** A model that reads no text can still be asked for what is like an item of that name. other: a collection
   *  whose model reads texts, if there is one. */
  async showNamed(other) {
    const { text, collection } = question;
    fill(this.results, h("div", { class: "panel page named", role: "alert" }, h("p", {}, t("reads_no_text", { name: collection })),
      other && other !== collection && h("p", {}, h("button", { onclick: () => {
        this.choose(other);
        this.again();
      } }, t("other_collection", { name: other })))));
    await this.list().catch(() => null); // what was seen is known all the same
    const { seen } = this;
    const ids = seen.named(text).slice(0, question.pageSize);
    if (this.isStopped || question.text !== text || question.kind !== "text") return;
    this.results.querySelector(".named").prepend(h("div", { class: "page" },
      h("h2", {}, t(ids.length ? "named" : "named_none", { text: text.trim(), count: number(seen.items.size) })),
      ids.length > 0 && h("p", { class: "chips" }, ids.map((id) => h("button", { class: "chip", type: "button", onclick: () => this.turnTo({ kind: "ids", like: [id], unlike: [] }) }, pictureElement({ metadata: seen.items.get(id) }, seen.titleOf(id)), seen.titleOf(id))))));
  }

  /** Show the answer. from: where a further page begins, whose first card takes the focus. */
  show(from = null) {
    const { hits, last } = answer;
    const best = Math.max(...hits.map((each) => each.score));
    const groups = question.alike ? collapsed(hits, Number(question.alike)) : hits.map((hit) => ({ hit, twins: [] }));
    fill(this.results,
      summaryOf(answer, groups.length, isPlaced()),
      noticesOf(answer),
      hits.length === 0 && h("p", { class: "quiet" }, collections[question.collection].count === 0 ? t("empty_collection") : t("found_none_hint")),
      question.beside
        ? comparison({ ...last, results: hits }, answer.other, question, { open: (hit) => this.open(hit), retry: () => this.ask() })
        : h("div", { class: "cards" }, groups.map((group) => this.cardsOf(group, best))),
      h("p", { class: "more" }, question.beside ? null : last.next_cursor
        ? h("button", { onclick: () => this.fetchPage(last.next_cursor) }, t("more"))
        : hits.length > 0 && h("span", { class: "quiet" }, t("shown_all"))));
    if (from !== null) this.results.querySelectorAll(".card .picture")[from]?.focus();
  }

  cardsOf({ hit, twins }, best) {
    const acts = {
      like: (id) => this.turnTo({ kind: "ids", like: [id], unlike: [] }),
      unlike: question.kind === "ids" ? (id) => this.turnTo({ unlike: [...question.unlike, id] }) : null,
      hide: (id) => this.turnTo({ exclude: [...question.exclude, id] }, false),
      only: (key, value) => this.turnTo({ conditions: [...question.conditions.filter((each) => each.key !== key), { key, operator: "eq", value: String(value) }] }),
      open: (each) => this.open(each),
      unfold: (id) => {
        if (!this.unfolded.delete(id)) this.unfolded.add(id);
        this.show();
        [...this.results.querySelectorAll(".twins")].find((each) => each.dataset.twins === String(id))?.focus();
      },
    };
    const isUnfolded = this.unfolded.has(idOf(hit));
    const own = card(hit, this.commonOf(hit), acts, { best, twins: twins.length, isUnfolded });
    return [own, isUnfolded && twins.map((each) => card(each, this.commonOf(each), acts, { best, isTwin: true }))];
  }

  commonOf(hit) {
    return commonOf(hit, question, this.seen);
  }

  open(hit) {
    return showItem(hit, question.collection, answer.asked, this.commonOf(hit));
  }

  /** The body of the question as it stands. Throws SyntaxError. */
  body() {
    return bodyOf(question, (key, text) => this.typed(key, text), this.abilities);
  }

  /** Change the question and ask it. */
  turnTo(change, scrolls = true) {
    Object.assign(question, change);
    if (change.conditions) isOpen.add("filter");
    this.again();
    if (scrolls) scrollTo({ top: 0 });
  }

  drawCode() {
    let body;
    try {
      body = isAsked(question) ? this.body() : null;
    } catch {
      body = null;
    }
    this.code.hidden = !body;
    if (!body) return;
    const image = question.kind === "image" ? question.image.name : null;
    fill(this.code, codeOf(body, image, this.code.querySelector("details")?.open ?? false));
  }

  /** The browser did not load a picture of a host that the service does not allow. */
  noteBlocked(event) {
    if (event.effectiveDirective !== "img-src" || this.results.querySelector(".blocked")) return;
    this.results.querySelector(".summary")?.after(blockedNotice(event.blockedURI));
  }
}

/** The first picture collection with items, else the first with items: there is most to see. */
function firstCollection() {
  const names = Object.keys(collections);
  const full = names.filter((name) => collections[name].count > 0);
  return full.find((name) => collections[name].modality === "image") ?? full[0] ?? names[0];
}
