// The settings of the view "Sample": their parameters in the address, and the request that they mean.
import { classesOf, conditionFields, conditionsIn } from "../lib/conditions.js";
import { inputsOf, makesPictures, nouns, samplingTask } from "../lib/models.js";
import { MAX_SEED, readSeed } from "../lib/numbers.js";
import { inputParam, readGiven, readWeights } from "../lib/recipes.js";

export const SEED = "7", MOST = 1000, RANDOM = "random", MIXTURE = "a mixture";
const DIRECT = ["steps", "guidance"];  // inputs that are fields of a request too

/** Return how many items are shown first: fewer of those that are large. */
export function usualCount({ data }) {
  return makesPictures({ data }) && data.width * data.height * data.channels > 1024 ? 16 : 24;
}

/** Return the numeric inputs of new items, each with its parameter in the address. */
export const numbersOf = model => inputsOf(model, samplingTask(model)).map(input => ({ ...input, param: inputParam(input.name) }));

/**
 * Return what the address says: {seed, first, n, chosen, weights, temperature, numbers, conditions, given, fields, problems}. `fields` are those of the
 * request. `problems` are {message, advice, fix}, with the parameters that correct them: there is no request while there is one.
 */
export function settingsOf(model, params) {
  const { many } = nouns(model), problems = [], given = params.given ? readGiven(params.given) : {};
  const problem = (message, advice, fix) => problems.push({ message, advice, fix });
  const seed = readSeed(params.seed ?? SEED), first = readSeed(params.first ?? "0"), n = Number(params.n ?? usualCount(model));
  if (seed === null) problem(`The seed “${params.seed}” is not a whole number from 0 to ${MAX_SEED}.`, "Enter another seed.", { seed: null });
  if (first === null) problem(`The index of the first item, “${params.first}”, is not a whole number from 0 to ${MAX_SEED}.`, "Start at index 0.", { first: null });
  if (!(Number.isInteger(n) && n >= 1 && n <= MOST)) problem(`The number of ${many}, “${params.n}”, is not a whole number from 1 to ${MOST}.`, "Enter another number.", { n: null });
  const { chosen, weights } = classOf(model, params, problem), temperature = temperatureOf(model, params, problem), numbers = numbersIn(model, params, problem);
  const conditions = conditionsIn(model, params);
  if (given === null) problem("The address has latents or other values that are stored in another tab.", "Open the PNG again from which they came, or sample without them.", { given: null, made: null });
  const fields = {
    model: model.name, version: model.version, n, seed, first: first === 0n ? undefined : first,
      ...conditionFields(model, weights ?? (chosen === RANDOM ? null : chosen), complete(conditions)),
    prior: params.prior, temperature: temperature === 1 ? undefined : temperature, ...numberFields(numbers), ...given,
  };
  if (given?.class) for (const name of ["conditions", "condition"]) if (!given[name]) delete fields[name];
  return { seed, first, n, chosen, weights, temperature, numbers, conditions, given: given ?? {}, fields, problems };
}

function classOf(model, params, problem) {
  const classes = classesOf(model), fix = { class: null, weights: null };
  if (!classes) {
    if (params.class || params.weights) problem(`${model.name} has no classes, but the address has one.`, "Sample without a class.", fix);
    return { chosen: RANDOM, weights: null };
  }
  if (params.weights === undefined) {
    const chosen = params.class ?? RANDOM;
    if (chosen !== RANDOM && !classes.includes(chosen)) problem(`${model.name} has no class “${chosen}”. It has ${classes.join(", ")}.`, "Choose one of them.", fix);
    return { chosen, weights: null };
  }
  const weights = readWeights(params.weights), unknown = Object.keys(weights ?? {}).find(name => !classes.includes(name));
  if (!weights) problem("The weights of the classes cannot be read, or all are 0.", "Move a slider, or choose one class.", fix);
  else if (unknown !== undefined) problem(`${model.name} has no class “${unknown}”. It has ${classes.join(", ")}.`, "Choose other classes.", fix);
  return { chosen: MIXTURE, weights: weights ?? {} };
}

function temperatureOf(model, params, problem) {
  const value = Number(params.temperature ?? 1);
  if (params.temperature !== undefined && !model.temperature) problem(`${model.name} takes no temperature, but the address has one.`, "Sample without it.", { temperature: null });
  else if (!(value >= 0.01 && value <= 100)) problem(`The temperature “${params.temperature}” is not a number from 0.01 to 100.`, "Use the default, 1.", { temperature: null });
  return value;
}

/** Return the values of the numeric inputs: [{...input, value}]. Those without a value have the default. */
function numbersIn(model, params, problem) {
  return numbersOf(model).map(input => {
    const text = params[input.param], value = text === undefined ? input.default : Number(text), { minimum: low, maximum: high, choices, kind } = input;
    const outside = (low !== null && low !== undefined && value < low) || (high !== null && high !== undefined && value > high) || (kind === "integer"
      && !Number.isInteger(value));
    if (text !== undefined && (!Number.isFinite(value) || outside || (choices && !choices.includes(value)))) {
      const valid = choices ? `one of ${choices.join(", ")}` : `a ${kind === "integer" ? "whole " : ""}number${low === null || low === undefined ? "" : ` from ${low}`}${high === null || high === undefined ? "" : ` to ${high}`}`;
      problem(`${input.name}: “${text}” is not ${valid}.`, "Choose another value.", { [input.param]: null });
    }
    return { ...input, value };
  });
}

/** Return the fields of a request for numeric inputs that differ from their defaults. */
export function numberFields(numbers) {
  const stated = numbers.filter(({ value, default: usual }) => value !== usual && value !== null && value !== undefined),
    others = stated.filter(({ name }) => !DIRECT.includes(name));
  return {
    ...Object.fromEntries(stated.filter(({ name }) => DIRECT.includes(name)).map(({ name, value }) => [name, value])),
    ...(others.length && { inputs: Object.fromEntries(others.map(({ name, value }) => [name, value])) }),
  };
}

/** Return conditions without lists of numbers that are incomplete. */
const complete = conditions => Object.fromEntries(Object.entries(conditions).filter(([, value]) => !Array.isArray(value) || value.every(each => each !== "" && Number.isFinite(Number(each)))));

const PER_ITEM = ["latents", "codes", "class"];

/** Return the fields of the request that makes one item of another request, the item at `place`, counted from 0. */
export function fieldsOfOne(fields, place) {
  const one = { ...fields, n: 1 }, cut = value => (Array.isArray(value) ? [value[place]] : value), start = BigInt(fields.first ?? 0) + BigInt(place);
  one.first = start === 0n ? undefined : start;
  for (const name of PER_ITEM) if (Array.isArray(fields[name])) one[name] = cut(fields[name]);
  for (const name of ["named_latents", "inputs"]) if (fields[name]) one[name] = Object.fromEntries(Object.entries(fields[name]).map(([key, value]) => [key, cut(value)]));
  if (Array.isArray(fields.condition?.[0])) one.condition = cut(fields.condition);
  if (fields.conditions) {
    const part = condition => Object.fromEntries(Object.entries(condition).map(([form, value]) => [form, Array.isArray(value) && value.length === fields.n
      && (form !== "values" || Array.isArray(value[0])) ? [value[place]] : value]));
    one.conditions = Object.fromEntries(Object.entries(fields.conditions).map(([key, condition]) => [key, part(condition)]));
  }
  return one;
}

/** Whether the items depend on their seed, index and class only, so that other views can make them from these. */
export const isPlain = ({ temperature, numbers, weights, given, fields, conditions }) => temperature === 1 && !weights && !fields.prior && !Object.keys(given).length
  && !Object.keys(conditions).length && numbers.every(({ value, default: usual }) => value === usual);
