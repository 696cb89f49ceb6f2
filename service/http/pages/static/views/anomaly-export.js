// Downloads of scored items: CSV with the columns of `manifold score`, or lines of JSON in the form of the service.
import { nouns } from "../lib/models.js";
import { line } from "../lib/csv.js";
import { toJson } from "../lib/numbers.js";
import { explain, isOpen } from "./anomaly-request.js";
import { digitsOf, isExpected } from "./anomaly-words.js";

export const EXPLAINED = 2000;  // flagged items whose reasons are requested for a file
const AT_ONCE = 500, BLOCK = 4000;
const breathe = () => new Promise(resolve => setTimeout(resolve));
const known = value => (Number.isNaN(value) ? null : value);

/** Request the reasons of the flagged items that have none. `hear(done, total)` is called after each request. */
export async function explainFlagged(model, source, scores, decision, fields, signal, hear) {
  const flagged = Array.from(scores.order).filter(i => decision.isAnomaly(i)).slice(0, EXPLAINED), missing = flagged.filter(i => !scores.reasons.has(i));
  const size = isOpen(source) ? AT_ONCE : missing.length || 1;
  for (let from = 0; from < missing.length; from += size) {
    hear(from, missing.length);
    await explain(model, source, scores, missing.slice(from, from + size), fields, signal, false);
  }
}

/** Return a name for a column that the file does not have yet. */
const unused = (name, header) => (header.includes(name) ? unused(`scored.${name}`, header) : name);

const plain = value => (value === null || value === undefined ? null : typeof value === "number" ? Number(value.toPrecision(15)) : String(value));
/** The expected value of a reason, with few digits unless it is a whole number or near to the value. */
const expectedOf = reason => (isExpected(reason) ? plain(reason.value) : typeof reason.expected !== "number" || Number.isInteger(reason.expected)
  ? plain(reason.expected) : String(Number(reason.expected.toPrecision(digitsOf(reason, [reason.expected])))));
const words = reason => {
  const { column, value, expected, share } = reason, said = value === null ? `${column} is missing` : `${column} = ${plain(value)}`;
  const told = isExpected(reason) ? ", unusual although it is the expected value" : expected === null || expected === undefined ? "" : `, expected ${expectedOf(reason)}`;
  return `${said}${told} (${Math.round(100 * share)}%)`;
};

/** Return the scored items as CSV (Blob): the columns of the file, then those of `manifold score`. Items without a score have the reason in `warnings`. */
export async function csvOf(model, source, scores, decision) {
  const { header = [] } = source.sheet ?? {}, { numbers } = scores, carried = [...scores.carried.values()];
  const own = source.items ? ["file"] : header, ids = carried.some(each => each.id !== undefined),
    passed = [...new Set(carried.flatMap(each => Object.keys(each.passed ?? {})))];
  const explained = scores.reasons.size > 0 && !source.items, reasons = explained ? ["reason", "reason_value", "reason_expected", "reason_share", "other_reasons"] : [];
  const names = [own.length && source.items ? "item" : nouns(model).one, ...(ids ? ["id"] : []), ...passed.map(name => `passed.${name}`), "score", "p_value",
    "is_anomaly", "band", "risk", "state", ...reasons, "warnings", ...scores.parts.flatMap(name => [`part.${name}`, `part.${name}.p_value`])];
  const blocks = [], errors = new Map(scores.errors.map(each => [each.place, each.error])),
    last = Math.max(scores.n ? numbers.place[scores.n - 1] : 0, ...scores.errors.slice(-1).map(each => each.place));
  let text = line([...own, ...names.map(name => unused(name, own))]), i = 0;
  const why = found => { const [first, ...rest] = found ?? []; return first ? [first.column, plain(first.value), expectedOf(first),
    Number(first.share.toFixed(4)), rest.length ? rest.map(words).join(" | ") : null] : [null, null, null, null, null]; };
  for (let place = 1; place <= last; place++) {
    const cells = source.items ? [source.items[place - 1].name] : source.sheet ? source.sheet.cells(place - 1) : [];
    const left = own.map((_, at) => cells[at] ?? null);
    if (i < scores.n && numbers.place[i] === place) {
      const copied = scores.carried.get(i) ?? {};
      text += line([
        ...left, place, ...(ids ? [copied.id] : []), ...passed.map(name => copied.passed?.[name]), numbers.score[i], known(numbers.p[i]), decision.isAnomaly(i),
          decision.band(i), known(numbers.risk[i]), scores.states[i],
        ...(explained ? why(decision.isAnomaly(i) ? scores.reasons.get(i) : null) : []), scores.warnings.get(i)?.join(" | "),
          ...scores.partsOf(i).flatMap(part => [part.value, known(part.p)]),
      ]);
      i++;
    } else if (errors.has(place)) text += line([...left, place, ...names.slice(1).map(name => (name === "warnings" ? errors.get(place) : null))]);
    if (place % BLOCK === 0) { blocks.push(text); text = ""; await breathe(); }
  }
  return new Blob([...blocks, text], { type: "text/csv" });
}

/** Return the scored items as lines of JSON (Blob), in the form in which the service answers. */
export async function linesOf(model, source, scores, decision) {
  const { numbers } = scores, blocks = [], errors = [...scores.errors];
  let text = "";
  const failed = before => { while (errors.length && errors[0].place < before) { const { place,
    error } = errors.shift(); text += `${toJson({ row: place, error })}\n`; } };
  for (let i = 0; i < scores.n; i++) {
    const place = numbers.place[i], number = value => known(value), parts = scores.partsOf(i).map(({ name, value, p }) => [name, { value, p_value: known(p) }]);
    failed(place);
    text += `${toJson({
      ...(source.items ? { item: place, file: source.items[place - 1].name } : { row: place }), ...scores.carried.get(i), score: numbers.score[i],
        p_value: number(numbers.p[i]), is_anomaly: decision.isAnomaly(i), band: decision.band(i),
      risk: number(numbers.risk[i]), state: scores.states[i], parts: Object.fromEntries(parts), warnings: scores.warnings.get(i) ?? [], ...(scores.explanations.has(i)
        ? { explanation: scores.explanations.get(i) } : scores.reasons.has(i) ? { reasons: scores.reasons.get(i) } : {}),
    })}\n`;
    if (i % BLOCK === BLOCK - 1) { blocks.push(text); text = ""; await breathe(); }
  }
  failed(Infinity);
  return new Blob([...blocks, text], { type: "application/x-ndjson" });
}
