// The models of the service: their list, their descriptions, and what each can do. No kind of data is known by name here.
import { useEffect, useState } from "./preact.js";
import { getJson, hasKey, onFailed, send } from "./api.js";

const POLL = 700;  // ms between two requests for the list while models load

let state = { models: null, error: null }, timer = null, asking = null;
const heard = new Set();
const details = new Map();

function set(changes) {
  state = { ...state, ...changes };
  heard.forEach(hear => hear(state));
}

/** Request the list of models. It is requested again while models load. */
export function refresh() {
  clearTimeout(timer);
  asking ??= getJson("models")
    .then(({ models }) => {
      set({ models, error: null });
      if (models.some(model => model.state === "loading")) timer = setTimeout(refresh, POLL);
    }, error => {
      set({ error });
      if (state.models?.some(model => model.state === "loading")) timer = setTimeout(refresh, 5 * POLL);
    })
    .finally(() => { asking = null; });
  return asking;
}

// states change while the page is open: models are unloaded, or loaded again
onFailed(error => { if (!asking && [404, 409, 503].includes(error.status) && state.models) later(); });
document.addEventListener("visibilitychange", () => { if (!document.hidden && state.models) later(); });

/** Request the list shortly, once for several reasons. */
function later() {
  clearTimeout(timer);
  timer = setTimeout(refresh, POLL);
}

/** Return {models, error} of the list. `models` is null before the first response; an error keeps the last list. */
export function useModels() {
  const [value, hear] = useState(state);
  useEffect(() => { heard.add(hear); hear(state); return () => heard.delete(hear); }, []);
  return value;
}

/** Return the public manifest of a model: latent, codes, scoring, classification, metrics, tasks. It is requested once. */
export function describe(model) {
  const id = `${model.name}/${model.version}`;
  if (!details.has(id)) {
    const asked = getJson(`models/${encodeURIComponent(model.name)}?version=${model.version}`);
    asked.catch(() => details.delete(id));
    details.set(id, asked);
  }
  return details.get(id);
}

/** Return the path of one of an artifact's files for the page (preview, points, curves, sheet, epochs); null if it has none. */
export function fileOf(model, name) {
  const sum = model.files?.[name];
  if (!sum && name !== "preview") return null;
  return `models/${encodeURIComponent(model.name)}/${name === "preview" ? "preview.png" : name}?version=${model.version}${sum ? `&checksum=${sum}` : ""}`;
}

const pictures = new Map();

/** Return an address at which an <img> finds a picture of the service: with an API key, which an <img> cannot send, that of a copy in this tab. */
export function usePicture(path) {
  const [src, set] = useState(hasKey() ? null : path);
  useEffect(() => {
    let current = true;
    if (!path || !hasKey()) {
      set(path);
      return undefined;
    }
    if (!pictures.has(path)) {
      const asked = send(path, { accept: "*/*" }).then(response => response.blob()).then(blob => URL.createObjectURL(blob));
      asked.catch(() => pictures.delete(path));
      pictures.set(path, asked);
    }
    pictures.get(path).then(url => current && set(url), () => current && set(null));  // a card without its picture can still be used
    return () => { current = false; };
  }, [path, hasKey()]);
  return src;
}

/** Return the listed model with this name and version; without a version, the highest one, as the service chooses. undefined if the list has none. */
export const listed = (models, { name, version }) => models
  .filter(model => model.name === name && (version === undefined || model.version === Number(version)))
  .sort((a, b) => b.version - a.version)[0];

/** Return the highest version of each model. */
export const newest = models => models.filter(model => listed(models, { name: model.name }) === model);

/** Whether the model answers requests: an idle model loads at its first request. */
export const answers = model => model.state === "ready" || model.state === "idle";

/** Whether the page can use an endpoint of the model, such as "sample": the page gives no codes, so a model that only decodes given codes cannot sample here. */
export const supports = (model, endpoint) => model.endpoints.includes(endpoint) && (endpoint !== "sample" || makesItems(model));

/** Whether the model makes new items without given codes. */
const makesItems = model => model.tasks.includes("sample") || model.tasks.includes("decode");

/** Whether the model only serves to evaluate others: it makes and edits nothing. */
export const isEvaluator = model => model.endpoints.length > 0 && model.endpoints.every(name => name === "classify");

/** The media type of a picture of the items; undefined if the items are not pictures. */
export const pictureType = data => data?.media_types?.find(type => type.startsWith("image/"));

/** Whether the items of a model are pictures. */
export const makesPictures = model => pictureType(model.data) !== undefined;

/** The numeric inputs of a task, such as steps: [{name, default, minimum, maximum, choices}]. */
export const inputsOf = (model, task) => (model.inputs ?? []).filter(input => input.task === task);

/** The task that generates new items: inputs of /sample are those of this task. */
export const samplingTask = model => (model.tasks.includes("sample") ? "sample" : "decode");

/** Whether "none" is a class: items without a class. */
export const hasNoClass = model => Object.values(model.conditioned ?? {}).some(condition => condition.optional);

/** The words for "one" and "several" items of a model, from the name of their field, such as "image" and "images". */
export const nouns = model => ({ many: model.data?.field ?? "items", one: (model.data?.field ?? "items").replace(/s$/, "") });
