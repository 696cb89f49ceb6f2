// Records: reading them from CSV and JSON, their columns, and their differences.
import { ServiceError } from "./api.js";
import { brief } from "./numbers.js";

/** Return the lines of a CSV text as lists of cells (RFC 4180). */
export function readCsv(text) {
  const lines = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    lines.at(-1).push(quoted === undefined ? plain : quoted.replace(/""/g, '"'));
    if (end === "") break;
    if (end !== ",") lines.push([]);
  }
  return lines.filter(line => line.length > 1 || line[0] !== "");
}

/** Whether a column has numbers: other columns have categories. */
export const isNumeric = column => !column.categories;

/** Return the records of a text: JSON (an object or a list of them), or CSV with a first line of names. Throws ServiceError for another text. */
export function readRecords(text, columns) {
  const wrong = (message, advice) => new ServiceError({ type: "text", message, advice });
  if (/^\s*[[{]/.test(text)) {
    let value;
    try { value = JSON.parse(text); } catch (error) { throw wrong(`The text is not valid JSON: ${error.message}.`, "Correct it and try again."); }
    const list = Array.isArray(value) ? value : [value];
    if (!list.length || list.some(each => typeof each !== "object" || each === null || Array.isArray(each))) throw wrong("The JSON has no records.",
      "Write an object with a value by column, or a list of such objects.");
    return list;
  }
  const [names, ...lines] = readCsv(text.trim());
  const known = names.filter(name => columns.some(column => column.name === name));
  if (!lines.length || !known.length) throw wrong("The text has no records with a known column.",
    `Paste JSON, or CSV whose first line has names of columns, such as ${columns.slice(0, 3).map(column => column.name).join(", ")}.`);
  return lines.map(line => Object.fromEntries(columns.flatMap(column => {
    const place = names.indexOf(column.name);
    return place < 0 ? [] : [[column.name, readCell(column, line[place])]];
  })));
}

/** Return the value of a cell: null if it is empty, a number if the column has numbers and the text is one. */
export function readCell(column, text) {
  if (text === "" || text === null || text === undefined) return null;
  return isNumeric(column) && Number.isFinite(Number(text)) ? Number(text) : String(text);
}

/** Whether a record has no value in a column. */
export const isEmpty = value => value === null || value === undefined || value === "";

/** Whether two values of a column differ: numbers by more than their rounding. */
export function differs(column, a, b) {
  if (isEmpty(a) || isEmpty(b)) return isEmpty(a) !== isEmpty(b);
  if (!isNumeric(column)) return String(a) !== String(b);
  return Math.abs(a - b) > 0.5 * 10 ** -(column.decimals ?? 6) && brief(Number(a)) !== brief(Number(b));
}
