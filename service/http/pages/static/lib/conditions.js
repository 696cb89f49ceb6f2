// Conditions of a model: which of its graphs take them, the fields of a request that state them, and a form for those that are not a class.
import { html } from "./preact.js";
import { change, useAddress, useParam } from "./address.js";
import { getJson, postJson } from "./api.js";
import { answers, hasNoClass, isEvaluator, nouns, pictureType, supports } from "./models.js";
import { Drop, Field, NumberInput, Select } from "./ui.js";
import { dataUrl } from "./files.js";
import { keepGiven, readGiven } from "./recipes.js";

export const NO_CLASS = "none";

const asked = new Map();

/** Return what a task of a model takes: a set of sources of its inputs, such as "condition", "temperature" and "uniform". It is empty if the model has no such task. */
export function takes(model, task) {
  if (!model.tasks.includes(task)) return Promise.resolve(new Set());
  const id = `${encodeURIComponent(`${model.name}.${task}`)}/versions/${model.version}`;
  if (!asked.has(id)) {
    const inputs = getJson(`v2/models/${id}`).then(found => new Set(found.inputs.map(input => input.parameters?.source)));
    inputs.catch(() => asked.delete(id));
    asked.set(id, inputs);
  }
  return asked.get(id);
}

/** Return the classes that a request may state, with "none" if items may have no class; null if the model has no classes. */
export const classesOf = model => (model.classes ? [...model.classes, ...(hasNoClass(model) ? [NO_CLASS] : [])] : null);

/** Return the name of the condition that is the class of an item; undefined if the model states no classes, as models with several conditions. */
const className = model => (model.classes ? Object.entries(model.conditioned ?? {}).find(([, { kind }]) => kind === "classes")?.[0] : undefined);

/** Return the conditions that are not the class of an item: [[name, summary]]. */
export const otherConditions = model => Object.entries(model.conditioned ?? {}).filter(([name]) => name !== className(model));

/**
 * Return the fields of a request that state a class (a name, or a list of names) and other conditions (`given` by name, as ConditionForm sets them). `prefix` is
 * "target_" for conditions to decode with. Conditions that are not given are left out.
 */
export function conditionFields(model, chosen, given = {}, prefix = "") {
  const others = otherConditions(model), name = className(model), stated = {};
  if (name && chosen !== null && chosen !== undefined) stated[name] = { class: chosen };
  for (const [each, { kind, data }] of others) {
    const value = given[each];
    if (value === undefined || value === "" || value === null) continue;
    if (kind === "classes") stated[each] = { class: value };
    else if (kind === "values") stated[each] = { values: value.map(Number) };
    else if (data) stated[each] = { [data.field]: [value] };
    else stated[each] = { texts: [value] };
  }
  if (!Object.keys(stated).length) return {};
  return others.length || name !== "condition" ? { [`${prefix}conditions`]: stated } : { [`${prefix}class`]: chosen };
}

/** Return the parameter of the address for a condition that is not the class. `prefix` tells apart several sets of conditions in one view. */
const conditionParam = (name, prefix) => `${prefix}.${name}`;

/** Return the conditions in the address that are not the class, as ConditionForm takes them. A list of numbers may be incomplete. */
export function conditionsIn(model, params, prefix = "condition") {
  const found = otherConditions(model).flatMap(([name, { names, kind, data }]) => {
    const text = params[conditionParam(name, prefix)];
    if (text === undefined) return [];
    if (data) return [[name, readGiven(text)?.content]];
    if (!names || kind === "classes") return [[name, text]];
    const values = text.split(",");
    return values.length === names.length ? [[name, values]] : [];
  });
  return Object.fromEntries(found);
}

/** Return the parameters of the address that change conditions. Files are kept in this tab. */
export function conditionChanges(model, before, after, prefix = "condition") {
  return Object.fromEntries(otherConditions(model).filter(([name]) => String(before[name] ?? "") !== String(after[name] ?? "")).map(([name, { data }]) => {
    const value = after[name];
    return [conditionParam(name, prefix), value === undefined || value === "" ? null : data ? keepGiven({ content: value }) : String(value)];
  }));
}

/** Return [given, set] of the conditions in the address that are not the class, as ConditionForm takes them. */
export function useConditions(model, prefix) {
  const given = conditionsIn(model, useAddress(), prefix);
  return [given, next => change(conditionChanges(model, given, next, prefix), { replace: true })];
}

/** Fields for the conditions of a model that are not the class of an item. `given` and `set` are an object by name. */
export function ConditionForm({ model, given, set, title = "" }) {
  const put = (name, value) => set({ ...given, [name]: value });
  return otherConditions(model).map(([name, { kind, names, data }]) => {
    const label = `${title}${name}`;
    if (kind === "classes") return html`<${Field} label=${label}><select onChange=${event => put(name, event.target.value)}><option
      value="">not given</option>${names.map(each => html`<option selected=${given[name] === each}>${each}</option>`)}</select><//>`;
    if (kind === "values") {
      const values = given[name] ?? names.map(() => "");
      const edit = (i, text) => { const next = values.with(i, text); put(name, next.every(value => value === "") ? undefined : next); };
      return names.map((each, i) => html`<${Field} label=${`${label}: ${each}`}><input type="number" step="any" value=${values[i]}
        onChange=${event => edit(i, event.target.value)} /><//>`);
    }
    if (pictureType(data)) return html`<${Drop} label=${`Choose a file for “${label}”`} accept=${data.media_types.join()}
      take=${async ([file]) => put(name, (await dataUrl(file)).split(",")[1])} />`;
    return html`<${Field} label=${label}><input value=${given[name] ?? ""} onChange=${event => put(name, event.target.value)} /><//>`;
  });
}

/** Fields for numbers that a task takes, such as the number of steps of a sampler. `values` is an object by name; a number that has its default is left out of it. */
export function NumberFields({ inputs, values, set }) {
  const put = ({ name, minimum, maximum, default: fallback }, text) => {
    const value = Math.min(maximum ?? Infinity, Math.max(minimum ?? -Infinity, Number(text))), kept = Object.entries(values).filter(([each]) => each !== name);
    set(Object.fromEntries(text === "" || !Number.isFinite(value) || value === fallback ? kept : [...kept, [name, value]]));
  };
  return inputs.map(input => {
    const { name, choices, minimum, maximum } = input, value = values[name] ?? input.default;
    return html`<${Field} key=${name} label=${name[0].toUpperCase() + name.slice(1)}>${choices ? html`<${Select} value=${value} options=${choices}
      set=${text => put(input, text)} />`
      : html`<${NumberInput} value=${value} min=${minimum} max=${maximum} step="any" set=${text => put(input, text)} />`}<//>`;
  });
}

/** Return [values, set] of numbers by name, which are the parameter `parameter` of the address, such as steps:8,guidance:2. */
export function useNumbers(parameter) {
  const [text, set] = useParam(parameter, ""), pairs = text.split(",").map(each => each.split(":"));
  const values = Object.fromEntries(pairs.filter(([name, value]) => name && value && Number.isFinite(Number(value))).map(([name, value]) => [name, Number(value)]));
  return [values, next => set(Object.entries(next).filter(([, value]) => value !== undefined).map(each => each.join(":")).join())];
}

/** Return the model that classifies items of a model: the model itself, or another one with the same classes and the same form of items; null if there is none. */
export function classifierOf(model, models) {
  if (supports(model, "classify")) return model;
  const form = ({ data }) => [data.field, data.width, data.height, data.channels].join();
  const fits = each => supports(each, "classify") && answers(each) && pictureType(each.data) && form(each) === form(model)
    && model.classes?.join() === each.classes?.join();
  const found = (models ?? []).filter(fits).filter(each => !model.dataset || each.dataset === model.dataset);
  return found.find(isEvaluator) ?? found[0] ?? null;
}

/** Classify items: {items: [{class, probabilities}], classification, fitted}. */
export const classify = (model, contents, options) => postJson("classify", { model: model.name, version: model.version, [nouns(model).many]: contents }, options);

/** Return {name, by} of the class that an item probably has: from a classifier, else "none" or the first class. `by` is the name of the classifier. */
export async function guessClass(model, models, content, options) {
  const classifier = classifierOf(model, models);
  if (classifier) return { name: (await classify(classifier, [content], options)).items[0].class, by: classifier.name };
  return { name: hasNoClass(model) ? NO_CLASS : model.classes[0], by: null };
}
