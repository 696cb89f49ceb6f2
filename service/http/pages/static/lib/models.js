// The models of the service: their list, their descriptions, and what each can do. No kind of data is known by name here.
import { useEffect, useState } from "./preact.js";
import { getJson } from "./api.js";

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
    }, error => set({ error }))
    .finally(() => { asking = null; });
  return asking;
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

/** Whether the model answers requests: an idle model loads at its first request. */
export const answers = model => model.state === "ready" || model.state === "idle";

/** Whether the model supports an endpoint, such as "sample". */
export const supports = (model, endpoint) => model.endpoints.includes(endpoint);

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
