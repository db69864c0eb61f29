// Why a result is there, as far as it can be seen from outside the vectors: what it has in common with the question.

import { idOf } from "./seen.js";

const VALUE_CHARS_MAX = 200;

/** Return { words: [[word, key]], shared: Set of keys, titleOf }: words of a text that stand in the metadata, keys
 *  whose value is that of every item the question starts from, and what an item is called by its id. seen: SeenItems of the collection. */
export function commonOf(hit, question, seen) {
  const metadata = hit.metadata ?? {};
  return {
    words: question.kind === "text" ? wordsIn(metadata, question.text) : [],
    shared: sharedKeys(metadata, question, seen),
    titleOf: (id) => seen.titleOf(id),
  };
}

function wordsIn(metadata, text) {
  const words = [...new Set(text.toLowerCase().split(/[\s,.?!]+/).filter((each) => [...each].length > 1))];
  const texts = Object.entries(metadata).filter(([, value]) => typeof value === "string");
  return words.flatMap((word) => texts.filter(([, value]) => value.slice(0, VALUE_CHARS_MAX).toLowerCase().includes(word)).slice(0, 1).map(([key]) => [word, key]));
}

function sharedKeys(metadata, { kind, like }, seen) {
  const liked = kind === "ids" ? like.map((id) => seen.items.get(id)) : [];
  if (!liked.length || liked.includes(undefined)) return new Set();
  const isShared = (key) => typeof metadata[key] !== "object" && liked.every((each) => each[key] === metadata[key]);
  return new Set(Object.keys(metadata).filter(isShared));
}

/** Return by id how many ranks a hit stands higher in `hits` than in `others`; null if it is not there. */
export function movesOf(hits, others) {
  const ranks = new Map(others.map((hit, place) => [idOf(hit), place]));
  return new Map(hits.map((hit, place) => [idOf(hit), ranks.has(idOf(hit)) ? ranks.get(idOf(hit)) - place : null]));
}
