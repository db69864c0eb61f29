// What /metrics tells, out of Prometheus's text: samples by name and labels, and what pages make of them.

import { get } from "./service.js";

const AGE_MAX_MS = 15_000; // pages ask again and again; this takes more of a service than their other questions
const SHARED = { "cache-control": "max-age=10" }; // what another page was just told will do

let kept = { at: -Infinity, samples: null };

/** Return the samples: [{ name, labels, value }], at most 25 s old. isFresh: whether somebody asked for them now.
 *  Throws Problem. */
export async function metricSamples(isFresh = false) {
  if (isFresh || performance.now() - kept.at > AGE_MAX_MS) {
    const { data } = await get("/metrics", { isText: true, headers: isFresh ? {} : SHARED });
    kept = { at: performance.now(), samples: samplesOf(data) };
  }
  return kept.samples;
}

const LINE = /^(\w+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

export function samplesOf(text) {
  const found = text.split("\n").map((row) => LINE.exec(row)).filter(Boolean);
  return found.map(([, name, labels, value]) => ({
    name,
    labels: Object.fromEntries([...(labels ?? "").matchAll(LABEL)].map(([, key, each]) => [key, each])),
    value: Number(value),
  }));
}

/** Return the sum of a metric over the samples whose labels are these; null where there is none. */
export function sumOf(samples, name, labels = {}) {
  const isMeant = (each) => each.name === name && Object.entries(labels).every(([key, value]) => each.labels[key] === value);
  const found = samples.filter(isMeant);
  return found.length ? found.reduce((sum, { value }) => sum + value, 0) : null;
}

/** Return by route { count, refused, buckets: [seconds, answers up to them] }. */
export function routesOf(samples) {
  const routes = new Map();
  const routeOf = ({ labels }) => {
    if (!routes.has(labels.route)) routes.set(labels.route, { count: 0, refused: 0, buckets: [] });
    return routes.get(labels.route);
  };
  for (const each of samples) {
    if (each.name === "uhok_http_request_seconds_bucket") routeOf(each).buckets.push([bound(each), each.value]);
    if (each.name !== "uhok_http_requests_total") continue;
    routeOf(each).count += each.value;
    if (Number(each.labels.status) >= 400) routeOf(each).refused += each.value;
  }
  return routes;
}

/** Return by stage of a request its buckets: [seconds, times up to them]. */
export function stagesOf(samples) {
  const stages = new Map();
  for (const each of samples.filter(({ name }) => name === "uhok_stage_seconds_bucket")) {
    if (!stages.has(each.labels.stage)) stages.set(each.labels.stage, []);
    stages.get(each.labels.stage).push([bound(each), each.value]);
  }
  return stages;
}

const bound = ({ labels }) => (labels.le === "+Inf" ? Infinity : Number(labels.le));

/** Return the seconds within which a share of the answers was given; buckets: [seconds, answers up to them]. */
export function withinOf(buckets, share) {
  const all = buckets.at(-1)?.[1] ?? 0;
  if (!all) return null;
  const wanted = all * share;
  const place = buckets.findIndex(([, count]) => count >= wanted);
  const [from, below] = place > 0 ? buckets[place - 1] : [0, 0];
  const [to, upTo] = buckets[place];
  if (to === Infinity) return from;
  return from + ((to - from) * (wanted - below)) / (upTo - below);
}
