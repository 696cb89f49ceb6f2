// Variations of one generated item: nearby latents, or the same seed and index with another class, temperature or number.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { postJson } from "../lib/api.js";
import { NO_CLASS, classesOf, conditionFields } from "../lib/conditions.js";
import { Records, outputsOf } from "../lib/made.js";
import { spaceOf } from "../lib/latents.js";
import { pictureType } from "../lib/models.js";
import { Choice, Progress, Slider } from "../lib/ui.js";
import { className, widthOf } from "./sample-items.js";
import { numberFields } from "./sample-settings.js";
import { useTask } from "../lib/tasks.js";

const COUNT = 8;

/** Return the kinds of variations that a model has: [{name, title, about, values, fields(value)}]. Those without `values` are nearby latents. */
function kindsOf(model, manifest, fields, { numbers, given }) {
  const found = [], space = spaceOf(manifest), classes = classesOf(model);
  const { class: _, conditions, ...rest } = fields;
  if (["vector", "array"].includes(space.form) && !space.names.length && manifest.tasks.some(task => ["decode", "sample"].includes(task)) && !manifest.codes) {
    found.push({ name: "nearby", title: "Nearby", about: "Latents near that of this one: the strength says how much noise is mixed in." });
  }
  if (classes && !given.conditions) {
    const change = name => ({ ...rest, ...conditions && { conditions }, ...conditionFields(model, name, {}) });
    found.push({ name: "class", title: "Other class", about: "The same seed and index with each class.",
      values: classes.map(name => [name, name === NO_CLASS ? "none" : name]), fields: change });
  }
  if (model.temperature && !given.latents && !given.codes) {
    found.push({ name: "temperature", title: "Temperature", about: "The same seed and index with other temperatures: lower ones are more typical.",
      values: [0.25, 0.5, 0.75, 1, 1.25, 1.5, 2].map(value => [value, value]), fields: value => ({ ...fields, temperature: value }) });
  }
  for (const { name, choices, minimum: low, maximum: high, kind, default: usual } of numbers) {
    const has = limit => limit !== null && limit !== undefined, near = has(usual) && usual > 0 ? [0, 0.5, 1, 1.5, 2, 3, 5].map(factor => usual * factor) : [];
    const all = choices ?? near.filter(value => (!has(low) || value >= low) && (!has(high) || value <= high) && (kind !== "integer" || Number.isInteger(value)));
    if (all.length < 2) continue;
    const change = value => {
      const { inputs, [name]: old, ...others } = fields, { [name]: before, ...kept } = inputs ?? {}, stated = numberFields([{ name, value, default: usual }]);
      return { ...others, ...stated, ...((Object.keys(kept).length || stated.inputs) && { inputs: { ...kept, ...stated.inputs } }) };
    };
    found.push({ name, title: name[0].toUpperCase() + name.slice(1), about: `The same seed and index with other values of ${name}.`,
      values: all.map(value => [value, Number(value.toFixed(3))]), fields: change });
  }
  return found;
}

/** Return an array of numbers with noise mixed in: sqrt(1 - s²) of the array and s of the noise, so that its length stays about the same. */
export function mixed(latent, noise, strength) {
  let place = 0;
  const keep = Math.sqrt(1 - strength ** 2), mix = value => (Array.isArray(value) ? value.map(mix) : keep * value + strength * noise[place++]);
  return mix(latent);
}

/** Return `n` numbers of the normal distribution (Box and Muller, 1958). */
const normal = n => Float64Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()));

/** Variations of an item. `fields` are those of its request; choose(variation) shows one large, `chosen` is the one that is shown. */
export function Variations({ model, manifest, fields, item, settings, choose, chosen }) {
  const kinds = useMemo(() => (manifest ? kindsOf(model, manifest, fields, settings) : []), [model, manifest, settings]);
  const [open, show] = useState(false), [name, set] = useState(null), kind = kinds.find(each => each.name === name) ?? kinds[0];
  if (!kinds.length) return null;
  return html`<section class="sample-variations" aria-labelledby="variations">
    <h3 id="variations">Variations</h3>
    ${!open ? html`<button type="button" onClick=${() => show(true)}>Show variations</button>` : html`
      ${kinds.length > 1 && html`<${Choice} label="Kind of variation" value=${kind.name} set=${next => { set(next); choose(null); }}
        options=${kinds.map(each => [each.name, each.title])} />`}
      <p>${kind.about}${kind.values || !pictureType(model.data) ? "" : " Choose one to continue from it."}</p>
      ${kind.values ? html`<${Each} key=${kind.name} model=${model} kind=${kind} choose=${choose} chosen=${chosen} />`
        : html`<${Nearby} key=${kind.name} model=${model} fields=${fields} item=${item} numbers=${settings.numbers} choose=${choose} chosen=${chosen} />`}`}
  </section>`;
}

/** The same seed and index with each value of one setting. The requests follow each other. */
function Each({ model, kind, choose, chosen }) {
  const [found, set] = useState([]), task = useTask();
  useEffect(() => {
    task.run(async signal => {
      const all = [];
      for (const [value, title] of kind.values) {
        const fields = kind.fields(value), answer = await postJson("sample", fields, { signal });
        all.push({ title, fields, outputs: outputsAt(model, answer, 0), chosen: answer.classes?.[0] });
        set([...all]);
      }
    });
  }, []);
  return html`<${Found} model=${model} found=${found} choose=${choose} chosen=${chosen} label=${kind.title} />
    <${Progress} task=${task} text=${`${found.length} of ${kind.values.length}`} />`;
}

/** Latents near that of the item, or of the variation that is chosen. */
function Nearby({ model, fields, item, numbers, choose, chosen }) {
  const [strength, setStrength] = useState(0.3), [center, move] = useState(null), [found, set] = useState([]), task = useTask(),
    noises = useRef(null), [turn, again] = useState(0);
  const { first, prior, temperature, ...rest } = fields, drawn = useRef({});  // conditions that the request of the item did not give
  const origin = async signal => {
    if (fields.latents) return fields.latents[0];
    const answer = await postJson("sample", { ...fields, return_latents: true }, { signal });
    if (answer.conditions) drawn.current = { conditions: { ...Object.fromEntries(Object.entries(answer.conditions).map(([key, each]) => [key, alone(each)])),
      ...fields.conditions } };
    else if (answer.condition && !fields.conditions) drawn.current = { condition: answer.condition[0] };
    return answer.latents[0];
  };
  useEffect(() => {
    const timer = setTimeout(() => task.run(async signal => {
      const latent = center ?? (await origin(signal)), size = [latent].flat(Infinity).length;
      if (!center) { move(latent); return; }
      noises.current ??= Array.from({ length: COUNT }, () => normal(size));
      const latents = noises.current.map(noise => mixed(latent, noise, strength));
      const name = drawn.current.conditions ? undefined : fields.class ?? (typeof item.chosen === "string" || typeof item.chosen === "object" ? item.chosen : undefined);
      const asked = { ...rest, ...drawn.current, ...numberFields(numbers), n: COUNT, latents, ...(name !== undefined
        && !fields.conditions && conditionFields(model, Array.isArray(name) ? name[0] : name, {})) };
      const answer = await postJson("sample", asked, { signal });
      set(latents.map((each, i) => ({ title: "", latent: each, fields: { ...asked, n: 1, latents: [each] }, outputs: outputsAt(model, answer, i) })));
    }), center ? 60 : 0);
    return () => clearTimeout(timer);
  }, [center, strength, turn]);
  const renew = () => { noises.current = null; again(turn + 1); };
  const take = one => { choose(one); noises.current = null; move(one.latent); };
  useEffect(() => { if (!chosen && found.length) { noises.current = null; move(null); } }, [chosen]);
  return html`<div class="controls"><${Slider} label="Strength" aria-label="Strength" min="0.05" max="1" step="0.05" value=${strength}
    set=${setStrength} /><button type="button" onClick=${renew}>New variations</button></div>
    <${Found} model=${model} found=${found} choose=${take} chosen=${chosen} label="Nearby" />
    <${Progress} task=${task} text="The variations are computed…" />`;
}

/** Return the condition of one item, as a response states it, as a condition of all items of a request. */
const alone = condition => Object.fromEntries(Object.entries(condition).map(([form, value]) => [form, form === "texts" || !Array.isArray(value) ? value : value[0]]));

/** Return the outputs of one item of a response, as the view shows items. */
function outputsAt(model, answer, place) {
  const datas = model.items ?? { "": model.data };
  return outputsOf(model, answer).map(({ role, picture, items }) => ({ role, picture, data: datas[role], value: items[place] }));
}

/** Variations side by side: pictures are buttons, records are a table. */
function Found({ model, found, choose, chosen, label }) {
  if (!found.length) return null;
  const [{ picture, data }] = found[0].outputs;
  if (!picture) return html`<${Records} items=${found.map(({ title, outputs: [{ value }] }) => (title === "" ? value : { [label.toLowerCase()]: title,
    ...value }))} caption=${`Variations: ${label}`} />`;
  return html`<ul class="sample-tiles" aria-label=${`Variations: ${label}`}>${found.map((each, i) => {
    const name = each.title === "" ? `variation ${i + 1}` : `${label.toLowerCase()}: ${each.title}`;
    return html`<li key=${i}><button type="button" class="plain picture" aria-pressed=${chosen === each} title=${name}
      onClick=${() => choose(each)}><img class="pixels" src=${each.outputs[0].value} width=${widthOf(data, 84)}
        alt=${`${name}${each.chosen ? `, class ${className(each.chosen)}` : ""}`} /></button>
      ${each.title !== "" && html`<small>${each.title}</small>`}</li>`;
  })}</ul>`;
}
