// Where a question lies on the map, and where its nearest items do: their vectors put into the map's plane.

import { h } from "./dom.js";
import { fixed } from "./format.js";
import { titleOf } from "./seen.js";
import { get, post } from "./service.js";
import { t } from "./words.js";

const NEIGHBOURS = 12;

/** Return { x, y, hits: [{ hit, x, y }] }. body: of a search. plane: as the map has it. Throws Problem. */
export async function placeOf(body, plane, signal) {
  const { vector, ...asked } = { ...body, top_k: NEIGHBOURS, include: ["vector", "metadata", "score", "rank"] };
  const [own, { data }] = await Promise.all([vectorOf(body, signal), post("/v1/search", vector === undefined ? asked : { ...asked, vector }, { signal })]);
  const hits = data.results.map((hit) => ({ hit, ...project(hit.vector, plane) }));
  return { ...project(own, plane), hits };
}

function project(vector, { centre, axes }) {
  const along = (axis) => vector.reduce((sum, each, at) => sum + (each - centre[at]) * axis[at], 0);
  return { x: along(axes[0]), y: along(axes[1]) };
}

/** The vector that a search asks with. */
async function vectorOf({ collection, query, image, vector, like_ids, unlike_ids = [] }, signal) {
  if (Array.isArray(vector)) return unit(vector);
  if (vector !== undefined) return unit(fromBase64(vector));
  if (!like_ids) return (await post("/v1/embed", { collection, ...(image ? { image } : { text: query }) }, { signal })).data.embedding;
  const stored = (id) => get(`/v1/items/${encodeURIComponent(id)}?${new URLSearchParams({ collection, include: "vector" })}`, { signal }).then(({ data }) => unit(data.vector));
  const [likes, unlikes] = await Promise.all([like_ids, unlike_ids].map((ids) => Promise.all(ids.map(stored))));
  const [like, unlike] = [mean(likes), unlikes.length ? mean(unlikes) : null];
  return unit(unlike ? like.map((each, at) => 2 * each - unlike[at]) : like);
}

function fromBase64(text) {
  const bytes = Uint8Array.from(atob(text), (each) => each.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Array.from({ length: bytes.length / 4 }, (_, at) => view.getFloat32(4 * at, true));
}

const mean = (vectors) => vectors[0].map((_, at) => vectors.reduce((sum, each) => sum + each[at], 0) / vectors.length);

function unit(vector) {
  const length = Math.hypot(...vector) || 1;
  return vector.map((each) => each / length);
}

/** Return the nearest items as a list; tell(hit): called when a reader points at one. */
export function neighbourList({ hits }, tell) {
  return h("div", { class: "neighbours" }, h("h2", {}, t("neighbours")),
    h("ol", {}, hits.map(({ hit }) => h("li", {}, h("button", { class: "link", type: "button", onclick: () => tell(hit), onpointerenter: () => tell(hit), onfocus: () => tell(hit) },
      titleOf(hit), h("span", { class: "quiet" }, ` ${fixed(hit.distance, 3)}`))))));
}
