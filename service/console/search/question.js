// What is asked: the state of the search page, and the body of the request that it means.

export const KINDS = ["text", "image", "ids", "vector", "look"];
export const IMAGE_BYTES_MAX = 12_000_000; // of a file in base64 within SEARCH_BYTES_MAX

const OPERATORS = { gt: "$gt", gte: "$gte", lt: "$lt", lte: "$lte", ne: "$ne", in: "$in", nin: "$nin" };

/** Return the state of a page nobody has used. conditions: {key, operator, value} as typed. */
export function newQuestion() {
  return {
    collection: null,
    kind: "look",
    text: "",
    image: null, // { name, bytes, base64, url }
    like: [],
    unlike: [],
    vector: "",
    look: null, // base64 of the point
    exclude: [],
    conditions: [],
    pageSize: 24,
    maxDistance: "",
    exact: false,
    mode: "", // how a text is searched; as the collection does it where it is none of its modes
    recommend: "mean",
    diversity: 0,
    groupKey: "",
    groupMax: 1,
    alike: "", // least cosine of near-duplicates that are shown as one, as typed
    beside: "", // what is shown beside the answer, see compare.js
    otherText: "",
  };
}

/** Return whether there is something to ask. */
export function isAsked(question) {
  const { kind, text, image, like, vector, look } = question;
  return Boolean({ text: text.trim(), image, ids: like.length, vector: vector.trim(), look }[kind]);
}

/** Return how a text is searched: as chosen, else as the collection does it; null for other kinds, and where it can't be. */
export function modeOf({ kind, mode }, { modes = [] }) {
  if (kind !== "text") return null;
  return modes.includes(mode) ? mode : (modes[0] ?? null);
}

/** Whether there is a choice how to find what is like the liked items. */
export const isRecommended = ({ kind, like }) => kind === "ids" && like.length > 1;

/** Return the body of POST /v1/search. typed: (key, text) -> the value that a condition compares with.
 *  abilities: of the collection, as /v1/model-info tells them. Throws SyntaxError for a vector that can't be read. */
export function bodyOf(question, typed, abilities) {
  const body = { collection: question.collection };
  if (question.kind === "text") body.query = question.text.trim();
  if (question.kind === "image") body.image = question.image.base64;
  if (question.kind === "look") body.vector = question.look;
  if (question.kind === "vector") body.vector = readVector(question.vector);
  if (question.kind === "ids") {
    body.like_ids = question.like;
    if (question.unlike.length) body.unlike_ids = question.unlike;
  }
  body.top_k = question.pageSize;
  if (question.exclude.length) body.exclude_ids = question.exclude;
  const filter = filterOf(question.conditions, typed);
  if (filter) body.filter = filter;
  const mode = modeOf(question, abilities);
  if (question.maxDistance !== "" && mode !== "lexical") body.max_distance = Number(question.maxDistance); // words have none
  if (question.exact) body.exact = true;
  if (mode && abilities.modes.join() !== "dense") body.mode = mode;
  if (isRecommended(question) && question.recommend !== "mean") body.recommend = question.recommend;
  if (question.diversity) body.diversity = question.diversity;
  if (question.groupKey) body.group_by = { key: question.groupKey, max: question.groupMax };
  body.include = included(body, abilities.confidence?.includes(mode));
  return body;
}

/** What a hit should tell. `why` is asked for where it says something. */
export function included({ mode, recommend }, hasConfidence) {
  const isMixed = mode === "hybrid" || (recommend ?? "mean") !== "mean";
  return ["score", "rank", "metadata", ...(isMixed ? ["why"] : []), ...(hasConfidence ? ["confidence"] : [])];
}

/** Return the filter that means all of `conditions`, null without any. */
export function filterOf(conditions, typed) {
  const parts = conditions.filter((each) => each.key.trim()).map((each) => conditionOf(each, typed));
  if (parts.length < 2) return parts[0] ?? null;
  const keys = parts.map((part) => Object.keys(part)[0]);
  return new Set(keys).size === keys.length ? Object.assign({}, ...parts) : { $and: parts };
}

function conditionOf({ key, operator, value }, typed) {
  const name = key.trim();
  if (operator === "eq") return { [name]: typed(name, value) };
  if (operator === "exists") return { [name]: { $exists: true } };
  if (operator === "missing") return { [name]: { $exists: false } };
  const list = () => value.split(",").map((each) => each.trim()).filter(Boolean).map((each) => typed(name, each));
  const wanted = operator === "in" || operator === "nin" ? list() : typed(name, value);
  return { [name]: { [OPERATORS[operator]]: wanted } };
}

/** Return numbers for a list of numbers, the text itself for base64. Throws SyntaxError for anything else. */
export function readVector(text) {
  const bare = text.trim();
  if (/^[A-Za-z0-9+/]+={0,2}$/.test(bare) && bare.length % 4 === 0 && /[A-Za-z+/]/.test(bare)) return bare;
  const numbers = bare.replace(/^\[|\]$/g, "").split(/[\s,]+/).filter(Boolean).map(Number);
  if (!numbers.length || !numbers.every(Number.isFinite)) throw new SyntaxError("vector");
  return numbers;
}

/** Return a unit vector of `dim` numbers in no special direction, as base64 of little-endian float32. */
export function randomPoint(dim) {
  const normal = () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
  const numbers = Array.from({ length: dim }, normal);
  const length = Math.hypot(...numbers);
  const view = new DataView(new ArrayBuffer(4 * dim));
  numbers.forEach((each, place) => view.setFloat32(4 * place, each / length, true));
  return toBase64(new Uint8Array(view.buffer));
}

export function toBase64(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  return btoa(text);
}
