// Sources of items to score: files of records or pictures, pasted text, and examples of the model.
import { postJson, send } from "../lib/api.js";
import { decode, exactLine, readCsv } from "../lib/csv.js";
import { sample } from "../lib/made.js";
import { fileOf, nouns, pictureType, supports } from "../lib/models.js";
import { fromJson } from "../lib/numbers.js";
import { blobOf, dataUrl } from "../lib/files.js";
import { splitGrid } from "../lib/pictures.js";
import { capital } from "./anomaly-words.js";

export const PASTED = "pasted text";  // the name of a source without a file
const CSV = "text/csv", PARQUET = "application/vnd.apache.parquet";
const LISTED = 8, SEEN = 3;  // names and reasons in a message
const READABLE = 150_000_000;  // bytes of a file up to which its columns are read in the page

/** An input that cannot be used: what is wrong, and what to do. */
export class InputError extends Error {
  constructor(message, advice) {
    super(message);
    this.advice = advice;
  }
}

/** Return the error for a source of which no item could be scored. `errors` are those of its items. */
export function unscored(model, source, errors) {
  const { one, many } = nouns(model), all = errors.length === 1 ? `The only ${one}` : `None of the ${errors.length} ${many}`,
    seen = new Set(), different = errors.filter(({ error }) => !seen.has(error) && seen.add(error)).slice(0, SEEN),
    reasons = different.map(({ place, error }) => (source.items ? error : `${capital(one)} ${place}: ${error}`)).join(". ");
  return new InputError(`${all} of ${source.name} could ${errors.length === 1 ? "not " : ""}be scored. ${reasons}`,
    `Correct the ${many} and choose the file again.`);
}

/** The names of the columns of a model. */
export const columnsOf = model => model.data.columns.map(column => column.name);

/** Return a source from chosen files. Throws InputError. */
export async function fromFiles(model, files) {
  if (pictureType(model.data)) return fromPictures(files);
  const [file] = files, first = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const note = files.length > 1 ? `Only the first of ${files.length} files is scored: ${file.name}.` : null;
  if (!file.size) throw new InputError(`${file.name} is empty.`, "Choose a file with a header and at least one line of values.");
  if (String.fromCharCode(...first) === "PAR1") return { name: file.name, body: file, type: PARQUET, sheet: null, count: null, note };
  if (/\.parquet$/i.test(file.name)) throw new InputError(`${file.name} is not a Parquet file, although its name ends in .parquet.`,
    "Save the table again as Parquet or CSV, and choose that file.");
  if (file.size > READABLE) return { name: file.name, body: file, type: CSV, sheet: null, count: null, note };
  const text = decode(await file.arrayBuffer());
  if (/^\s*[[{]/.test(text)) return { ...fromRecords(model, text, file.name), note };
  return { ...ofTable(text, model, file.name, file), note };
}

/** Return a source from pasted text: CSV with a header, JSON, or lines of JSON. */
export function fromText(model, text, name = PASTED) {
  if (!text.trim()) throw new InputError("The text is empty.",
    `Paste a header and values, or JSON, with the columns ${columnsOf(model).slice(0, 6).join(", ")}${columnsOf(model).length > 6 ? ", …" : ""}.`);
  return /^\s*[[{]/.test(text) ? fromRecords(model, text, name) : ofTable(text, model, name);
}

function ofTable(text, model, name, file) {
  const table = readCsv(text, columnsOf(model));
  if (!table.count) throw new InputError(`${name} has no values below its header.`, "Add at least one line of values, separated like the header.");
  return { name, sheet: table, count: table.count, type: CSV, body: file ?? new Blob([text], { type: CSV }) };
}

/** Return a source from records in JSON: a list, an object with a list in the field of the items, one record, or a record in each line. */
function fromRecords(model, text, name) {
  let content;
  try { content = fromJson(text); } catch {
    try { content = text.split(/\r?\n/).filter(each => each.trim()).map(fromJson); } catch (error) {
      throw new InputError(`${name} is not valid JSON: ${error.message}`, "Correct the text, or use CSV with a header.");
    }
  }
  const list = Array.isArray(content) ? content : content[model.data.field] ?? [content], names = columnsOf(model);
  if (!list.length) throw new InputError(`${name} is an empty list.`, "Add at least one record.");
  const records = list.map(record => (Array.isArray(record) ? Object.fromEntries(record.map((value, i) => [names[i] ?? `column ${i + 1}`, value])) : record));
  const wrong = records.findIndex(record => record === null || typeof record !== "object" || Object.values(record).some(value => value !== null
    && typeof value === "object"));
  if (wrong >= 0) throw new InputError(`Record ${wrong + 1} of ${name} is not an object of texts and numbers by column.`, `Use objects such as {"${names[0]}": …}.`);
  const found = [...new Set(records.flatMap(Object.keys))];
  if (!found.some(each => names.includes(each))) throw new InputError(`${name} has none of the columns of the model; it has ${quoted(found)}.`,
    `Use the names of the columns that a file needs: ${quoted(names)}.`);
  return ofTable(asCsv(records, names), model, name);
}

const quoted = names => (names.length ? `${names.slice(0, LISTED).map(each => `“${each.slice(0, 40)}”`).join(", ")}${names.length > LISTED ? ", …" : ""}` : "no names");

/** Return records as CSV text with all columns of the model; the cells of absent ones are empty. */
function asCsv(records, names) {
  const header = [...new Set([...records.flatMap(Object.keys), ...names])];
  return [exactLine(header), ...records.map(record => exactLine(header.map(name => (typeof record[name] === "string" ? record[name] : record[name] === null
    || record[name] === undefined ? "" : String(record[name])))))].join("");
}

async function fromPictures(files) {
  const items = await Promise.all(files.map(async file => ({ name: file.name, url: await dataUrl(file) })));
  return ofItems(items, items.length === 1 ? items[0].name : `${items.length} files`);
}

const ofItems = (items, name) => ({ name, items, count: items.length, sheet: undefined, sizeOf: i => items[i].url.length });

/** Return examples of a model: its own test items, or samples, with some that were changed. */
export async function examplesOf(model, signal) {
  return pictureType(model.data) ? pictureExamples(model, signal) : tableExamples(model, signal);
}

async function pictureExamples(model, signal) {
  const path = fileOf(model, "sheet"), twins = supports(model, "reconstruct");
  let urls, name = twins ? "test item" : "sample";
  if (path) urls = (await splitGrid(await (await send(path, { accept: "*/*", signal })).blob(), model.data, twins ? 2 : 1)).slice(0, 24);
  else if (supports(model, "sample")) { urls = (await sample(model, { n: 16, seed: 1 }, signal)).pictures; name = "sample"; }
  else throw new InputError("This model has no examples.", "Choose files instead.");
  const items = urls.map((url, i) => ({ name: `${name} ${i + 1}`, url }));
  items.splice(3, 0, { name: "changed item", url: await changed(urls[0], model.data) });
  items.splice(9, 0, { name: "noise", url: noise(model.data) });
  return { ...ofItems(items, "examples"), made: true,
    note: `Two examples were changed: “changed item” is ${name} 1, inverted in part, and “noise” has random pixels. See whether the model finds them.` };
}

/** Return a picture of which a square is inverted. */
async function changed(url, { width, height }) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d");
  const picture = await createImageBitmap(blobOf(url));
  context.drawImage(picture, 0, 0);
  context.globalCompositeOperation = "difference";
  context.fillStyle = "#fff";
  context.fillRect(Math.round(width * 0.1), Math.round(height * 0.1), Math.round(width * 0.3), Math.round(height * 0.3));
  return canvas.toDataURL();
}

/** Return a picture of noise, always the same. */
function noise({ width, height, channels }) {
  let state = 1;
  const level = () => { state = (Math.imul(state, 1664525) + 1013904223) >>> 0; return state >>> 24; };
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d"), drawn = context.createImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    const values = [0, 1, 2].map(() => level());
    for (let c = 0; c < 3; c++) drawn.data[4 * i + c] = values[channels === 1 ? 0 : c];
    drawn.data[4 * i + 3] = 255;
  }
  context.putImageData(drawn, 0, 0);
  return canvas.toDataURL();
}

async function tableExamples(model, signal) {
  const path = fileOf(model, "sheet"), names = columnsOf(model);
  let records;
  if (path) {
    const table = readCsv(await (await send(path, { accept: "*/*", signal })).text(), names), step = supports(model, "reconstruct") ? 2 : 1;
    records = Array.from({ length: Math.ceil(table.count / step) }, (_, i) => Object.fromEntries(table.cells(i * step).map((value, at) => [table.header[at], value])));
  } else if (supports(model, "sample")) {
    records = (await postJson("sample", { model: model.name, version: model.version, n: 64, seed: 1 }, { signal }))[model.data.field];
  } else throw new InputError("This model has no examples.", "Choose a file, or paste values.");
  const numeric = model.data.columns.filter(column => column.maximum !== undefined && column.maximum > column.minimum),
    category = model.data.columns.find(column => column.categories?.length > 1);
  const edits = [[4, edit => { for (const column of numeric.slice(0, 2)) edit[column.name] = column.maximum; }], [11,
    edit => { for (const column of numeric.slice(-3)) edit[column.name] = column.maximum; }], [19, edit => { if (category) edit[category.name] = "new"; }]];
  const done = edits.filter(([at, change]) => { if (at < records.length) { records[at] = { ...records[at] }; change(records[at]); } return at < records.length; });
  const list = done.map(([at]) => at + 1).join(", ");
  return { ...ofTable(asCsv(records, names), model, "examples"), made: true, note: done.length
    ? `Some values of ${nouns(model).many} ${list} were changed, to the largest values of their columns or to an unknown category. See whether the model finds them.` : null };
}

/** The request of the examples as JSON, for a text box: the first records of the model's columns. */
export const templateOf = model => `${columnsOf(model).join(",")}\n`;

