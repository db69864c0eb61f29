// Calls of the service. The key is kept for this tab's session, sent in a header, and never part of an address.

const KEY = "console.key";

/** What the service refused, or that it did not answer (status 0). */
export class Problem extends Error {
  constructor(status, document) {
    super(document.detail ?? document.title ?? `HTTP ${status}`);
    this.status = status;
    this.code = document.code ?? "";
    this.hint = document.hint ?? "";
    this.errors = document.errors ?? [];
    this.requestId = document.request_id ?? "";
  }

  /** Whether another key might help. */
  get asksForKey() {
    return this.status === 401 || this.status === 403;
  }
}

export const keptKey = () => sessionStorage.getItem(KEY) ?? "";

export function keepKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** Return { data, headers, ms }. Throws Problem. body: sent as JSON where there is one. accept: states that are
 *  no refusal. isText: the answer is taken as it is. */
export async function ask(method, path, body, { headers = {}, signal, accept = [], isText = false } = {}) {
  const began = performance.now();
  const key = keptKey();
  let answer, text;
  try {
    answer = await fetch(path, {
      method,
      signal,
      headers: {
        ...(key && { authorization: `Bearer ${key}` }),
        ...(body !== undefined && { "content-type": "application/json" }),
        ...headers,
      },
      body: body === undefined ? undefined : toJson(body),
    });
    text = await answer.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, { detail: String(error.message), code: "no_answer" });
  }
  const data = isText && answer.ok ? text : fromJson(text);
  if (!answer.ok && !accept.includes(answer.status)) {
    throw new Problem(answer.status, data && typeof data === "object" ? data : { detail: text.slice(0, 300) });
  }
  return { data, headers: answer.headers, ms: performance.now() - began };
}

export const get = (path, options) => ask("GET", path, undefined, options);
export const post = (path, body, options) => ask("POST", path, body, options);

/** Ids go up to 2^63, numbers of this language to 2^53: beyond that an integer stays whole as a BigInt. */
export function fromJson(text) {
  const whole = (_, value, context) =>
    typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")
      ? BigInt(context.source)
      : value;
  try {
    return JSON.parse(text, whole);
  } catch {
    return null;
  }
}

export function toJson(value, space) {
  const whole = (_, each) => (typeof each === "bigint" ? JSON.rawJSON(String(each)) : each);
  return JSON.stringify(value, whole, space);
}
