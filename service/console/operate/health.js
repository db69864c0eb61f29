// How the service is: what is degraded and the command that helps, who may call, how fast it answers.

import { h } from "./dom.js";
import { bytes, duration, fixed, moment, number } from "./format.js";
import { command, problemBox } from "./parts.js";
import { get } from "./service.js";
import { t } from "./words.js";
import { facts } from "./collections.js";
import { watchedPage } from "./watch.js";

/** Return the page, see app.js. */
export const healthPage = () => watchedPage(t("nav_health"), { load, show, every_s: 5 });

async function load() {
  const [{ data: health, ms }, { data: ready }] = await Promise.all([get("/health", { accept: [503] }), get("/readyz", { accept: [503] })]);
  const found = { health, ready, ms };
  try {
    const [metrics, jobs, snapshots, slow] = await Promise.all([
      readMetrics(),
      get("/v1/jobs").then(({ data }) => data.jobs),
      get("/v1/snapshot").then(({ data }) => data.snapshots),
      get("/v1/slow?limit=20").then(({ data }) => data.searches, () => []), // a service that keeps none
    ]);
    return { ...found, metrics, jobs, snapshots, slow };
  } catch (problem) {
    if (!problem.asksForKey) throw problem;
    return { ...found, problem };
  }
}

function show({ health, ready, ms, problem, metrics, jobs, snapshots, slow }, again) {
  const reasons = health.reasons ?? [];
  return [
    h("section", { class: `panel page state ${health.status}` },
      h("p", { class: "figure" }, h("span", { class: "lamp", "aria-hidden": "true" }), t(`health_${health.status}`)),
      h("p", { class: "quiet" }, [t(ready.status === "ready" ? "is_ready" : "is_not_ready"), t(`maintenance_${health.maintenance}`), t("answered_in", { ms: fixed(ms, 0) })].join(" · ")),
      reasons.length === 0 && health.status === "ok" && h("p", {}, t("nothing_wrong"))),
    reasons.length > 0 && h("section", { class: "panel page" }, h("h2", {}, t("what_is_wrong")),
      h("ul", { class: "reasons" }, reasons.map((each) => h("li", {},
        h("p", {}, h("span", { class: "mark bad" }, each.code), ` ${each.collection ?? t("all_collections")}`),
        h("p", {}, each.reason),
        each.hint && command(each.hint))))),
    problem && [problemBox(problem, again), h("p", { class: "quiet" }, t("without_key"))],
    health.access && h("section", { class: "panel page" }, h("h2", {}, t("access")),
      facts(Object.entries(health.access).map(([role, who]) => [t(`access_${role}`), who]))),
    metrics && h("section", { class: "panel page" }, h("h2", {}, t("answers")), h("p", { class: "quiet" }, t("answers_about")), routeTable(metrics)),
    slow?.length > 0 && h("section", { class: "panel page" }, h("h2", {}, t("slow")), slowTable(slow)),
    jobs && h("section", { class: "panel page" }, h("h2", {}, t("jobs")),
      jobs.length === 0 ? h("p", { class: "quiet" }, t("no_jobs")) : h("ul", {}, jobs.slice(0, 10).map((job) => h("li", {}, `${moment(job.created_at)} · ${job.collection} · ${job.model} · `, h("span", { class: "mark" }, t(`state_${job.state}`)))))),
    snapshots && h("section", { class: "panel page" }, h("h2", {}, t("snapshots")),
      snapshots.length === 0 ? h("p", { class: "quiet" }, t("no_snapshots")) : h("ul", {}, snapshots.map((each) => h("li", {}, h("code", {}, each.name), ` · ${bytes(each.bytes)}`)))),
  ];
}

const readMetrics = () => get("/metrics", { isText: true }).then(({ data }) => routesOf(data));

/** Return by route { count, refused, buckets } out of Prometheus's text. */
export function routesOf(text) {
  const routes = new Map();
  const line = /^uhok_http_(requests_total|request_seconds_bucket)\{(.*)\} (\S+)$/;
  for (const row of text.split("\n")) {
    const found = line.exec(row);
    if (!found) continue;
    const labels = Object.fromEntries([...found[2].matchAll(/(\w+)="((?:[^"\\]|\\.)*)"/g)].map(([, name, value]) => [name, value]));
    if (!routes.has(labels.route)) routes.set(labels.route, { count: 0, refused: 0, buckets: [] });
    const route = routes.get(labels.route);
    const value = Number(found[3]);
    if (found[1] === "request_seconds_bucket") route.buckets.push([labels.le === "+Inf" ? Infinity : Number(labels.le), value]);
    else {
      route.count += value;
      if (Number(labels.status) >= 400) route.refused += value;
    }
  }
  return routes;
}

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

function routeTable(routes) {
  const rows = [...routes].filter(([route, each]) => each.count && !/^\/(console|docs|demo)/.test(route)).sort((a, b) => b[1].count - a[1].count);
  return table(["route", "calls", "refused", "p50", "p99"].map((each) => t(each)), rows.map(([route, each]) => [
    h("code", {}, route), number(each.count), number(each.refused), duration(withinOf(each.buckets, 0.5)), duration(withinOf(each.buckets, 0.99))]), t("answers"));
}

function slowTable(searches) {
  return table(["when", "collection", "asked_by", "took_all", "stages"].map((each) => t(each)), searches.map((each) => [
    moment(each.at), each.collection, each.query, `${fixed(each.took_ms, 1)} ms`,
    Object.entries(each.stages_ms).map(([stage, took]) => `${stage} ${fixed(took, 1)}`).join(" · ")]), t("slow"));
}

/** Return a table that scrolls in itself; cells of numbers stand right. */
export function table(heads, rows, label) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((each) => h("th", { scope: "col" }, each)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", { class: /^[\d–]/.test(cell) && "number" }, cell)))))));
}
