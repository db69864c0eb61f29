// What is known of a collection's items: from the answers that this page got, and from the service's facets.

const TITLE_KEYS = ["title", "name", "label", "product_name", "recipe_name", "제목", "이름", "상품명"];
const PICTURE_KEYS = ["image_url", "image", "picture", "picture_url", "thumbnail", "thumbnail_url", "img", "photo"];
const PICTURE_ENDING = /\.(avif|gif|jpe?g|png|svg|webp)(\?|$)/i;
const VALUES_MAX = 50;
const KEYS_MAX = 100;
const ITEMS_MAX = 5000;
const HIT_FIELDS = new Set(["distance", "score", "why", "confidence", "rank", "metadata", "vector", "active", "live", "source_version", "content_hash", "seq", "embedding_version"]);

/** Metadata keys of one collection with the values seen under them. */
export class SeenItems {
  constructor() {
    this.items = new Map(); // id -> metadata
    this.keys = new Map(); // key -> Map(text of a value -> value)
    this.facets = null; // as POST /v1/facets tells them, null before
    this.idIsNumber = null;
  }

  /** Note the facets of the whole collection. */
  noteFacets(facets) {
    this.facets = facets;
    for (const { key, values } of facets) for (const { value } of values) this.#noteValue(key, value);
  }

  /** Note the hits of an answer. */
  note(hits) {
    for (const hit of hits) {
      const id = idOf(hit);
      this.idIsNumber ??= typeof id !== "string";
      if (this.items.has(id) || this.items.size >= ITEMS_MAX) continue;
      this.items.set(id, hit.metadata ?? {});
      for (const [key, value] of Object.entries(hit.metadata ?? {})) this.#noteValue(key, value);
    }
  }

  #noteValue(key, value) {
    if (!this.keys.has(key)) {
      if (this.keys.size >= KEYS_MAX) return;
      this.keys.set(key, new Map());
    }
    const values = this.keys.get(key);
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each === null || typeof each === "object" || values.size >= VALUES_MAX) continue;
      values.set(String(each), each);
    }
  }

  /** Return the value that `text` means under `key`: one that was seen, else a number, a truth, or the text. */
  typed(key, text) {
    const values = this.keys.get(key);
    const bare = text.trim();
    if (values?.has(bare)) return values.get(bare);
    if (values?.size && [...values.values()].every((each) => typeof each === "string")) return text;
    if (bare === "true" || bare === "false") return bare === "true";
    return bare !== "" && Number.isFinite(Number(bare)) ? Number(bare) : text;
  }

  /** Return ids of items in whose title each word of `text` stands. */
  named(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const isNamed = (metadata) => words.every((word) => titleIn(metadata)?.toLowerCase().includes(word));
    return [...this.items].filter(([, metadata]) => isNamed(metadata)).map(([id]) => id);
  }

  /** Return what a reader calls an item that was seen. */
  titleOf(id) {
    return titleIn(this.items.get(id) ?? {}) ?? String(id);
  }

  /** Return an id as the collection has them, out of what was typed. */
  typedId(text) {
    const bare = text.trim();
    const isNumber = /^-?\d+$/.test(bare) && this.idIsNumber !== false;
    if (!isNumber) return bare;
    return Number.isSafeInteger(Number(bare)) ? Number(bare) : BigInt(bare);
  }
}

/** Return the name of the id field of a hit: the one field that every collection names itself. */
export const idFieldOf = (hit) => Object.keys(hit).find((key) => !HIT_FIELDS.has(key));
export const idOf = (hit) => hit[idFieldOf(hit)];

/** Return what a reader calls the item. */
export const titleOf = (hit) => titleIn(hit.metadata ?? {}) ?? String(idOf(hit));

function titleIn(metadata) {
  const named = TITLE_KEYS.find((key) => typeof metadata[key] === "string" && metadata[key].trim());
  return named && metadata[named];
}

/** Return the address of the item's picture, or null: http(s) of any host; the browser asks allowed ones only. */
export function pictureOf(hit) {
  const metadata = hit.metadata ?? {};
  const isPicture = (key) => PICTURE_KEYS.includes(key.toLowerCase()) || PICTURE_ENDING.test(String(metadata[key]));
  for (const key of Object.keys(metadata)) {
    if (typeof metadata[key] !== "string" || !isPicture(key)) continue;
    try {
      const address = new URL(metadata[key], location.origin);
      if (address.protocol === "http:" || address.protocol === "https:") return address.href;
    } catch {
      continue;
    }
  }
  return null;
}

/** Return the key under which most items have their title, or the address of their picture; undefined if none. */
export const titleKeyOf = (seen) => TITLE_KEYS.find((key) => seen.keys.has(key));
export const pictureKeyOf = (seen) => [...seen.keys.keys()].find((key) => PICTURE_KEYS.includes(key.toLowerCase()));

/** Return up to `most` of the item's other plain values: [key, value]. */
export function factsOf(hit, most) {
  const title = titleOf(hit);
  return Object.entries(hit.metadata ?? {})
    .filter(([key, value]) => value !== null && typeof value !== "object" && value !== title && !isAddress(key, value))
    .slice(0, most);
}

const isAddress = (key, value) =>
  PICTURE_KEYS.includes(key.toLowerCase()) || /^(https?:)?\//.test(String(value));
