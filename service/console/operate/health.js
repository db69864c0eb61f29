// How the service is: what is degraded and the command that helps, how fast it answers, what was done to it.

import { h } from "./dom.js";
import { bytes, duration, fixed, moment, number } from "./format.js";
import { metricSamples, routesOf, stagesOf, sumOf, withinOf } from "./metrics.js";
import { command, problemBox } from "./parts.js";
import { get } from "./service.js";
import { t } from "./words.js";
import { facts } from "./collections.js";
import { watchedPage } from "./watch.js";

const JOBS_SHOWN = 10;
const ENTRIES_SHOWN = 20;
const DETAILS_AGE_MAX_MS = 14_000; // whether it works is asked every 5 s, the rest every third time
const WHO = {
  "everyone who reaches this address": "who_everyone",
  "who sends a key": "who_key",
  "every program on this machine, a proxy included": "who_machine",
  "nobody: no key is set": "who_nobody",
};

const CLOCK_LENGTH = "09:30:00".length; // of a moment within the last minutes
const QUERIES = { text: "query_text", picture: "query_picture", items: "query_items", vector: "query_vector", lexical: "mode_lexical", hybrid: "mode_hybrid" };

let kept = { at: -Infinity, details: null };

/** Return the page, see app.js. */
export const healthPage = () => watchedPage(t("nav_health"), { load, show, every_s: 5 });

async function load(isAsked) {
  const [{ data: health, ms }, { data: ready }] = await Promise.all([get("/health", { accept: [503] }), get("/readyz", { accept: [503] })]);
  const found = { health, ready, ms };
  const orNone = (path, name) => get(path).then(({ data }) => data[name], () => []); // a service that keeps none
  if (!isAsked && performance.now() - kept.at < DETAILS_AGE_MAX_MS) return { ...found, ...kept.details };
  try {
    const [samples, jobs, snapshots, slow, audit] = await Promise.all([
      metricSamples(isAsked),
      get("/v1/jobs").then(({ data }) => data.jobs),
      get("/v1/snapshot").then(({ data }) => data.snapshots),
      orNone("/v1/slow?limit=20", "searches"),
      get(`/v1/audit?limit=${ENTRIES_SHOWN}`).then(({ data }) => data, () => null),
    ]);
    kept = { at: performance.now(), details: { samples, jobs, snapshots, slow, audit } };
    return { ...found, ...kept.details };
  } catch (problem) {
    kept = { at: -Infinity, details: null };
    if (!problem.asksForKey) throw problem;
    return { ...found, problem };
  }
}

function show({ health, ready, ms, problem, samples, jobs, snapshots, slow, audit }, again) {
  const reasons = health.reasons ?? [];
  return [
    h("section", { class: `panel page state ${health.status}` },
      h("p", { class: "figure" }, h("span", { class: "lamp", "aria-hidden": "true" }), t(`health_${health.status}`)),
      h("p", { class: "quiet" }, [t(ready.status === "ready" ? "is_ready" : "is_not_ready"), t(`maintenance_${health.maintenance}`), t("answered_in", { ms: fixed(ms, 0) })].join(" · ")),
      reasons.length === 0 && health.status === "ok" && h("p", {}, t("nothing_wrong"))),
    reasons.length > 0 && h("section", { class: "panel page" }, h("h2", {}, t("what_is_wrong")),
      h("ul", { class: "reasons" }, reasons.map((each) => h("li", {},
        h("p", {}, h("span", { class: "mark bad" }, each.code), ` ${each.collection ?? t("all_collections")}`),
        h("p", { lang: "en" }, each.reason),
        each.hint && command(each.hint))))),
    problem && [problemBox(problem, again), h("p", { class: "quiet" }, t("without_key"))],
    samples && h("section", { class: "panel page" }, h("h2", {}, t("stages_title")), h("p", { class: "quiet" }, t("answers_about")), stageTable(stagesOf(samples))),
    slow?.length > 0 && h("section", { class: "panel page" }, h("h2", {}, t("slow")), slowTable(slow)),
    jobs && h("section", { class: "panel page" }, h("h2", {}, t("jobs")), jobList(jobs)),
    audit && h("section", { class: "panel page" }, h("h2", {}, t("audit")), auditPart(audit)),
    samples && h("section", { class: "panel page" }, h("h2", {}, t("answers")), routeTable(routesOf(samples))),
    h("div", { class: "tiles" },
      samples && h("section", { class: "panel page" }, h("h2", {}, t("machine")), machineFacts(samples)),
      health.access && h("section", { class: "panel page" }, h("h2", {}, t("access")),
        facts(Object.entries(health.access).map(([role, who]) => [t(`access_${role}`), WHO[who] ? t(WHO[who]) : who]))),
      snapshots && h("section", { class: "panel page" }, h("h2", {}, t("snapshots")),
        snapshots.length === 0 ? h("p", { class: "quiet" }, t("no_snapshots")) : h("ul", {}, snapshots.map((each) => h("li", {}, h("code", {}, each.name), ` · ${bytes(each.bytes)}`))))),
  ];
}

/** Where the time of requests goes: each stage with its median and its 99 %, drawn to one scale. */
function stageTable(stages) {
  const rows = [...stages].filter(([, buckets]) => buckets.at(-1)?.[1]).map(([stage, buckets]) => [stage, buckets.at(-1)[1], withinOf(buckets, 0.5), withinOf(buckets, 0.99)]);
  if (rows.length === 0) return h("p", { class: "quiet" }, t("no_answers"));
  const most = Math.max(...rows.map(([, , , p99]) => p99));
  return table(["stage", "calls", "p50", "p99", ""].map((each) => each && t(each)), rows.map(([stage, count, p50, p99]) => [
    t(`stage_${stage}`), number(count), duration(p50), duration(p99),
    h("meter", { min: 0, max: most || 1, value: p99, "aria-label": `${t(`stage_${stage}`)}: ${duration(p99)}` })]), t("stages_title"));
}

function jobList(jobs) {
  if (jobs.length === 0) return h("p", { class: "quiet" }, t("no_jobs"));
  const isOver = ({ state }) => !["queued", "running"].includes(state);
  return jobs.slice(0, JOBS_SHOWN).map((job) => h("article", { class: "job" },
    h("p", {}, h("span", { class: `mark ${{ ready: "good", failed: "bad" }[job.state] ?? ""}` }, t(`state_${job.state}`)), ` ${job.collection} · ${job.model} `, h("span", { class: "quiet" }, moment(job.created_at))),
    !isOver(job) && h("progress", { max: Math.max(1, job.total), value: job.done, "aria-label": job.model }),
    !isOver(job) && h("p", { class: "quiet" }, [t("done_of", { done: number(job.done), total: number(job.total) }), job.eta_s !== null && t("eta", { eta: duration(job.eta_s) })].filter(Boolean).join(" · ")),
    job.reason && h("p", { class: "warning" }, job.reason), job.hint && command(job.hint)));
}

/** What was written or operated last: who, what, with what result. */
function auditPart({ state, lost, entries }) {
  const said = (object) => Object.entries(object ?? {}).map(([name, value]) => `${name} ${typeof value === "number" ? number(value) : value}`);
  const rows = entries.filter((each) => each.route).map((each) => [
    moment(each.time), h("span", { class: `mark ${each.status < 400 ? "good" : "bad"}` }, [each.status, each.code].filter(Boolean).join(" ")),
    h("code", {}, `${each.method} ${each.route}`), each.collection ?? "–", [each.key ?? t("audit_no_key"), h("br"), h("span", { class: "quiet" }, each.address ?? "")],
    h("span", { class: "steps" }, [...said(each.counts), ...said(each.details)].map((part) => h("span", {}, part)))]);
  return [
    state !== "ok" && h("p", { class: "warning" }, t(`audit_${state}`)),
    lost > 0 && h("p", { class: "warning" }, t("audit_lost", { count: number(lost) })),
    rows.length === 0 ? state === "ok" && h("p", { class: "quiet" }, t("audit_none"))
      : table(["when", "result", "what", "collection", "who", "details"].map((each) => t(each)), rows, t("audit")),
  ];
}

function machineFacts(samples) {
  const sum = (name) => sumOf(samples, name);
  const began = sum("process_start_time_seconds");
  return facts([
    [t("memory"), bytes(sum("process_resident_memory_bytes"))],
    [t("disk_free"), t("disk_free_of", { free: bytes(sum("uhok_disk_free_bytes")), reserve: bytes(sum("uhok_disk_reserve_bytes")) })],
    [t("workers"), `${number(sum("uhok_workers"))} / ${number(sum("uhok_workers_configured"))}`],
    [t("turned_away"), number(sum("uhok_refusals_total") ?? 0)],
    [t("unexpected"), number(sum("uhok_unexpected_errors_total") ?? 0)],
    began && [t("began"), moment(began * 1000)],
  ]);
}

function routeTable(routes) {
  const rows = [...routes].filter(([route, each]) => each.count && !/^\/(console|docs|demo)/.test(route)).sort((a, b) => b[1].count - a[1].count);
  return table(["route", "calls", "refused", "p50", "p99"].map((each) => t(each)), rows.map(([route, each]) => [
    h("code", {}, route.replace(/:\w+\}/g, "}")), number(each.count), number(each.refused), duration(withinOf(each.buckets, 0.5)), duration(withinOf(each.buckets, 0.99))]), t("answers"));
}

function slowTable(searches) {
  return table(["when", "took_all", "collection", "asked_by", "stages"].map((each) => t(each)), searches.map((each) => [
    moment(each.at).slice(-CLOCK_LENGTH), `${fixed(each.took_ms, 1)} ms`, each.collection, QUERIES[each.query] ? t(QUERIES[each.query]) : each.query,
    h("span", { class: "steps" }, Object.entries(each.stages_ms).filter(([, took]) => took >= 0.05).map(([stage, took]) => h("span", {}, `${t(`stage_${stage}`)} ${fixed(took, 1)}`)))]), t("slow"));
}

/** Return a table that scrolls in itself; cells of numbers stand right. */
export function table(heads, rows, label) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, h("table", {},
    h("thead", {}, h("tr", {}, heads.map((each) => (each ? h("th", { scope: "col" }, each) : h("td", {}))))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", { class: /^[\d–]/.test(cell) && "number" }, cell)))))));
}
