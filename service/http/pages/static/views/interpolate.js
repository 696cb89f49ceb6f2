// The view "Interpolate": the path between two items in the latent space, as frames to scrub, to play and to save.
import { html, useState } from "../lib/preact.js";
import { useParam } from "../lib/address.js";
import { postJson } from "../lib/api.js";
import { ItemCard, ItemChooser } from "../lib/chooser.js";
import { NO_CLASS, ConditionForm, NumberFields, classesOf, conditionFields, guessClass, otherConditions, takes, useConditions, useNumbers } from "../lib/conditions.js";
import { fittedNotes, firstItem, useItem, useKept, writeItem } from "../lib/items.js";
import { describe, hasNoClass, inputsOf, makesPictures, nouns, supports, useModels } from "../lib/models.js";
import { outputsOf } from "../lib/made.js";
import { randomSeed } from "../lib/numbers.js";
import { isEmpty } from "../lib/records.js";
import { Field, NumberInput, Progress, Select } from "../lib/ui.js";
import { PathOutput, requestPath } from "./interpolate-path.js";
import { useLoaded, useSettled } from "../lib/tasks.js";

const MOST = 64;  // steps
const METHODS = [["both", "Both"], ["slerp", "On an arc (slerp)"], ["lerp", "On a line (lerp)"]];

export function View({ model }) {
  const [facts, task] = useLoaded(async () => {
    const [manifest, decode] = await Promise.all([describe(model), takes(model, "decode")]), { latent } = manifest;
    return { drawn: !latent?.priors || Object.keys(latent.priors).length > 0, classed: decode.has("condition") && classesOf(model) !== null };
  }, [model.name, model.version]);
  return facts ? html`<${Ends} model=${model} ...${facts} />` : html`<${Progress} task=${task} text="The model is described…" />`;
}

/** The two ends. `drawn`: the service draws latents from a seed; `classed`: an end has a class. */
function Ends({ model, drawn, classed }) {
  const { models } = useModels(), reads = supports(model, "encode"), noun = nouns(model);
  const first = place => (reads ? firstItem(model, models, place) : `${place + 1}:0`);
  const from = useEnd(model, "from", first(0), classed), to = useEnd(model, "to", first(2), classed), ends = [from, to];
  const [open, setOpen] = useState(null), start = useConditions(model, "from"), end = useConditions(model, "to"), given = [start[0], end[0]];
  const inputs = inputsOf(model, "decode"), [numbers, setNumbers] = useNumbers("options");
  const [text, setSteps] = useParam("n", inputs.length ? "16" : "24"),  // a model with a sampler takes longer
    [method, setMethod] = useParam("method", "both");
  const n = /^\d+$/.test(text) && Number(text) >= 2 && Number(text) <= MOST ? Number(text) : null;
  const methods = { both: ["slerp", "lerp"], slerp: ["slerp"], lerp: ["lerp"] }[method];
  const ready = ends.every(end => end.item && end.content && (!classed || end.name)) && n && methods;
  const fields = ends.map((end, i) => (ready ? endFields(end, given[i], { drawn, classed, noun: noun.one, model }) : null));
  const settled = useSettled(ready ? fields : null, 120), asked = settled
    ? settled.map(each => JSON.stringify(each, (_, value) => (typeof value === "bigint" ? String(value) : value))).join() : "";
  const key = [asked, n, method, JSON.stringify(numbers)].join("|"), [part, setPart] = useState(null);
  const [all, task, old] = useKept(async signal => {
    if (!settled || !n || !methods) return null;
    const found = [];
    for (const each of methods) {  // each path is shown when it is there
      found.push(await requestPath(model, { from: settled[0], to: settled[1], steps: n, method: each, ...(Object.keys(numbers).length && { inputs: numbers }) }, signal));
      if (!signal.aborted) setPart({ key, paths: [...found] });
    }
    return found;
  }, [model.name, model.version, key]);
  const paths = old && part?.key === key ? part.paths : all, late = old && part?.key !== key;
  const swap = () => { const [a, b] = ends.map(end => end.text); from.swap(b, to, a); start[1](given[1]); end[1](given[0]); };
  const draw = () => { const seed = randomSeed(); from.choose(writeItem({ from: "seed", seed, index: 0,
    chosen: classed ? from.name : null })); to.choose(writeItem({ from: "seed", seed, index: 1, chosen: classed ? to.name : null }), false); };
  const toggle = i => setOpen(open === i ? null : i);
  return html`
    <p>Choose two ${noun.many}${reads ? (makesPictures(model) ? ": examples, drawings or files" : ": examples, or your own")
      : " that the model generates"}. The model shows what lies between them.</p>
    <div class="interpolate-ends">
      ${ends.map((end, i) => html`<section class="panel" key=${i} aria-label=${["Start", "End"][i]}>
        <${ItemCard} model=${model} chosen=${end} label=${["Start", "End"][i]} reads=${reads}>
          ${classed && html`<${Field} label="Class"><${Select} value=${end.name ?? ""} options=${[...(end.name ? [] : [["", "…"]]), ...classesOf(model)]}
            set=${each => end.setClass(each, true)} /><//>${end.by && html`<small class="quiet">recognised by ${end.by}</small>`}`}
          <button type="button" aria-expanded=${open === i} onClick=${() => toggle(i)}>${open === i ? "Close" : "Change"}<span
            class="hidden"> ${["start", "end"][i]}</span></button>
        <//>
        ${otherConditions(model).length > 0 && html`<div class="controls"><${ConditionForm} model=${model} given=${given[i]}
          set=${[start, end][i][1]} /></div>`}
        ${end.filling.error && html`<${Progress} task=${end.filling} />`}
        ${end.filled.length > 0 && html`<p class="note">The model filled in the empty ${end.filled.length > 1 ? "fields" : "field"} ${end.filled.join(", ")}.</p>`}
        ${end.guess.error && html`<${Progress} task=${end.guess} />`}
        ${open === i && html`<${ItemChooser} model=${model} chosen=${end} label=${["Start", "End"][i]} reads=${reads} />`}
        ${notesOf(paths?.[0], end, i, ends, drawn)?.map(note => html`<p class="note">${note}</p>`)}
      </section>`)}
    </div>
    <div class="controls">
      <button type="button" onClick=${swap}>Swap start and end</button>
      ${supports(model, "sample") && html`<button type="button" onClick=${draw}>Two new random ${noun.many}</button>`}
      <${Field} label=${`Number of ${noun.many}`}><${NumberInput} min="2" max=${MOST} value=${/^\d+$/.test(text) ? text : ""} set=${each => setSteps(each, { push: true })} /><//>
      <${Field} label="Path"><${Select} value=${method} options=${METHODS} set=${each => setMethod(each, { push: true })} /><//>
      <${NumberFields} inputs=${inputs} values=${numbers} set=${setNumbers} />
    </div>
    ${!n && html`<p class="failure" role="alert">“${text}” ${noun.many} are not possible. Enter a whole number from 2 to ${MOST}.</p>`}
    ${!methods && html`<p class="failure" role="alert">“${method}” is not a path. Choose one of the three above.</p>`}
    <${Progress} task=${task} text="The path is computed…" />
    ${paths && n && methods && html`<${PathOutput} model=${model} paths=${paths} old=${late} ends=${ends} />`}`;
}

/** An end of the path: what useItem returns, with `name`, its class. It is the one in the address, or that of the item, or is recognised. */
function useEnd(model, parameter, fallback, classed) {
  const chosen = useItem(model, parameter, fallback), { item, spec } = chosen, { models } = useModels();
  const known = spec?.chosen ?? item?.chosen ?? null, given = useSettled(item?.content, 120);
  const [whole, filling] = useKept(signal => completed(model, given, signal), [model.name, given]), content = whole?.given === given ? whole?.content : undefined;
  const [guessed, guess] = useKept(async signal => (classed && content && known === null && !hasNoClass(model) ? guessClass(model, models, content, { signal }) : null),
    [model.name, content, known, classed]);
  const optional = hasNoClass(model) && known === null;
  const name = known ?? (optional ? NO_CLASS : guessed?.name ?? null);
  const swap = (mine, other, its) => { chosen.choose(mine); other.choose(its, false); };
  return { ...chosen, content, filled: whole?.filled ?? [], filling, name, by: known === null && !optional ? guessed?.by : null, guess, swap };
}

/** Return an item without gaps, {given, content, filled}: empty fields of a record are filled in by the model, and `filled` names them. */
async function completed(model, given, signal) {
  const gaps = given && !makesPictures(model) ? model.data.columns.filter(column => isEmpty(given[column.name])).map(column => column.name) : [];
  if (!gaps.length || !supports(model, "impute")) return { given, content: given, filled: [] };
  const made = await postJson("impute", { model: model.name, version: model.version, [nouns(model).many]: [given] }, { signal });
  return { given, content: outputsOf(model, made)[0].items[0], filled: gaps };
}

/** Return the fields of one end of a request. */
function endFields({ spec, content, name }, given, { drawn, classed, noun, model }) {
  const place = spec.from === "seed" && drawn ? { seed: spec.seed, first: spec.index } : { [noun]: content };
  return { ...place, ...conditionFields(model, classed ? name : null, given) };
}

/** Return the notes about the file of end `i`. The response has an entry for each end that is not drawn from a seed. */
function notesOf(path, end, i, ends, drawn) {
  if (!path?.fitted || (end.spec?.from === "seed" && drawn)) return null;
  const before = i === 1 && !(ends[0].spec?.from === "seed" && drawn) ? 1 : 0;
  return fittedNotes(path.fitted[before], end.item);
}
