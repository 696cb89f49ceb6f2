// Recipes: the model and the settings that made a picture, which its PNG contains, and the address of the page that makes the picture again.
import { go, href } from "./address.js";
import { ServiceError, getJson } from "./api.js";
import { fromJson, readSeed, newId } from "./numbers.js";
import { PngError, readText } from "./png.js";

const KEYWORD = "manifold", STORE = "given:";

const wrong = (message, advice) => new ServiceError({ type: "recipe", message, advice });
const damaged = (name, value) => wrong(`The recipe of this file is damaged: its ${name} is ${String(JSON.stringify(value, (_, each) => (typeof each === "bigint" ? String(each) : each))).slice(0, 80)}.`, "Use the original PNG.");

// parameters of the view; a numeric input of a model with one of these names is called input.NAME in the address
const RESERVED = ["model", "version", "view", "seed", "n", "first", "class", "weights", "prior", "temperature", "given", "made", "open", "lesson"];

/** Return the parameter of the address for a numeric input of a model. */
export const inputParam = name => (RESERVED.includes(name) || name.includes(".") ? `input.${name}` : name);

/** Return weights by class as the text of a parameter, such as "3:1,8:0.5". */
export const writeWeights = weights => Object.entries(weights).map(([name, weight]) => `${encodeURIComponent(name)}:${weight}`).join(",");

/** Return the weights by class of a text; null if it has none, or one that is not a number from 0. */
export function readWeights(text) {
  const found = {};
  for (const part of text.split(",")) {
    const [, name, weight] = part.match(/^(.+):([\d.eE+-]+)$/) ?? [];
    if (name === undefined || !(Number(weight) >= 0)) return null;
    try { found[decodeURIComponent(name)] = Number(weight); } catch { return null; }
  }
  return Object.values(found).some(weight => weight > 0) ? found : null;
}

/** Return the recipe in a file. Throws ServiceError with a next step for a file without one. */
export async function readRecipe(file) {
  let text;
  try {
    text = await readText(new Uint8Array(await file.arrayBuffer()), KEYWORD);
  } catch (error) {
    if (!(error instanceof PngError)) throw wrong(`The file ${file.name} cannot be read.`, "Choose it again.");
    if (error.damaged) throw wrong(`The file ${file.name} is damaged: ${error.message}.`, "Download or copy the original PNG again.");
    throw wrong(`The file ${file.name} is not a PNG. Only PNG files contain the recipe of a picture.`, "Choose a PNG that was downloaded from this service.");
  }
  if (text === null) throw wrong(`The file ${file.name} contains no recipe. Sampled pictures have one. Reconstructed, edited and filled-in pictures, screenshots, and files that another program saved again have none.`, "Choose the original PNG of a sampled picture.");
  return readRecipeText(text);
}

/** Return the recipe of a JSON text. Throws ServiceError if it is damaged. */
export function readRecipeText(text) {
  let recipe;
  try { recipe = fromJson(text); } catch { throw wrong("The recipe of this file is damaged: it is not JSON.", "Use the original PNG."); }
  if (typeof recipe !== "object" || recipe === null || Array.isArray(recipe)) throw wrong("The recipe of this file is damaged: it is not a JSON object.", "Use the original PNG.");
  const whole = value => readSeed(value) !== null, list = Array.isArray, object = value => typeof value === "object" && value !== null;
  const checks = {
    model: value => typeof value === "string" && /^[\w.-]{1,128}$/.test(value), version: value => whole(value) && value >= 1, seed: whole, item: whole,
    checksum: value => /^[0-9a-f]{64}$/.test(value), temperature: value => typeof value === "number" && value > 0, n: value => whole(value) && value >= 1,
    prior: value => typeof value === "string", condition: list, conditions: object, inputs: object, latents: list, named_latents: object, codes: list,
    class: value => ["string", "number"].includes(typeof value) || object(value),
  };
  for (const [name, check] of Object.entries(checks)) {
    if ((name in recipe || ["model", "version", "checksum"].includes(name)) && !check(recipe[name])) throw damaged(name, recipe[name]);
  }
  if (("seed" in recipe) !== ("item" in recipe)) throw wrong("The recipe of this file is damaged: it has only one of seed and index.", "Use the original PNG.");
  return recipe;
}

const kept = new Map();

/** Keep values of a request that are too long for the address, such as latents. Return their id: they last as long as this tab. */
export function keepGiven(fields) {
  const id = newId();
  kept.set(id, fields);
  try { sessionStorage.setItem(STORE + id, JSON.stringify(fields)); } catch (error) { if (error.name !== "QuotaExceededError") throw error; }
  return id;
}

/** Return the values that were kept under an id; null if this tab has none. */
export function readGiven(id) {
  const text = kept.has(id) ? null : sessionStorage.getItem(STORE + id);
  if (text) kept.set(id, JSON.parse(text));
  return kept.get(id) ?? null;
}

let last = null;

/** Return {recipe, src} of the file that the current address was made from; null if it was not. */
export const restoredFrom = search => (last?.search === search ? last : null);

/** Read the recipe of a PNG file and go to the address that makes the picture again. Throws ServiceError with a next step if this is not possible. */
export async function openRecipe(file, { signal } = {}) {
  const recipe = await readRecipe(file), name = encodeURIComponent(recipe.model);
  const manifest = await getJson(`models/${name}`, { signal }).catch(error => {
    if (error.status !== 404) throw error;
    throw wrong(`The service has no model “${recipe.model}”, which made this picture.`, "Add the artifact of this model to the folder of models and restart the service, or open the picture in the service that made it.");
  });
  let { version } = manifest;
  if (version !== Number(recipe.version)) {
    const same = await getJson(`models/${name}?version=${recipe.version}`, { signal }).catch(error => { if (error.status !== 404) throw error; });
    if (same) version = same.version;
  }
  const params = addressOf(recipe, manifest);
  if (version !== manifest.version) params.version = version;
  if (last) URL.revokeObjectURL(last.src);
  last = { recipe, src: URL.createObjectURL(file), search: href(params) };
  go(params);
}

/** Return the parameters of the address for a recipe. `made` is the version and the start of the checksum of the artifact that made the picture. */
export function addressOf(recipe, manifest) {
  const { seed, item, n, temperature, prior } = recipe, { params, given } = settingsOf(recipe, manifest);
  return {
    model: recipe.model, view: "sample", seed, first: item === undefined || Number(item) === 0 ? undefined : item, n: n ?? 1, prior,
    temperature: temperature === 1 ? undefined : temperature, ...params,
    given: Object.keys(given).length ? keepGiven(given) : undefined, made: `${recipe.version}-${recipe.checksum.slice(0, 12)}`,
  };
}

/** Return the settings of a recipe as parameters of the address, and as fields of a request for those that differ between items or are long. */
function settingsOf(recipe, manifest) {
  const grid = "n" in recipe, params = {}, given = {}, each = name => (grid ? recipe[name] : [recipe[name]]);
  const byName = name => {
    const items = each(name);
    if (!Array.isArray(items) || !items.length || items.some(values => typeof values !== "object" || values === null)) throw damaged(name, recipe[name]);
    return Object.keys(items[0]).map(key => [key, items.map(values => values[key])]);
  };
  if ("class" in recipe) {
    const known = value => (typeof value === "number" ? manifest.classes?.[value] ?? String(value) : value), chosen = recipe.class;
    if (Array.isArray(chosen)) given.class = chosen.map(known);
    else if (typeof chosen === "object") params.weights = writeWeights(chosen);
    else if (chosen !== "random") params.class = known(chosen);
  }
  if ("inputs" in recipe) {
    for (const [name, values] of byName("inputs")) {
      if (values.every(value => value === values[0])) params[inputParam(name)] = values[0];
      else given.inputs = { ...given.inputs, [name]: values };
    }
  }
  if ("condition" in recipe) given.condition = recipe.condition;
  if ("conditions" in recipe) given.conditions = Object.fromEntries(byName("conditions").map(([name, values]) => [name, conditionOf(name, values)]));
  for (const name of ["latents", "codes"]) if (name in recipe) given[name] = each(name);
  if ("named_latents" in recipe) given.named_latents = Object.fromEntries(byName("named_latents"));
  return { params, given };
}

/** Return the condition of all items from the conditions of each. */
function conditionOf(name, values) {
  const [form] = Object.keys(values[0] ?? {});
  if (!form) throw wrong(`The recipe does not contain the condition “${name}”: recipes have no files.`, "Choose the same file on the page and sample again.");
  const all = values.map(value => (form === "texts" ? value[form]?.[0] : value[form]));
  return { [form]: form === "class" && all.every(each => each === all[0]) ? all[0] : all };
}
