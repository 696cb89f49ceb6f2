// Records: reading them from CSV and JSON, their columns, and their differences.
import { ServiceError } from "./api.js";
import { numberOf, readCsv } from "./csv.js";
import { brief, fromJson } from "./numbers.js";

/** Whether a column has numbers: other columns have categories. */
export const isNumeric = column => !column.categories;

/** Return the records of a text: JSON (an object or a list of them), or CSV with a first line of names. Throws ServiceError for another text. */
export function readRecords(text, columns) {
  const wrong = (message, advice) => new ServiceError({ type: "text", message, advice });
  if (/^\s*[[{]/.test(text)) {
    let value;
    try { value = fromJson(text); } catch (error) { throw wrong(`The text is not valid JSON: ${error.message}.`, "Correct it and try again."); }
    const list = Array.isArray(value) ? value : [value];
    if (!list.length || list.some(each => typeof each !== "object" || each === null || Array.isArray(each))) throw wrong("The JSON has no records.",
      "Write an object with a value by column, or a list of such objects.");
    return list;
  }
  const { header: names, count, cells, decimal } = readCsv(text.trim(), columns.map(column => column.name));
  const lines = Array.from({ length: count }, (_, i) => cells(i));
  const known = names.filter(name => columns.some(column => column.name === name));
  if (!lines.length || !known.length) throw wrong("The text has no records with a known column.",
    `Paste JSON, or CSV whose first line has names of columns, such as ${columns.slice(0, 3).map(column => column.name).join(", ")}.`);
  return lines.map(line => Object.fromEntries(columns.flatMap(column => {
    const place = names.indexOf(column.name);
    return place < 0 ? [] : [[column.name, readCell(column, line[place], decimal ?? ".")]];
  })));
}

/** Return the value of a cell: null if it is empty, a number if the column has numbers and the text is one in the notation of a file. */
export function readCell(column, text, decimal = ".") {
  if (text === "" || text === null || text === undefined) return null;
  return isNumeric(column) ? numberOf(String(text), decimal) : String(text);
}

/** Whether a record has no value in a column. */
export const isEmpty = value => value === null || value === undefined || value === "";

/** Whether two values of a column differ: numbers by more than their rounding. */
export function differs(column, a, b) {
  if (isEmpty(a) || isEmpty(b)) return isEmpty(a) !== isEmpty(b);
  if (!isNumeric(column)) return String(a) !== String(b);
  return Math.abs(a - b) > 0.5 * 10 ** -(column.decimals ?? 6) && brief(Number(a)) !== brief(Number(b));
}
