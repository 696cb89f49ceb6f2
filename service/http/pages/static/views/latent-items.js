// Items that a user encodes: examples, files, or records as text; and the request that encodes them.
import { html, useEffect, useState } from "../lib/preact.js";
import { useParam } from "../lib/address.js";
import { postJson } from "../lib/api.js";
import { examplesOf, fromFile } from "../lib/items.js";
import { makesPictures, nouns, useModels } from "../lib/models.js";
import { readRecords } from "../lib/records.js";
import { Drop, Failure, Field, Progress } from "../lib/ui.js";
import { useLoaded, useTask } from "../lib/tasks.js";

const MOST = 64;  // items that can be encoded at once

/**
 * Return {items, source}: the chosen items, and the element that chooses them. Examples are in the address (`item=test:1,test:4`); files and texts are
 * kept in memory. If `single`, a new item replaces the former one. No examples are requested unless `enabled`.
 */
export function useItems(model, { single = false, enabled = true } = {}) {
  const { models } = useModels(), [param, setParam] = useParam("item"), [own, setOwn] = useState([]), task = useTask();
  const [examples, loading] = useLoaded(async signal => (enabled ? (await examplesOf(model, models, signal)).items : []), [model.name, model.version]);
  const chosen = param.split(",").map(text => Number(text.match(/^test:(\d+)$/)?.[1] ?? NaN)).filter(Number.isInteger);
  const fromExamples = chosen.map(i => examples?.[i]).filter(Boolean), wrong = examples && param && fromExamples.length < param.split(",").length;
  const items = [...fromExamples, ...own].slice(0, MOST);
  const write = list => setParam(list.map(i => `test:${i}`).join(), { push: true });
  const toggle = i => { if (single) setOwn([]); write(single ? [i] : chosen.includes(i) ? chosen.filter(each => each !== i) : [...chosen, i]); };
  const add = more => { setOwn(single ? more.slice(-1) : [...own, ...more]); if (single) write([]); };
  const take = files => task.run(async () => add(await Promise.all(files.map(fromFile))));
  const noun = nouns(model), clear = () => { setOwn([]); write([]); };
  const source = html`<div class="latent-source">
    ${wrong && html`<p class="note" role="alert">The address has an item “${param}”, which is not among the examples. Choose one of those below.</p>`}
    ${makesPictures(model) ? html`
      <${Drop} take=${take} multiple=${!single} accept=${model.data.media_types ? "image/*" : undefined}
        label=${single ? `Choose an ${noun.one}, or drop one here` : `Choose ${noun.many}, or drop them here`}>
        <small> Files are only sent to this service. They are forgotten when the page is closed.</small><//>
      <p>Or click ${single ? "an example" : "examples"}:</p>` : html`<${Records} model=${model} add=${add} task=${task} />`}
    ${!examples && html`<${Progress} task=${loading} text="Loading examples…" />`}
    ${task.error && html`<${Failure} error=${task.error} />`}
    <div class="latent-examples" role="group" aria-label="Examples">${examples?.map((example, i) => isComplete(example) && html`<button type="button" key=${i}
      aria-pressed=${chosen.includes(i)} aria-label=${example.name} title=${example.name} onClick=${() => toggle(i)}>
      ${example.src ? html`<img class="pixels" src=${example.src} alt="" width="44" height="44" />` : example.name}</button>`)}</div>
    ${items.length > 0 && !single && html`<p><button type="button" onClick=${clear}>Remove all</button></p>`}
  </div>`;
  return { items, source };
}

/** Whether an example can be encoded: a record without a value cannot. */
const isComplete = ({ content }) => typeof content !== "object" || Object.values(content).every(value => value !== null);

/** A text of records, or a file with it. */
function Records({ model, add, task }) {
  const [text, set] = useState("");
  const use = () => task.run(async () => add(readRecords(text, model.data.columns ?? []).map((content, i) => ({ content, name: `Record ${i + 1}` }))));
  return html`<${Field} label="Records as JSON, or as CSV with a first line of names" wide><textarea rows="4" value=${text}
    onInput=${event => set(event.target.value)} /><//>
    <div class="controls"><button type="button" class="main" disabled=${!text.trim()} onClick=${use}>Encode</button>
      <${Drop} take=${([file]) => file.text().then(set)} accept=".csv,.json,text/csv,application/json" label="Choose a CSV or JSON file, or drop one here" /></div>
    <p>Or click examples:</p>`;
}

/** Return {mean, log_variance, codes, fitted} of items, for a latent of the model. */
export async function encode(model, space, items, fields, options) {
  const made = await postJson("encode", { model: model.name, version: model.version, [model.data.field]: items.map(item => item.content), ...fields }, options);
  return { ...(space.name ? made.posteriors[space.name] : made), fitted: made.fitted };
}

/** Return [encoded, task] of the chosen items; null if there are none. */
export function useEncoded(model, space, items, fields) {
  const task = useTask(), [encoded, set] = useState(null);
  useEffect(() => {
    let current = true;
    if (!items.length) { task.clear(); set(null); return undefined; }
    task.run(signal => encode(model, space, items, fields, { signal }), made => { if (current) set({ ...made, items }); });
    return () => { current = false; };
  }, [items.map(item => item.name + (item.src ?? JSON.stringify(item.content))).join(), JSON.stringify(fields), model.name]);
  return [items.length ? encoded : null, task];
}
