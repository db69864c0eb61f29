// Numbers, sizes and times as a reader of the chosen language writes them.

import { language } from "./words.js";

export const number = (value, digits = 0) =>
  value === null || value === undefined
    ? "–"
    : Number(value).toLocaleString(language(), { maximumFractionDigits: digits });

export const fixed = (value, digits) => Number(value).toFixed(digits);

export function bytes(value) {
  if (value === null || value === undefined) return "–";
  const step = value > 0 ? Math.min(4, Math.floor(Math.log2(value) / 10)) : 0;
  return `${number(value / 1024 ** step, step ? 1 : 0)} ${["B", "KiB", "MiB", "GiB", "TiB"][step]}`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${number(seconds * 1000, seconds < 0.01 ? 2 : 0)} ms`;
  const parts = [];
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]]) {
    if (seconds >= size && parts.length < 2) {
      parts.push(`${Math.floor(seconds / size)} ${unit}`);
      seconds %= size;
    }
  }
  return parts.join(" ");
}

const CLOCK = new Intl.DateTimeFormat("sv-SE", { dateStyle: "short", timeStyle: "medium" });

/** Return 2026-11-28 09:30:00, of the reader's own clock: the same in both languages, as it stands in logs. */
export const moment = (value) => (value === null || value === undefined ? "–" : CLOCK.format(new Date(value)));
