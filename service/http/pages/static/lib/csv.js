// CSV files (RFC 4180): reading of large files without a copy of each cell, and writing of cells that no spreadsheet takes for formulas.

const QUOTE = 34, CR = 13, LF = 10, SPACE = 32;
const DELIMITERS = [";", "\t", "|", ","];  // among equally good ones, the first is chosen, as the service does
const SAMPLE = 64_000, SAMPLE_ROWS = 60;

/** Return the text of a file (ArrayBuffer): UTF-8, UTF-16 with a byte order mark, or else Windows-1252. */
export function decode(buffer) {
  const [a, b] = new Uint8Array(buffer, 0, Math.min(2, buffer.byteLength));
  if (a === 0xff && b === 0xfe) return new TextDecoder("utf-16le").decode(buffer);
  if (a === 0xfe && b === 0xff) return new TextDecoder("utf-16be").decode(buffer);
  try { return new TextDecoder("utf-8", { fatal: true }).decode(buffer); } catch { return new TextDecoder("windows-1252").decode(buffer); }
}

/**
 * Read a CSV text: {header, count, cells(i), slice(list)}. Rows are numbered from 0 and empty lines are left out, as the service counts them.
 * `cells(i)` are the texts of row i; `slice(list)` is a CSV text of the header and these rows, unchanged. `wanted` are names of columns, by which
 * the delimiter is found.
 */
export function readCsv(text, wanted = []) {
  const begin = text.length - text.replace(/^[\r\n]+/, "").length, stated = text.slice(begin, begin + 10).match(/^"?sep=(.)"?\r?\n/i);
  const first = begin + (stated ? stated[0].length : 0);
  const delimiter = stated?.[1] ?? best(text.slice(first, first + SAMPLE), new Set(wanted));
  const { starts, ends } = lines(text, first, delimiter);
  const row = i => split(text.slice(starts[i], ends[i]), delimiter);
  const count = Math.max(0, starts.length - 1);
  const sample = Array.from({ length: Math.min(count, SAMPLE_ROWS) }, (_, i) => row(i + 1));
  return {
    count, delimiter, header: starts.length ? completed(row(0), sample) : [],
    cells: i => row(i + 1),
    slice: list => [text.slice(0, ends[0]), ...list.map(i => text.slice(starts[i + 1], ends[i + 1]))].join("\n") + "\n",
  };
}

/** Return the delimiter that finds most of the wanted columns, then the most rows with as many cells as the header. */
function best(sample, wanted) {
  const merits = DELIMITERS.map(delimiter => {
    const { starts, ends } = lines(sample, 0, delimiter), n = Math.min(starts.length, SAMPLE_ROWS);
    const parsed = Array.from({ length: n }, (_, i) => split(sample.slice(starts[i], ends[i]), delimiter));
    const [header = [], ...rest] = parsed, full = rest.slice(0, Math.max(1, n - 2));  // the last row may be cut
    return [header.filter(name => wanted.has(name)).length, Number(header.length > 1), full.filter(cells => cells.length === header.length).length / (full.length || 1),
      header.length];
  });
  const better = (a, b) => { const place = a.findIndex((value, i) => value !== b[i]); return place >= 0 && a[place] > b[place]; };
  return DELIMITERS[merits.reduce((top, merit, i) => (better(merit, merits[top]) ? i : top), 0)];
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
  if (!line.includes('"')) return line.split(delimiter).map(cell => cell.trim());
  const cells = [];
  for (let at = 0; at <= line.length;) {
    let i = at;
    while (line.charCodeAt(i) === SPACE) i++;
    if (line[i] !== '"') {
      const end = line.indexOf(delimiter, at);
      cells.push(line.slice(at, end < 0 ? undefined : end).trim());
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
    cells.push((value + line.slice(i, end < 0 ? undefined : end)).trim());
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

/** Return a value as a cell: texts are quoted where needed and are no formulas; a missing value is an empty cell. */
export function cell(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "";
  if (typeof value !== "string") return String(value);
  const safe = noFormula(value);
  return /[",;\t\r\n']|^\s|\s$/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

/** Return values as one line of a CSV file. */
export const line = values => `${values.map(cell).join(",")}\r\n`;
