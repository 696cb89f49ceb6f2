// Requests of the view of anomalies: scores of a source of items, explanations of some of them, and the threshold of a rule.
import { ServiceError, gone, postJson, send } from "../lib/api.js";
import { numberOf } from "../lib/csv.js";
import { fromJson } from "../lib/numbers.js";
import { nouns, pictureType } from "../lib/models.js";
import { Scores, mainReasons } from "./anomaly-scores.js";
import { base64 } from "../lib/files.js";

const NDJSON = "application/x-ndjson";
const AT_ONCE = 128, RECORDS = 1000, BODY = 8_000_000;  // pictures, records and characters in one JSON request
const PAUSE = 25;  // ms of work after which the page is drawn
const breathe = () => new Promise(resolve => setTimeout(resolve));

const common = model => ({ model: model.name, version: model.version });

/**
 * Score a source by a rule. Return {scores, warnings, fitted, decimal}: warnings about all of it, how pictures were fitted, and the decimal separator with
 * which the service read a file. `source` has either `body` and `type`, a file of records, or `items`, which are sent as JSON. `hear(n)` is called with the
 * number of scored items.
 */
export async function scoreSource(model, source, fields, signal, hear) {
  return source.body && !hasCondition(fields) ? scoreFile(model, source, fields, signal, hear) : scoreItems(model, source, fields, signal, hear);
}

const hasCondition = fields => fields.class !== undefined || fields.condition !== undefined;

const pathOf = (model, fields) => {
  const texts = Object.entries({ ...common(model), ...fields }).filter(([, value]) => value !== undefined);
  return `anomaly-score?${new URLSearchParams(texts.map(([name, value]) => [name, typeof value === "object" ? JSON.stringify(value) : String(value)]))}`;
};

async function scoreFile(model, source, fields, signal, hear) {
  const scores = new Scores(), response = await send(pathOf(model, fields), { body: source.body, type: source.type, accept: NDJSON, signal });
  const last = await eachEntry(response, (entry, place, n) => { scores.add(entry, place); if (n % 2000 === 0) hear(n); });
  return { scores: scores.close(), warnings: last.warnings ?? [], decimal: last.decimal };
}

/**
 * Call `hear(entry, place, n)` for each line about an item, with its number in the file, and return the last line. The page is drawn while lines arrive.
 * Errors are thrown.
 */
async function eachEntry(response, hear) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", last = {}, n = 0, since = performance.now();
  for (;;) {
    const { value, done } = await reader.read().catch(error => { throw error.name === "AbortError" ? error : gone(); });
    const lines = (rest + (value ?? "")).split("\n");
    rest = done ? "" : lines.pop();
    for (const text of lines) {
      if (!text) continue;
      // only ids and passed columns, which come before the score, may be whole numbers beyond 2^53
      const content = !/\d{16}/.test(text.slice(0, text.indexOf('"score":'))) ? JSON.parse(text) : fromJson(text);
      if (content.error?.message) throw new ServiceError({ status: content.error.status ?? 500, ...content.error, requestId: content.error.request_id });
      const { row: place } = content;
      if (place !== undefined) hear(content, place, ++n); else last = content;
      if (performance.now() - since > PAUSE) { await breathe(); since = performance.now(); }
    }
    if (done) return last;
  }
}

async function scoreItems(model, source, fields, signal, hear) {
  const scores = new Scores(), fitted = [], warnings = new Set(), refused = [];
  let answer = {};
  for (const part of parts(source)) {
    const found = await scorePart(model, source, fields, part, signal, refused);
    if (!found) continue;
    answer = found;
    answer.items.forEach((entry, place) => scores.add(entry, part[place] + 1));
    answer.fitted?.forEach((each, place) => { fitted[part[place]] = each; });
    (answer.warnings ?? []).forEach(text => warnings.add(text));
    hear(scores.n);
  }
  scores.errors.push(...refused.map(({ i, error }) => ({ place: i + 1, error: error.message })));
  return { scores: scores.close(), warnings: [...warnings], fitted };
}

/**
 * Return the response for a part (indices of items), or null if none of them can be scored. Items that the service refuses are taken out of the part and
 * added to `refused`.
 */
async function scorePart(model, source, fields, part, signal, refused) {
  while (part.length) {
    try {
      return await postJson("anomaly-score", { ...common(model), ...fields, [nouns(model).many]: part.map(i => sent(model, source, i)) }, { signal });
    } catch (error) {
      const at = Number(error.field?.match(/\[(\d+)\]/)?.[1] ?? NaN), name = source.items?.[part[at]]?.name;
      if (!(at < part.length)) throw error;
      const message = error.message.replace(/^\w+\[\d+\](?:: |\.)?/, "");
      error.message = name ? `${name}: ${message}` : message;
      refused.push({ i: part[at], error });
      part.splice(at, 1);
    }
  }
  return null;
}

/** Yield lists of indices of items that fit into one request. */
function* parts(source) {
  let part = [], size = 0;
  const most = source.sizeOf ? AT_ONCE : RECORDS;
  for (let i = 0; i < source.count; i++) {
    const next = source.sizeOf?.(i) ?? 0;
    if (part.length && (part.length === most || size + next > BODY)) { yield part; part = []; size = 0; }
    part.push(i);
    size += next;
  }
  if (part.length) yield part;
}

/**
 * Return item i in the form of a request: base64 of a picture, or a record by column. Numbers are read with the decimal separator of the whole file: a part of
 * it may not show which one it is. In a file with another separator than the model, so are the numbers of categories, as the service reads them in a file.
 */
function sent(model, source, i) {
  if (pictureType(model.data)) return base64(source.items[i].url);
  const cells = source.sheet.cells(i), columns = new Map(model.data.columns.map(column => [column.name, column])), { decimal } = source.sheet,
    same = !decimal || decimal === (model.data.decimal ?? ".");
  const value = (text, { categories }) => (text === undefined ? null : categories && (same || categories.includes(text) || /^0\d+$/.test(text)) ? text
    : numberOf(text, decimal ?? model.data.decimal ?? "."));
  return Object.fromEntries(source.sheet.header.map((name, place) => [name, cells[place]]).filter(([name]) => columns.has(name))
    .map(([name, text]) => [name, value(text, columns.get(name))]));
}

/** Whether the items that are scored can be explained one by one. A file whose records cannot be read here is only explained as a whole. */
export const isOpen = source => source.sheet !== null;

/**
 * Request explanations of some scores (indices) and keep them in `scores`. For a file that cannot be read here, those of the most anomalous items are
 * requested, as far as the last one of the list. `full: false` keeps only the main reasons.
 */
export async function explain(model, source, scores, list, fields, signal, full = true) {
  const wanted = list.filter(i => !(full ? scores.explanations : scores.reasons).has(i));
  if (!wanted.length) return;
  const keep = (i, explanation) => {
    if (!explanation) return;
    if (full) scores.explanations.set(i, explanation);
    scores.reasons.set(i, mainReasons(explanation));
  };
  const places = wanted.map(i => scores.numbers.place[i] - 1), condition = { class: fields.class, condition: fields.condition };
  if (!isOpen(source)) {
    const budget = Math.max(...wanted.map(i => scores.rank[i])) + 1;
    const response = await send(pathOf(model, { budget, explain: true }), { body: source.body, type: source.type, accept: NDJSON, signal });
    await eachEntry(response, (entry, place) => { if (entry.explanation) keep(scores.find(place), entry.explanation); });
    return;
  }
  const atOnce = source.items ? AT_ONCE : RECORDS;
  for (let from = 0; from < wanted.length; from += atOnce) {
    const part = places.slice(from, from + atOnce).map(place => sent(model, source, place));
    const answer = await postJson("anomaly-score", { ...common(model), ...condition, [nouns(model).many]: part, explain: true }, { signal });
    answer.items.forEach((entry, place) => keep(wanted[from + place], entry.explanation));
  }
}

/** Return {threshold, calibration} of a rule, by scoring one item: the threshold does not depend on it. */
export function thresholdOf(model, source, scores, fields, signal) {
  const columns = model.data.columns;
  const one = columns ? Object.fromEntries([columns.find(column => column.categories) ?? columns[0]].map(column => [column.name,
    column.categories?.[0] ?? column.mean])) : base64(source.items[scores.numbers.place[0] - 1].url);
  return postJson("anomaly-score", { ...common(model), ...fields, [nouns(model).many]: [one] }, { signal });
}
