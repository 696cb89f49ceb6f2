// Words for values, reasons and counts in the view of anomalies.
import { brief } from "../lib/numbers.js";

/** Return a share as a percentage with three digits. */
export const percent = value => `${Number((100 * value).toPrecision(3))}%`;

/** Return a count with separators. */
export const count = value => value.toLocaleString("en");

/** Return a text with a capital letter at its start. */
export const capital = text => text[0].toUpperCase() + text.slice(1);

/** A value as text: numbers short, missing ones in words. */
export const shown = value => (value === null || value === undefined || value === "" ? "no value" : typeof value === "number" ? brief(value) : String(value));

/** A reason in words, such as "amount = 812, expected 53, high". */
export function reasonText({ column, value, expected, direction }) {
  const said = value === null ? `${column} has no value` : `${column} = ${shown(value)}`;
  return `${said}${expected === null || expected === undefined ? "" : `, expected ${shown(expected)}`}${direction ? `, ${direction}` : ""}`;
}
