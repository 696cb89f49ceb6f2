// Items that a user chooses: examples, drawings, files, generated items, or records; and their form in the address.
import { useRef, useState } from "./preact.js";
import { useParam } from "./address.js";
import { ServiceError, postJson, send } from "./api.js";
import { classesOf, conditionFields } from "./conditions.js";
import { outputsOf } from "./made.js";
import { answers, fileOf, makesPictures, nouns, pictureType, supports, useModels } from "./models.js";
import { fromJson, newId, readSeed, toJson } from "./numbers.js";
import { readRecords } from "./records.js";
import { base64, dataUrl, loadPicture } from "./files.js";
import { useLoaded } from "./tasks.js";
import { splitGrid } from "./pictures.js";

const EXAMPLES = 24, PREFIX = "item:";

/**
 * Return what the text of an item in the address means: {from: "test", index}, {from: "own", id} or {from: "seed", seed, index}, with `chosen`, its
 * class if the text has one. The forms are test:N, own:ID and SEED:INDEX, each with :CLASS after it. null for another text.
 */
export function parseItem(text) {
  const found = String(text ?? "").match(/^(test|own|\d{1,19}):([\w-]{1,40})(?::(.+))?$/);
  if (!found) return null;
  const [, from, which, chosen = null] = found, index = /^\d{1,9}$/.test(which) ? Number(which) : null, seed = readSeed(from);
  if (from === "own") return { from, id: which, chosen };
  if (index === null || (from !== "test" && seed === null)) return null;
  return from === "test" ? { from, index, chosen } : { from: "seed", seed, index, chosen };
}

/** Return the text of an item in the address. */
export const writeItem = ({ from, index, id, seed, chosen }) => [from === "seed" ? `${seed}:${index}` : `${from}:${from === "own" ? id : index}`,
  ...(chosen === null || chosen === undefined ? [] : [chosen])].join(":");

/** Return the model whose sheet has test items for this model: itself, or another one of the same data; null if there is none. */
function sheetModel(model, models) {
  const form = ({ dataset, data }) => [dataset, data?.width, data?.height, data?.channels, data?.columns?.map(column => column.name)].join();
  const fits = each => fileOf(each, "sheet") && supports(each, "reconstruct");
  if (fits(model)) return model;
  return (models ?? []).find(each => each.dataset && fits(each) && form(each) === form(model)) ?? null;
}

const sheets = new Map();

/** Return the examples of a model, {items: [{content, src, name}], what}: test items from a sheet, or samples, or the items of the preview. */
export function examplesOf(model, models) {
  const source = sheetModel(model, models), id = `${model.name}/${model.version}/${source ? fileOf(source, "sheet") : ""}`;
  if (!sheets.has(id)) {
    const loading = loadExamples(model, source);
    loading.catch(() => sheets.delete(id));
    sheets.set(id, loading);
  }
  return sheets.get(id);
}

async function loadExamples(model, source) {  // without a signal: several components wait for it
  const named = (list, name) => list.slice(0, EXAMPLES).map((each, i) => ({ ...each, name: `${name} ${i + 1}`, exact: true }));
  const pictures = async (path, step) => (await splitGrid(await (await send(path)).blob(), model.data, step)).map(src => ({ src, content: base64(src) }));
  if (source && makesPictures(model)) return { what: "test items", items: named(await pictures(fileOf(source, "sheet"), 2), "Test item") };
  if (source) {
    const records = readRecords(await (await send(fileOf(source, "sheet"))).text(), model.data.columns);
    return { what: "test items", items: named(records.filter((_, i) => i % 2 === 0).map(content => ({ content })), "Test item") };
  }
  if (supports(model, "sample")) return { what: "samples of the model",
    items: (await generate(model, { seed: 0n, n: EXAMPLES })).map((item, i) => ({ ...item, name: `Example ${i + 1}` })) };
  return { what: "items from the preview of the model", items: named(await pictures(fileOf(model, "preview"), 1), "Example") };
}

/** Generate items: [{content, src, name, chosen}] with `chosen`, the class. */
export async function generate(model, { seed, first = 0, n = 1, chosen }, signal) {
  const made = await postJson("sample", { model: model.name, version: model.version, seed, first, n, ...conditionFields(model, chosen) }, { signal });
  const [{ picture, items }] = outputsOf(model, made);
  return items.map((item, i) => ({
    content: picture ? base64(item) : item, src: picture ? item : undefined, exact: true, name: `Seed ${seed}, index ${first + i}`,
    chosen: typeof made.classes?.[i] === "string" ? made.classes[i] : null,
  }));
}

const LARGEST_KEPT = 2_000_000;  // characters; browsers keep about five million for a page

// drawings, files and records of the user: in memory, and in the storage of this tab if they are small enough
const owned = new Map();

/** Keep an item of the user under an id. Return whether it survives a reload of the page. */
export function keepOwn(id, item) {
  owned.set(id, item);
  const text = toJson(item);
  if (text.length > LARGEST_KEPT) return false;  // others would be removed in vain
  const olds = () => Object.keys(sessionStorage).filter(name => name.startsWith(PREFIX) && name !== PREFIX + id);
  for (;;) {
    try {
      sessionStorage.setItem(PREFIX + id, text);
      return true;
    } catch (error) {
      if (error.name !== "QuotaExceededError") throw error;
      const [old] = olds();
      if (!old) return false;
      sessionStorage.removeItem(old);
    }
  }
}

function readOwn(id) {
  const text = owned.has(id) ? null : sessionStorage.getItem(PREFIX + id);
  if (text) owned.set(id, fromJson(text));
  return owned.get(id);
}

const wrong = (message, advice) => new ServiceError({ type: "item", message, advice });

/** Return the item that a text of the address means. Throws ServiceError with a next step. */
async function resolve(model, models, spec, text, signal) {
  if (!spec) throw wrong(`The address has an item “${text}”, which is not the form of an item.`, "Choose an item. In the address, an item is test:NUMBER, or SEED:INDEX.");
  if (spec.chosen !== null && !classesOf(model)?.includes(spec.chosen)) throw wrong(`The address has the class “${spec.chosen}”, which ${model.name} does not have.`,
    "Choose another item or another class.");
  if (spec.from === "own") {
    const item = readOwn(spec.id);
    if (!item) throw wrong("The item of this address was drawn or opened in another tab, and is not stored.",
      "Draw it again, open the file again, or choose an example.");
    return item;
  }
  if (spec.from === "seed") {
    if (!supports(model, "sample")) throw wrong(`${model.name} does not generate ${nouns(model).many}.`, "Choose an example, draw, or open a file.");
    return (await generate(model, { seed: spec.seed, first: spec.index, chosen: spec.chosen ?? undefined }, signal))[0];
  }
  const { items } = await examplesOf(model, models, signal);
  if (!items[spec.index]) throw wrong(`There is no example ${spec.index}: the model has ${items.length}, counted from 0.`, "Choose one of the examples.");
  return items[spec.index];
}

/**
 * Return an item that is the parameter `name` of the address: {item, spec, task, choose, setOwn, setClass, text}. `item` is {content, src, name,
 * exact, chosen, file, all}, undefined while it loads. choose(text) takes another one; setOwn(item, isNew) takes a drawing, a file or records, and
 * keeps the address unless `isNew`. `all` are the records of which `content` is number `place`.
 */
export function useItem(model, name, fallback) {
  const [text, setText] = useParam(name, fallback), { models } = useModels(), spec = parseItem(text), [own, show] = useState(null);
  const base = spec ? writeItem({ ...spec, chosen: spec.from === "seed" ? spec.chosen : null }) : text;
  const [found, task] = useLoaded(signal => resolve(model, models, spec, text, signal),
    [model.name, model.version, base, spec?.chosen && !classesOf(model)?.includes(spec.chosen)]);
  const now = useRef();
  now.current = spec;
  const item = spec?.from === "own" && own?.id === spec.id ? own.item : found;
  const choose = (next, push = true) => setText(next, { push });
  const setOwn = (next, isNew) => {
    const mine = now.current?.from === "own" && !isNew, id = mine ? now.current.id : newId();
    const kept = keepOwn(id, next);
    show({ id, item: { ...next, kept } });
    if (!mine) { now.current = { from: "own", id, chosen: null }; setText(`own:${id}`, { push: true }); }
  };
  const setClass = (chosen, push = false) => spec && setText(writeItem({ ...spec, chosen }), { push });
  return { item, spec, text, task, choose, setOwn, setClass };
}

/** Return an item from a file with a picture. */
export async function fromFile(file) {
  const url = await dataUrl(file);
  await loadPicture(url, { message: `The file ${file.name} is not a picture, or it is damaged.`, advice: "Choose a PNG, JPEG or WebP file." });
  return { content: base64(url), src: url, name: file.name, file: true };
}

/** Return [value, task] like useLoaded, but keep the last value while a new one is computed. `kept` says that the value is such a last one. */
export function useKept(work, deps) {
  const [value, task] = useLoaded(work, deps), last = useRef();
  if (value !== undefined) last.current = value;
  return [task.error ? undefined : value ?? last.current, task, value === undefined];
}

/**
 * Return the picture of a file about as the model sees it, as a data URL of the model's size: the steps that the service states, done by the browser.
 * Pictures that have the model's size are returned unchanged.
 */
export async function asSeen(src, data, fitted) {
  if (!fitted?.steps.length) return src;
  const picture = await loadPicture(src), { width, height, background } = data;
  const canvas = Object.assign(document.createElement("canvas"), { width, height }), context = canvas.getContext("2d", { willReadFrequently: true });
  const inverted = fitted.steps.some(step => step.startsWith("inverted")), opposite = fitted.steps.some(step => step.includes("opposite of the background"));
  const level = Math.round(255 * (inverted || opposite ? 1 - (background ?? 0) : background ?? 0)), scale = Math.min(width / picture.width, height / picture.height);
  context.fillStyle = `rgb(${level} ${level} ${level})`;
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(picture, (width - picture.width * scale) / 2, (height - picture.height * scale) / 2, picture.width * scale, picture.height * scale);
  const image = context.getImageData(0, 0, width, height), { data: pixels } = image;
  for (let i = 0; i < pixels.length; i += 4) {
    const grey = 0.299 * pixels[i] + 0.587 * pixels[i + 1] + 0.114 * pixels[i + 2];
    for (let c = 0; c < 3; c++) {
      const value = data.channels < 3 ? grey : pixels[i + c];
      pixels[i + c] = inverted ? 255 - value : value;
    }
  }
  context.putImageData(image, 0, 0);
  return canvas.toDataURL();
}

/** Return what the service did to fit a file to the model, as sentences; null if nothing. */
export function fittedNotes(fitted, item) {
  if (!fitted) return null;
  const steps = item?.file ? fitted.steps : [];
  const notes = [...(steps.length
    ? [`The file has ${fitted.width} × ${fitted.height} pixels (${fitted.mode}). The service changed it for the model: ${steps.join("; ")}.`] : []),
      ...(fitted.warnings ?? []).map(text => `Warning: ${text}.`)];
  return notes.length ? notes : null;
}

/** Return the item that a view shows first: an example, or a generated item. */
export function firstItem(model, models, place = 0) {
  const examples = sheetModel(model, models) || !supports(model, "sample");
  return examples ? `test:${place}` : `${place + 1}:0`;
}

/** The models that answer and read items of this one's form: for links to a view that can do more. */
export const otherModels = (model, models, endpoint) => (models ?? []).filter(each => each.name !== model.name && answers(each) && supports(each, endpoint)
  && pictureType(each.data) === pictureType(model.data) && each.data.width === model.data.width && each.data.channels === model.data.channels);
