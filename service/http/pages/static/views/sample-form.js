// The controls of the view "Sample". Each one is a parameter of the address, and a model has those that it takes.
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { ConditionForm, NO_CLASS, classesOf, conditionChanges, otherConditions } from "../lib/conditions.js";
import { nouns } from "../lib/models.js";
import { brief, randomSeed } from "../lib/numbers.js";
import { keepGiven, writeWeights } from "../lib/recipes.js";
import { Field, NumberInput, Select, Slider } from "../lib/ui.js";
import { MIXTURE, MOST, RANDOM } from "./sample-settings.js";

const HINTS = {
  guidance: "How strongly the class shapes the result: 1 is the model as it was trained, 0 ignores the class.",
  steps: "Steps of the sampler. More steps take longer.",
  temperature: "How much the results vary: below 1 they are more typical, above 1 more unusual.",
  prior: "The distribution from which latents are drawn.",
};

/** The form. `set(changes, {push})` changes parameters of the address. */
export function Settings({ model, manifest, settings, params, set, generate }) {
  const { many } = nouns(model), { seed, first, n, chosen, weights, temperature, numbers, conditions, given } = settings;
  const fixed = Boolean(given.latents ?? given.codes ?? given.named_latents), submit = event => { event.preventDefault(); generate(); };
  const free = () => (fixed ? drop("latents", "codes", "named_latents") : {});  // another seed has no effect on given latents
  const drop = (...names) => {
    const rest = Object.fromEntries(Object.entries(given).filter(([name]) => !names.includes(name)));
    return { given: Object.keys(rest).length ? keepGiven(rest) : null };
  };
  return html`<form class="sample-form panel" onSubmit=${submit} aria-label="Settings">
    <div class="controls">
      <${Field} label=${`Number of ${many}`}><${NumberInput} value=${Number.isFinite(n) ? n : ""} min="1" max=${MOST} disabled=${fixed}
        set=${text => set({ n: text })} /><//>
      <${Field} label="Seed" hint=${first ? html`from index ${String(first)} on` : null}><${SeedInput} text=${params.seed ?? String(seed)}
        set=${text => set({ seed: text })} /><//>
    </div>
    <div class="sample-seeds">
      <button type="button" onClick=${() => set({ seed: randomSeed(), first: null, ...free() }, { push: true })}>Random seed</button>
      <button type="button" disabled=${seed === null} onClick=${() => set({ seed: seed === 2n ** 63n - 1n ? 0n : seed + 1n, first: null,
        ...free() }, { push: true })}>Next seed</button>
      ${first ? html`<button type="button" onClick=${() => set({ first: null }, { push: true })}>Start at index 0</button>` : null}
    </div>
    ${classesOf(model) && !Array.isArray(given.class) && html`<${ClassInput} model=${model} chosen=${chosen} weights=${weights} set=${set} />`}
    ${!given.conditions && !given.condition && otherConditions(model).length > 0 && html`<div class="controls"><${ConditionForm} model=${model} given=${conditions}
      set=${next => set(conditionChanges(model, conditions, next))} /></div>`}
    ${!fixed && html`<${PriorInput} manifest=${manifest} value=${params.prior} set=${set} />`}
    ${model.temperature && !fixed && html`<${Live} label="Temperature" title=${HINTS.temperature} aria-label="Temperature" min="0.1"
      max=${Math.max(2, temperature || 0)} step="0.05" value=${temperature || 1}
      set=${value => set({ temperature: value === 1 ? null : value })} />`}
    ${numbers.map(input => html`<${NumericInput} key=${input.name} input=${input} text=${params[input.param]}
      set=${value => set({ [input.param]: Number(value) === input.default || value === "" ? null : value })} />`)}
    ${Object.keys(given).map(name => html`<p class="note sample-given">This uses the ${name.replace("_", " ")} of the file.
      <button type="button" class="plain" onClick=${() => set(drop(name), { push: true })}>Remove</button></p>`)}
    <button class="main">Generate</button>
  </form>`;
}

/** A slider whose value moves at once. The address follows a moment later, because browsers refuse many changes of the address in a short time. */
function Live({ value, set, ...rest }) {
  const [draft, show] = useState(value), timer = useRef(0);
  useEffect(() => show(value), [value]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const move = next => {
    show(next);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => set(next), 90);
  };
  return html`<${Slider} value=${draft} set=${move} ...${rest} />`;
}

/** A seed: a text, because a number of JavaScript is exact to 2^53 only. The address changes when it is complete. */
function SeedInput({ text, set }) {
  const [draft, edit] = useState(text);
  useEffect(() => edit(text), [text]);
  const keys = event => {
    const step = { ArrowUp: 1n, ArrowDown: -1n }[event.key];
    if (!step || !/^\d+$/.test(draft.trim())) return;
    event.preventDefault();
    const next = BigInt(draft.trim()) + step;
    if (next >= 0n) { edit(String(next)); set(String(next)); }
  };
  return html`<input inputmode="numeric" autocomplete="off" spellcheck=${false} value=${draft} onInput=${event => edit(event.target.value)} onKeyDown=${keys}
    onChange=${event => set(event.target.value.trim())} />`;
}

function ClassInput({ model, chosen, weights, set }) {
  const classes = classesOf(model), { one, many } = nouns(model);
  const options = [[RANDOM, `random (one for each ${one})`],
    ...classes.map(name => [name, name === NO_CLASS ? "none (without a class)" : name]), [MIXTURE, "a mixture…"]];
  const choose = name => {
    const start = classes.includes(chosen) ? chosen : classes[0], other = classes.find(each => each !== start) ?? start;
    if (name === MIXTURE) set({ weights: writeWeights({ [start]: 1, [other]: 1 }), class: null }, { push: true });
    else set({ class: name === RANDOM ? null : name, weights: null }, { push: true });
  };
  return html`<${Field} label="Class"><${Select} value=${chosen} set=${choose} options=${options} /><//>
    ${weights && html`<${Mixture} classes=${classes} weights=${weights} set=${set} many=${many} />`}`;
}

/** Sliders for the weights of the classes. */
function Mixture({ classes, weights, set, many }) {
  const total = Object.values(weights).reduce((sum, each) => sum + each, 0);
  const change = (name, value) => {
    const next = Object.fromEntries(Object.entries({ ...weights, [name]: value }).filter(([, weight]) => weight > 0));
    if (Object.keys(next).length) set({ weights: writeWeights(next) });
  };
  return html`<fieldset class="sample-mixture"><legend>Share of each class in every one of the ${many}</legend>
    <p class="quiet">Each of the ${many} is a blend: the model gets the weighted mean of its classes as the condition.</p>
    ${classes.map(name => html`<${Live} key=${name} label=${name} min="0" max="1" step="0.05" value=${Math.min(1, weights[name] ?? 0)}
      format=${value => (value === Math.min(1, weights[name] ?? 0) ? `${Math.round((100 * (weights[name] ?? 0)) / (total || 1))}%` : "…")}
        set=${value => change(name, value)} />`)}
  </fieldset>`;
}

/** The choice of a prior, if the latent has several. */
function PriorInput({ manifest, value, set }) {
  const latent = manifest?.latent, several = latent && latent.size === undefined && latent.shape === undefined;
  const { priors = {}, default_prior: usual = "normal" } = (several ? Object.values(latent).find(each => Object.keys(each.priors ?? {}).length > 1) : latent) ?? {};
  if (Object.keys(priors).length < 2) return null;
  return html`<${Field} label="Prior"><${Select} title=${HINTS.prior} value=${value ?? usual} set=${name => set({ prior: name === usual ? null : name }, { push: true })}
    options=${Object.keys(priors).map(name => [name, name === usual ? `${name} (default)` : name])} /><//>`;
}

const title = name => name[0].toUpperCase() + name.slice(1).replace(/_/g, " ");

/** A numeric input of the model: a choice, a slider if it has a range, or a number. */
function NumericInput({ input, text, set }) {
  const { name, value, choices, minimum, maximum, kind, default: usual } = input, hint = HINTS[name], has = limit => limit !== null && limit !== undefined;
  if (choices) return html`<${Field} label=${title(name)}><${Select} title=${hint} value=${text ?? value} set=${set}
    options=${choices.map(each => [each, each === usual ? `${each} (default)` : each])} /><//>`;
  if (has(minimum) && has(maximum)) {
    const step = kind === "integer" ? 1 : (maximum - minimum) / 200;
    return html`<${Live} label=${title(name)} title=${hint} aria-label=${title(name)} min=${minimum} max=${maximum} step=${step}
      value=${Number.isFinite(value) ? value : usual ?? minimum} format=${each => brief(each, 3)} set=${set} />`;
  }
  return html`<${Field} label=${title(name)}><${NumberInput} title=${hint} value=${text ?? value ?? ""} min=${minimum} max=${maximum}
    step=${kind === "integer" ? 1 : "any"} placeholder=${has(usual) ? String(usual) : "required"} set=${set} /><//>`;
}
