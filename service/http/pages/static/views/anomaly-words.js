// Words for values, reasons, counts and errors in the view of anomalies.
import { brief } from "../lib/numbers.js";

const DIGITS = 4, MOST = 15;  // significant digits of a number: usually, and at most

/** Return a share as a percentage with three digits. */
export const percent = value => `${Number((100 * value).toPrecision(3))}%`;

/** Return a count with separators. */
export const count = value => value.toLocaleString("en");

/** Return a text with a capital letter at its start. */
export const capital = text => text[0].toUpperCase() + text.slice(1);

/** A value as text: numbers short, missing ones in words. */
export const shown = (value, digits = DIGITS) => (value === null || value === undefined || value === "" ? "no value"
  : typeof value === "number" ? brief(value, digits) : String(value));

const numberIn = value => (typeof value === "string" && value.trim() === "" ? NaN : Number(value));

/** Whether the value of a reason is the expected one. */
export const isExpected = ({ value, expected }) => expected !== null && expected !== undefined && value !== null
  && (typeof expected === "number" ? numberIn(value) === expected : String(value) === String(expected));

/**
 * Return the number of digits with which the value and the expected value of a reason are written, so that rounding changes little of their difference:
 * the rule of runtime/scores/leading.py.
 */
export function digitsOf({ value, expected }, given = [value, expected]) {
  const difference = Math.abs(numberIn(value) - numberIn(expected)), close = digits => given.every(each => typeof each !== "number" || Number.isInteger(each)
    || Math.abs(Number(each.toPrecision(digits)) - each) <= difference / 10);
  if (value === null || expected === null || expected === undefined || !(difference > 0)) return DIGITS;
  let digits = DIGITS;
  while (digits < MOST && !close(digits)) digits++;
  return digits;
}

/** A reason in words, such as "amount = 812, expected 53, high". The direction is left out if the value is the expected one. */
export function reasonText(reason) {
  const { column, value, expected, direction } = reason, digits = digitsOf(reason);
  if (value === null) return `${column} has no value${expected === null || expected === undefined ? "" : `, expected ${shown(expected, digits)}`}`;
  if (isExpected(reason)) return `${column} = ${shown(value)}, unusual although it is the expected value`;
  return `${column} = ${shown(value, digits)}${expected === null || expected === undefined ? "" : `, expected ${shown(expected, digits)}`}${direction ? `, ${direction}` : ""}`;
}

const FIELDS = ["file", "body"];  // fields of the service that mean the file as a whole
const VERBS = /^(lacks|has|is|contains|starts|cannot|does) /;

/** Whether an error is about the content of a file: the same file fails again. */
export const isOfFile = error => FIELDS.includes(error.field) && error.status >= 400 && error.status < 500;

/**
 * Return an error for people: the file is called by its name, and valid values are left out if the message has them. The columns that a file needs are
 * listed in the view.
 */
export function worded(error, name) {
  const prefix = `${error.field}: `, own = isOfFile(error) && error.message.startsWith(prefix), rest = own ? error.message.slice(prefix.length) : error.message;
  const message = own ? `${name}${VERBS.test(rest) ? " " : ": "}${rest}` : rest;
  const repeated = own || error.valid?.every(each => message.includes(String(each)));
  return Object.assign(error, { message: message.replace(/[^.…]$/, "$&."), valid: repeated ? undefined : error.valid },
    own && { advice: "Correct the file and choose it again, or choose another file." });
}
