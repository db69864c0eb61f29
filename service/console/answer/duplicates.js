// Results that show the same thing, told by their vectors.

/** Least cosine between the vectors of two results that count as the same thing, as offered. */
export const ALIKE = ["0.999", "0.97", "0.94"];

/** Return [{ hit, twins }] in the order of `hits`: each result whose cosine with a better one that stands for itself
 *  is at least `alike` is that one's twin. hits: with `vector`; one without stands for itself. */
export function collapsed(hits, alike) {
  const groups = [];
  for (const hit of hits) {
    const unit = unitOf(hit.vector);
    const group = unit && groups.find((each) => each.unit && cosine(each.unit, unit) >= alike);
    if (group) group.twins.push(hit);
    else groups.push({ hit, unit, twins: [] });
  }
  return groups;
}

function unitOf(vector) {
  if (!vector) return null;
  const length = Math.hypot(...vector);
  return length ? Float64Array.from(vector, (each) => each / length) : null;
}

function cosine(one, other) {
  let sum = 0;
  for (let at = 0; at < one.length; at += 1) sum += one[at] * other[at];
  return sum;
}
