// CSV files (RFC 4180): reading of large files without a copy of each cell, and writing of cells that no spreadsheet takes for formulas.

const QUOTE = 34, CR = 13, LF = 10, SPACE = 32;
const DELIMITERS = [";", "\t", "|", ","];  // among equally good ones, the first is chosen, as the service does
const SAMPLE = 256 * 1024, SAMPLE_ROWS = 500;  // the beginning of a file in which the service looks for its form

// invisible characters that the service removes at both ends of a text, beyond those of trim()
const BLANKS = "[\\s\\x1c-\\x1f\\x85\\u200b\\u200e\\u200f\\u202a\\u202c\\u2060\\ufeff]", ENDS = new RegExp(`^${BLANKS}+|${BLANKS}+$`, "g"),
  MAY = new RegExp(`^${BLANKS}|${BLANKS}$`);
const trimmed = text => (MAY.test(text) ? text.replace(ENDS, "") : text);

/** Return the text of a file (ArrayBuffer): UTF-8, UTF-16 with a byte order mark, or else Windows-1252. */
export function decode(buffer) {
  const [a, b] = new Uint8Array(buffer, 0, Math.min(2, buffer.byteLength));
  if (a === 0xff && b === 0xfe) return new TextDecoder("utf-16le").decode(buffer);
  if (a === 0xfe && b === 0xff) return new TextDecoder("utf-16be").decode(buffer);
  try { return new TextDecoder("utf-8", { fatal: true }).decode(buffer); } catch { return new TextDecoder("windows-1252").decode(buffer); }
}

/**
 * Read a CSV text: {header, count, cells(i), decimal}. Rows are numbered from 0 and empty lines are left out, as the service counts them. `cells(i)` are the
 * texts of row i; `decimal` is the decimal separator, null if the file shows none. `wanted` are names of columns, by which the delimiter is found.
 */
export function readCsv(text, wanted = []) {
  const begin = text.length - text.replace(/^[\r\n]+/, "").length, stated = text.slice(begin, begin + 10).match(/^"?sep=(.)"?\r?\n/i);
  const first = begin + (stated ? stated[0].length : 0), part = beginning(text, first);
  const candidates = (stated ? [stated[1]] : DELIMITERS).map(delimiter => parsed(part, delimiter));
  const { delimiter, header, rows } = best(candidates, new Set(wanted));
  const { starts, ends } = lines(text, first, delimiter);
  return {
    count: Math.max(0, starts.length - 1), delimiter, header: completed(header, rows), cells: i => split(text.slice(starts[i + 1], ends[i + 1]), delimiter),
    decimal: decimalOf(rows, header.length, delimiter),
  };
}

/** Return the complete lines at the beginning of a text. */
function beginning(text, first) {
  const part = text.slice(first, first + SAMPLE);
  if (first + SAMPLE >= text.length) return part;
  const end = part.replace(/\r\n$|[\r\n]$/, "").search(/[\r\n][^\r\n]*$/);
  return end < 0 ? text.slice(first, first + 8 * SAMPLE) : part.slice(0, end + 1);
}

/** Return the beginning of a file as a delimiter divides it: {delimiter, header, rows}. */
function parsed(part, delimiter) {
  const { starts, ends } = lines(part, 0, delimiter), [header = [], ...rows] = Array.from({ length: Math.min(starts.length, SAMPLE_ROWS + 1) },
    (_, i) => split(part.slice(starts[i], ends[i]), delimiter));
  return { delimiter, header: header.map(name => name.normalize("NFC")), rows };
}

/** Return the candidate that has most of the wanted columns, then the most rows with as many cells as the header. */
function best(candidates, wanted) {
  const merit = ({ header, rows }) => [new Set(header.filter(name => wanted.has(name))).size, Number(header.length > 1),
    rows.filter(cells => cells.length === header.length).length / Math.max(rows.length, 1), header.length];
  const merits = candidates.map(merit);
  const better = (a, b) => { const place = a.findIndex((value, i) => value !== b[i]); return place >= 0 && a[place] > b[place]; };
  return candidates[merits.reduce((top, each, i) => (better(each, merits[top]) ? i : top), 0)];
}

// the rules of runtime/tables/dialect.py and values.py: numbers that show their decimal separator, and all numbers of a notation
const SPACES = " '\u2019\u00a0\u202f\u2009", OTHER = { ".": ",", ",": "." };
const forBoth = make => Object.fromEntries(Object.entries(OTHER).map(([point, group]) => [point, new RegExp(`^(?:${make(`\\${point}`, `\\${group}`)})$`)]));
const SHOWN = forBoth((point, group) => `[+-]?(?:\\d{1,3}(?:[${group}${SPACES}]\\d{3})+${point}\\d+|\\d*${point}(?:\\d{1,2}|\\d{4,})|0+${point}\\d+|\\d{4,}${point}\\d+)(?:[eE][+-]?\\d+)?`);
const NUMBER = forBoth((point, group) => `[+\\-\u2212]?(?:(?:[1-9]\\d{0,2}([${group}${SPACES}])\\d{3}(?:\\1\\d{3})*|\\d+)(?:${point}\\d*)?|${point}\\d+)(?:[eE][+-]?\\d+)?`);
const EITHER = /^[+-]?\d{1,3},\d{3}$/;

/** Return the decimal separator that most of the first `width` columns of some rows show; null if they show none, or both equally often. */
function decimalOf(rows, width, delimiter) {
  const votes = {};
  for (let place = 0; place < width; place++) {
    const cells = [...new Set(rows.map(row => row[place] ?? ""))];
    for (const [point, pattern] of Object.entries(SHOWN)) if (cells.some(cell => pattern.test(cell))) votes[point] = (votes[point] ?? 0) + 1;
    if (delimiter !== "," && cells.some(cell => EITHER.test(cell))) votes[","] ??= 0;  // 1,234 beside another delimiter: a decimal comma, unless others show points
  }
  const [most, next] = Object.entries(votes).sort(([, a], [, b]) => b - a);
  return most && (!next || most[1] > next[1]) ? most[0] : null;
}

/** Return the number that a text is in a notation, with its groups of three digits; the text itself if it is no finite number. */
export function numberOf(text, decimal) {
  const known = trimmed(text), found = NUMBER[decimal].exec(known);
  if (!found) return text;
  const value = Number((found[1] === undefined ? known : known.replaceAll(found[1], "")).replace(decimal, ".").replace("\u2212", "-"));
  return Number.isFinite(value) ? value : text;
}

/** Return where rows start and end. A quote opens a text at the start of a cell, and line breaks in it do not end the row. */
function lines(text, from, delimiter) {
  const mark = delimiter.charCodeAt(0), starts = [], ends = [];
  let start = from, fresh = true, quoted = false;
  for (let i = from; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (quoted) {
      if (code === QUOTE && text.charCodeAt(i + 1) === QUOTE) i++;
      else if (code === QUOTE) quoted = false;
    } else if (code === QUOTE && fresh) { quoted = true; fresh = false; }
    else if (code === mark) fresh = true;
    else if (code === LF || code === CR) {
      if (i > start) { starts.push(start); ends.push(i); }
      if (code === CR && text.charCodeAt(i + 1) === LF) i++;
      start = i + 1;
      fresh = true;
    } else if (code !== SPACE) fresh = false;
  }
  if (text.length > start) { starts.push(start); ends.push(text.length); }
  return { starts: Uint32Array.from(starts), ends: Uint32Array.from(ends) };
}

/** Return the cells of one row, without the spaces around them. */
function split(line, delimiter) {
  if (!line.includes('"')) return line.split(delimiter).map(trimmed);
  const cells = [];
  for (let at = 0; at <= line.length;) {
    let i = at;
    while (line.charCodeAt(i) === SPACE) i++;
    if (line[i] !== '"') {
      const end = line.indexOf(delimiter, at);
      cells.push(trimmed(line.slice(at, end < 0 ? undefined : end)));
      at = end < 0 ? line.length + 1 : end + 1;
      continue;
    }
    let value = "";
    for (i += 1; i < line.length; i++) {
      if (line[i] !== '"') value += line[i];
      else if (line[i + 1] === '"') value += line[i++];
      else { i++; break; }
    }
    const end = line.indexOf(delimiter, i);
    cells.push(trimmed(value + line.slice(i, end < 0 ? undefined : end)));
    at = end < 0 ? line.length + 1 : end + 1;
  }
  return cells;
}

/** Return the header, with a column without a name if every row has one cell more than it: an empty last cell, or a row name in front. */
function completed(header, rows) {
  if (header.length < 2 || !rows.length || rows.some(cells => cells.length !== header.length + 1)) return header;
  return rows.every(cells => cells.at(-1) === "") ? [...header, ""] : ["", ...header];
}

// the rule of runtime/tables/formulas.py: a sign that begins a formula, unless the text is a number
const BLANK = "[ \\t\\r\\n\\v\\f\\u00a0]*", SIGN = "[=+@\\uff1d\\uff0b\\uff0d\\uff20-]";
const FORMULA = new RegExp(`(^|[;\\t])(?=${BLANK}${SIGN}|[\\t\\r\\n])(?!${BLANK}[+-]?[\\d.,]*\\d(?:[eE][+-]?\\d+)?${BLANK}(?:[;\\t]|$))`, "g");

/** Return a text that a spreadsheet does not take for a formula: with an apostrophe before a sign that would begin one. */
export const noFormula = text => text.replace(FORMULA, "$1'");

/** Return a value as a cell: texts are quoted where needed; a missing value is an empty cell. */
function exactCell(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value !== "string") return String(value);
  return /[",;\t\r\n']|^\s|\s$/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

/** Return a value as a cell for spreadsheets: texts are no formulas. */
export const cell = value => exactCell(typeof value === "string" ? noFormula(value) : value);

/** Return values as one line of a CSV file for spreadsheets. */
export const line = values => `${values.map(cell).join(",")}\r\n`;

/** Return values as one line of a CSV file that no spreadsheet opens: texts are unchanged. */
export const exactLine = values => `${values.map(exactCell).join(",")}\r\n`;
