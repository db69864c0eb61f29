// A model change: begin it, watch it, look at what it would change, promote it, take it back.

import { dialog, fill, h } from "./dom.js";
import { bytes, duration, fixed, moment, number } from "./format.js";
import { choice, problemBox, say } from "./parts.js";
import { ask, get, post } from "./service.js";
import { t } from "./words.js";
import { facts, generationTable } from "./collections.js";
import { reportView } from "./report.js";
import { watchedPage } from "./watch.js";

const BUILT_IN = { text: ["builtin:multilingual-e5-small", "builtin:hashed-ngrams"], image: ["builtin:efficientnet-lite0-views", "builtin:efficientnet-lite0", "builtin:descriptor"] };
const STEPS = { promote: "next", rollback: "former", abort: "next", retire: "former" };
const FORCED = ["promote", "rollback"]; // what the service may refuse for what searches would show after it

const chosen = { collection: null, model: "", plan: null, report: null }; // kept while the tab is open

/** Return the page, see app.js. */
export const modelPage = () => watchedPage(t("nav_model"), { load, show, every_s: ({ jobs }) => (jobs.some(isUnderWay) ? 2 : 10) });

const isUnderWay = ({ state }) => state === "queued" || state === "running";

async function load() {
  const [{ data: all }, { data: jobs }] = await Promise.all([get("/v1/collections"), get("/v1/jobs")]);
  const collections = all.collections;
  if (!collections.some(({ name }) => name === chosen.collection)) chosen.collection = collections[0].name;
  const { data, headers } = await get(`/v1/collections/${encodeURIComponent(chosen.collection)}/generations`);
  return { collections, jobs: jobs.jobs, generations: data.generations, etag: headers.get("etag") };
}

function show({ collections, jobs, generations, etag }, again) {
  const collection = collections.find(({ name }) => name === chosen.collection);
  const own = jobs.filter((job) => job.collection === collection.name);
  const roles = new Set(generations.map(({ role }) => role));
  const step = (name) => roles.has(STEPS[name]) && h("button", { class: { promote: "primary", rollback: "", abort: "danger", retire: "danger" }[name], onclick: () => confirmStep(name, collection.name, generations, etag, again) }, t(name));
  return [
    h("section", { class: "panel page" },
      h("div", { class: "row between" },
        choice("model-collection", t("collection"), collection.name, collections.map(({ name }) => [name, name]), (name) => {
          Object.assign(chosen, { collection: name, plan: null, report: null, model: "" });
          again();
        }),
        h("div", { class: "row" }, step("promote"), step("rollback"), step("abort"), step("retire"))),
      generationTable(generations)),
    roles.has("next") ? reportPart(collection.name, again) : beginPart(collection, again),
    h("section", { class: "panel page" }, h("h2", {}, t("jobs")),
      own.length === 0 ? h("p", { class: "quiet" }, t("no_jobs")) : own.slice(0, 5).map((job) => jobPart(job, again))),
  ];
}

function beginPart(collection, again) {
  const told = h("div", { class: "page", "aria-live": "polite" });
  const begin = h("button", { class: "primary", type: "button", onclick: () => send(false) }, t("begin"));
  const showPlan = () => {
    begin.disabled = !chosen.plan || chosen.plan.problem !== "";
    fill(told, chosen.plan && planView(chosen.plan));
  };
  const send = async (isTrial) => {
    const body = { collection: collection.name, dry_run: isTrial };
    if (chosen.model.trim()) body.model = chosen.model.trim();
    fill(told, h("p", { class: "quiet" }, t("estimating")));
    try {
      const { data } = await post("/v1/rebuild", body);
      chosen.plan = isTrial ? data : null;
      showPlan();
      if (!isTrial) {
        say(t("begun"));
        document.activeElement?.blur();
        again();
      }
    } catch (problem) {
      chosen.plan = null;
      showPlan();
      fill(told, problemBox(problem));
    }
  };
  const element = h("section", { class: "panel page" }, h("h2", {}, t("begin_title")), h("p", { class: "quiet" }, t("begin_about")),
    h("form", { class: "ask many", onsubmit: (event) => {
      event.preventDefault();
      send(true);
    } },
      h("label", { class: "field" }, h("span", {}, t("new_model")),
        h("input", { id: "new-model", list: "models", autocomplete: "off", spellcheck: "false", value: chosen.model, placeholder: collection.model, oninput: (event) => {
          Object.assign(chosen, { model: event.target.value, plan: null });
          showPlan();
        } })),
      h("datalist", { id: "models" }, BUILT_IN[collection.modality].filter((each) => each !== collection.model).map((each) => h("option", { value: each }))),
      h("button", { type: "submit" }, t("estimate")), begin),
    told);
  showPlan();
  return element;
}

function planView(plan) {
  const { estimate } = plan;
  return [
    plan.problem && h("p", { class: "warning", lang: "en" }, plan.problem),
    estimate.contents < estimate.items && h("p", { class: "warning" }, t("contents_few", { count: number(estimate.items - estimate.contents) })),
    facts([
      [t("version"), h("code", {}, plan.embedding_version)],
      [t("contents"), t("contents_of", { contents: number(estimate.contents), items: number(estimate.items) })],
      [t("time"), estimate.seconds === null ? "–" : t("about", { what: duration(Math.max(1, Math.ceil(estimate.seconds))) })],
      [t("disk"), t("of_free", { needed: bytes(estimate.disk_bytes), free: bytes(estimate.disk_bytes_free) })],
      [t("memory"), t("of_free", { needed: bytes(estimate.memory_bytes), free: bytes(estimate.memory_bytes_free) })],
    ])];
}

function jobPart(job, again) {
  const isOver = !isUnderWay(job);
  const errors = Object.entries(job.errors);
  return h("article", { class: "job" },
    h("div", { class: "row between" },
      h("h3", {}, job.model, " ", h("span", { class: `mark ${{ ready: "good", failed: "bad" }[job.state] ?? ""}` }, t(`state_${job.state}`))),
      !isOver && h("button", { class: "danger small", onclick: async () => {
        try {
          await ask("DELETE", `/v1/jobs/${encodeURIComponent(job.id)}`);
        } catch (problem) {
          say(problem.message);
        }
        again();
      } }, t("cancel_job"))),
    !isOver && h("progress", { max: Math.max(1, job.total), value: job.done, "aria-label": job.model }),
    h("p", { class: "quiet" }, [
      moment(job.created_at), t("done_of", { done: number(job.done), total: number(job.total) }),
      !isOver && t("phase", { phase: phaseWords(job) }), !isOver && job.rate !== null && t("rate", { rate: fixed(job.rate, 1) }),
      !isOver && job.eta_s !== null && t("eta", { eta: duration(job.eta_s) }), job.missing > 0 && t("missing", { count: number(job.missing) })].filter(Boolean).join(" · ")),
    job.reason && h("p", { class: "warning" }, job.reason, job.hint && ` ${job.hint}`),
    errors.length > 0 && h("ul", {}, errors.map(([reason, count]) => h("li", {}, `${reason}: ${number(count)}`))));
}

/** A phase that a newer service tells and this page does not know is shown as it is. */
function phaseWords({ phase }) {
  const word = `phase_${phase}`;
  return t(word) === word ? phase : t(word);
}

function reportPart(collection, again) {
  const told = h("div", { class: "page" });
  const draw = () => fill(told, chosen.report && reportView(chosen.report));
  const fetchReport = async () => {
    fill(told, h("p", { class: "quiet" }, t("report_making")));
    try {
      chosen.report = (await get(`/v1/collections/${encodeURIComponent(collection)}/generations/next/report`)).data;
      draw();
    } catch (problem) {
      fill(told, problemBox(problem, again));
    }
  };
  const savePage = async () => {
    const path = `/v1/collections/${encodeURIComponent(collection)}/generations/next/report`;
    try {
      const { data } = await get(path, { isText: true, headers: { accept: "text/html" } });
      const address = URL.createObjectURL(new Blob([data], { type: "text/html" }));
      h("a", { href: address, download: `${collection}-report.html` }).click(); // a link could not carry the key
      URL.revokeObjectURL(address);
    } catch (problem) {
      fill(told, problemBox(problem, again));
    }
  };
  draw();
  return h("section", { class: "panel page" }, h("div", { class: "row between" }, h("h2", {}, t("report")),
    h("div", { class: "row" }, h("button", { onclick: fetchReport }, t("report_show")), h("button", { onclick: savePage }, t("report_save")))),
    h("p", { class: "quiet" }, t("report_about")), told);
}

/** A step that every caller feels is taken only once the collection's name has been typed. */
function confirmStep(name, collection, generations, etag, again) {
  const subject = generations.find(({ role }) => role === STEPS[name]);
  return dialog(t(name), (close) => {
    const told = h("div", {});
    const force = h("input", { type: "checkbox", id: "force" });
    const forcing = h("label", { class: "check", hidden: true }, force, t("force"));
    const take = h("button", { class: name === "promote" ? "primary" : "danger", type: "submit", disabled: true }, t(name));
    const typed = h("input", { id: "typed-name", autocomplete: "off", spellcheck: "false", oninput: (event) => {
      take.disabled = event.target.value.trim() !== collection;
    } });
    const send = async (event) => {
      event.preventDefault();
      take.disabled = true;
      try {
        const body = { collection, embedding_version: subject.embedding_version };
        if (FORCED.includes(name) && force.checked) body.force = true;
        await post(`/v1/${name}`, body, { headers: { "if-match": etag } });
        chosen.report = null;
        close();
        document.activeElement?.blur();
        await again(); // the next step goes by what is there now, so it is drawn before this one is called done
        say(t(`${name}_done`, { collection }));
      } catch (problem) {
        take.disabled = false;
        forcing.hidden = !FORCED.includes(name) || problem.code !== "promote_conflict";
        fill(told, problemBox(problem));
      }
    };
    return h("form", { onsubmit: send },
      h("p", {}, t(`${name}_about`)),
      facts([[t("collection"), collection], [t("version"), h("code", {}, subject.embedding_version)], [t("items_live"), number(subject.live)]]),
      told, forcing,
      h("label", { class: "field" }, h("span", {}, t("type_name", { name: collection })), typed),
      h("p", { class: "row" }, take, h("button", { type: "button", onclick: () => close() }, t("cancel"))));
  });
}
