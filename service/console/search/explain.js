// Why one item is, or is not, in the answer: as the service explains it to an administrator.

import { fill, h } from "./dom.js";
import { fixed, number } from "./format.js";
import { problemBox } from "./parts.js";
import { post } from "./service.js";
import { t } from "./words.js";

/** Whether the service explains such a search: by vectors. body: of the search. */
export const isExplained = ({ mode = "dense" }) => mode === "dense";

/** Return an element that tells it once the service has answered. body: of the search. */
export function explanation(id, body) {
  const told = h("div", { class: "explained", "aria-live": "polite" }, h("p", { class: "quiet" }, t("explaining")));
  const load = async () => {
    try {
      const { include, ...asked } = body;
      fill(told, view((await post("/v1/explain", { ...asked, id })).data));
    } catch (problem) {
      fill(told, problem.asksForKey ? h("p", { class: "quiet" }, t("explain_key")) : problemBox(problem, load));
    }
  };
  load();
  return told;
}

const place = ({ rank, ranks_seen }) => (rank === null ? t("explain_beyond", { count: number(ranks_seen) }) : t("explain_rank", { rank: number(rank) }));

function view({ reason, detail, in_answer, item, exact, answer, ranking, passes_filter, seq }) {
  const plan = answer.plan.map((each) => t(`way_${each.way}`, { rows: number(each.rows), ef: number(each.ef) })).join(", ");
  const rows = [
    [t("explain_state"), t(`item_${item.state}`)],
    (exact.rank !== null || exact.ranks_seen > 0) && [t("explain_exact"), place(exact)],
    ranking?.ranks_seen > 0 && [t("explain_ranking"), place(ranking)],
    exact.distance !== null && [t("distance"), fixed(exact.distance, 4)],
    answer.last_distance !== null && [t("explain_last"), fixed(answer.last_distance, 4)],
    passes_filter !== null && [t("filter"), t(passes_filter ? "explain_passes" : "explain_fails")],
    plan && [t("explain_plan"), plan],
    ["seq", number(seq)],
  ].filter(Boolean);
  return [
    h("p", {}, h("span", { class: `mark ${in_answer ? "good" : "bad"}` }, t(`reason_${reason}`)), " ", h("span", { class: "quiet", lang: "en" }, detail)),
    h("dl", {}, rows.map(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]))];
}
