// The view "Sample": new items from a seed, with the settings that the model takes. Pictures appear as they are made.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { change, useAddress } from "../lib/address.js";
import { NPY, postFile, postLines, send } from "../lib/api.js";
import { CopyCode } from "../lib/code-tabs.js";
import { describe, nouns, pictureType } from "../lib/models.js";
import { toJson } from "../lib/numbers.js";
import { openRecipe, restoredFrom } from "../lib/recipes.js";
import { Busy, Drop, Failure, save } from "../lib/ui.js";
import { Settings } from "./sample-form.js";
import { ItemDialog, recipeOf } from "./sample-item.js";
import { Items, csvOf, isRecord, itemOf, shortSeed } from "./sample-items.js";
import { settingsOf } from "./sample-settings.js";
import { pixelsOf } from "../lib/files.js";
import { useLoaded, useTask } from "../lib/tasks.js";

export { openRecipe } from "../lib/recipes.js";

const WAIT = 60, FLUSH = 60;  // ms after a change before a request; ms between two updates of the page while items arrive

export function View({ model }) {
  const params = useAddress(), [manifest, describing] = useLoaded(() => describe(model), [model.name, model.version]);
  const { open, ...kept } = params, settings = useMemo(() => settingsOf(model, kept), [model, toJson(kept)]);
  const { made, task, generate, cancel, count, same } = useSamples(model, settings);
  const restoring = useTask(), [over, setOver] = useState(false), pushed = useRef(false);
  const { one, many } = nouns(model), type = pictureType(model.data), [problem] = settings.problems;

  const set = (changes, { push = false } = {}) => change({ made: null, open: null, ...changes }, { replace: !push });
  const restore = ([file]) => restoring.run(signal => openRecipe(file, { signal }));
  const drop = event => {
    setOver(false);
    if (event.defaultPrevented || !event.dataTransfer.files.length) return;
    event.preventDefault();
    restore([...event.dataTransfer.files]);
  };
  const close = () => {
    if (pushed.current) history.back(); else change({ open: null }, { replace: true });
    pushed.current = false;
  };
  const show = index => { pushed.current = true; change({ open: String(index) }); };
  const place = made.items.findIndex(item => String(item.index) === open), item = made.items[place];
  const asked = { ...settings.fields, version: params.version ? settings.fields.version : undefined };
  return html`<div class=${over ? "sample over" : "sample"} onDragOver=${event => { event.preventDefault(); setOver(true); }}
    onDragLeave=${event => event.currentTarget.contains(event.relatedTarget) || setOver(false)} onDrop=${drop}>
    <div>
      <p class="sample-lead">Change a setting: new ${many} appear at once. The same seed makes the same ${many}.</p>
      <${Settings} model=${model} manifest=${manifest} settings=${settings} params=${params} set=${set} generate=${generate} />
      ${describing.error && html`<${Failure} error=${describing.error} retry=${describing.retry} />`}
    </div>
    <div class="sample-results">
      ${problem ? html`<div class="failure" role="alert"><p><strong>${problem.message}</strong></p><p>${problem.advice}</p><button type="button"
        onClick=${() => set(problem.fix)}>Use the default</button></div>` : html`
        <div class="sample-head"><h2>${made.items.length ? `${made.items.length} ${made.items.length === 1 ? one : many}` : `New ${many}`}${made.seed !== null && made.seed !== undefined && made.items.length > 0 && html` <small title=${`seed ${made.seed}`}>seed ${shortSeed(made.seed)}</small>`}</h2>
          ${made.items.length > 0 && html`<${Downloads} model=${model} made=${made} />`}</div>
        <${Busy} task=${{ ...task, cancel }} text=${`${count} of ${settings.n}`} />
        ${!task.running && made.cancelled && html`<p class="note" role="status">Cancelled after ${made.items.length} of ${settings.n} ${many}. <button type="button" class="plain" onClick=${generate}>Start again</button></p>`}
        ${same && !task.running && html`<p class="note" role="status">The settings are the same, so the ${many} are the same. Press “Random seed” for new ones.</p>`}
        <${Failure} error=${task.error} retry=${task.error && task.retry} />
        ${task.error && params[task.error.field] !== undefined && html`<p><button type="button"
          onClick=${() => set({ [task.error.field]: null })}>Use the default of ${task.error.field}</button></p>`}
        ${made.reproducible === false && html`<p class="note">This model draws random numbers itself: the same seed makes other ${many} each time.</p>`}
        ${/^\d+-/.test(params.made ?? "") && made.items.length > 0 && !task.running && html`<${Restored} model=${model} made=${made} params=${params} />`}
        ${type && made.items.length > 0 && html`<p class="quiet sample-legend">Below each ${one}: ${made.seed === null ? "index" : "seed:index"}${typeof made.items[0].chosen === "string" ? " · class" : ""}. Choose one to see it large.</p>`}
        <${Items} model=${model} items=${made.items} seed=${made.seed} n=${made.fields?.n ?? settings.n} open=${show} />
        <${CopyCode} path="sample" fields=${asked} accept=${type && !model.items ? type : undefined} field=${model.items ? undefined : model.data.field}
          title="Copy as code" />`}
    </div>
    <div class="sample-restore">
      ${type && html`<${Drop} accept=".png" label="Restore from a PNG"
        take=${restore}><p class="quiet">Choose or drop a PNG that was made here: it contains its settings.</p></${Drop}>`}
      ${restoring.error && html`<${Failure} error=${restoring.error} />`}
    </div>
    ${item && html`<${ItemDialog} model=${model} manifest=${manifest} settings=${{ ...settings, version: params.version }} made=${made} item=${item}
      close=${close} first=${place === 0} last=${place === made.items.length - 1}
      step=${by => change({ open: String(made.items[place + by].index) }, { replace: true })} take=${index => { pushed.current = false; set({ seed: made.seed,
        first: String(index) === "0" ? null : index }, { push: true }); }} />`}
  </div>`;
}

/**
 * Return {made, task, generate, cancel, count, same}: `made` are the items {items, seed, fields, …} of the last request with a result, `count` is how many items of
 * the running request have arrived. A change of the settings cancels the request in progress. `same` says that generate() had nothing to change.
 */
function useSamples(model, settings) {
  const [made, set] = useState({ items: [], fields: null, seed: null }), [count, setCount] = useState(0), [same, setSame] = useState(false), task = useTask(),
    key = toJson(settings.fields), valid = !settings.problems.length;
  const done = useRef(null), started = useRef(false), stopped = useRef(false);
  const sample = async signal => {
    const { fields } = settings, items = [];
    let timer = 0, ending = {};
    const flush = () => { timer = 0; setCount(items.length); set({ items: [...items], fields, seed: fields.seed }); };
    setCount(0);
    stopped.current = false;
    try {
      await postLines("sample", fields, content => {
        if (content.total !== undefined) { ending = content; return; }
        items.push(itemOf(model, content));
        timer ||= setTimeout(flush, items.length === 1 ? 0 : FLUSH);
      }, { signal });
    } finally {
      clearTimeout(timer);
      if (stopped.current && items.length) set({ items: [...items], fields, seed: fields.seed, cancelled: true });
    }
    done.current = key;
    setCount(items.length);
    set({ items, fields, seed: ending.seed ?? null, reproducible: ending.reproducible });
  };
  useEffect(() => {
    if (task.running) task.cancel();
    setSame(false);
    if (!valid) return undefined;
    const timer = setTimeout(() => task.run(sample), started.current ? WAIT : 0);
    started.current = true;
    return () => clearTimeout(timer);
  }, [key, valid]);
  const generate = () => {
    setSame(done.current === key);
    if (valid) task.run(sample);
  };
  const cancel = () => { stopped.current = true; task.cancel(); };
  return { made, task, generate, cancel, count, same };
}

/** Downloads of all items: a sheet and an array of pictures, or a CSV of records. */
function Downloads({ model, made }) {
  const task = useTask(), type = model.items ? undefined : pictureType(model.data), { fields, items } = made, name = `${model.name}-${fields.seed}`;
  const sheet = () => task.run(async signal => save(await postFile("sample", fields, type, { signal }), `${name}.png`));
  const array = () => task.run(async signal => save(await (await send("sample", { fields, accept: NPY, signal })).blob(), `${name}.npy`));
  const places = items[0].outputs.flatMap((output, place) => (isRecord(output.value) ? [[place, output.role]] : []));
  return html`<div class="sample-downloads">
    ${type && html`<button type="button" title="One PNG with all, which contains the settings" onClick=${sheet}>Download PNG sheet</button>`}
    ${places.map(([place, role]) => html`<button type="button"
      onClick=${() => save(csvOf(items, place), `${name}${role && `-${role}`}.csv`, "text/csv")}>Download CSV${role && ` of ${role}`}</button>`)}
    ${pictureType(model.data) && html`<button type="button" title="An array for NumPy" onClick=${array}>Download npy</button>`}
    <${Busy} task=${task} /><${Failure} error=${task.error} retry=${task.error && task.retry} />
  </div>`;
}

/** What is known about a restored picture: whether the artifact is the same, and whether the pixels are. */
function Restored({ model, made, params }) {
  const [version, sum] = params.made.split("-"), source = restoredFrom(location.search);
  const [facts] = useLoaded(async () => {
    const recipe = await recipeOf(model, made.items[0], made.seed, made.fields), [{ value, picture }] = made.items[0].outputs;
    return { checksum: recipe.checksum, pixels: source && picture && made.items.length === 1 ? await samePixels(source.src, value) : null };
  }, [made]);
  if (!facts) return null;
  const { one } = nouns(model);
  let text = facts.pixels === null ? "Restored from the recipe of a file, with the same artifact." : "Restored: every pixel is the same as in the file.";
  if (facts.pixels === false) text = "Restored, but some pixels differ from the file: it was made on another type of processor, or was changed later.";
  if (sum && facts.checksum && !facts.checksum.startsWith(sum)) {
    text = `The file was made by another artifact of ${model.name} with the same version (checksum ${sum}…, this one has ${facts.checksum.slice(0, 12)}…): the result may differ.`;
  }
  if (version !== String(model.version)) {
    text = `The file was made by version ${version} of ${model.name}, but this is version ${model.version}: the ${one} may differ. `
      + "Add that version to the folder of models for the same pixels.";
  }
  return html`<p class="note" role="status">${text}</p>`;
}

async function samePixels(a, b) {
  const [first, second] = await Promise.all([a, b].map(src => pixelsOf(src)));
  return first.width === second.width && first.height === second.height && first.data.every((value, i) => value === second.data[i]);
}
