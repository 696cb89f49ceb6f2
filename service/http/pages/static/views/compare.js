// Compare: one seed through several models or versions, and their figures beside each other.
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { change, href, useAddress, useParam } from "../lib/address.js";
import { blobOf } from "../lib/files.js";
import { answers, listed, supports } from "../lib/models.js";
import { Records, described, sample } from "../lib/made.js";
import { MAX_SEED, randomSeed, readSeed } from "../lib/numbers.js";
import { Copy, Dialog, Failure, Field, NumberInput, Select, save } from "../lib/ui.js";
import { Figures } from "./compare-figures.js";

const COUNT = 8, MOST = 32, AT_ONCE = 2, FIRST = 4;

/** Return the id of a model in the address: its name, and its version if this is not the one that the service chooses. */
const idOf = (name, version) => (version ? `${name}@${version}` : name);
const readId = id => { const [name, version] = id.split("@"); return { name, version: version ? Number(version) : undefined }; };

/** Return the models that are compared first: of one data set, each of another family. */
function suggestion(models) {
  const usable = models.filter(model => supports(model, "sample") && answers(model)).sort((a, b) => (a.featured ?? 99) - (b.featured ?? 99));
  const first = usable[0], same = usable.filter(model => model.dataset === first?.dataset), families = [...new Set(same.map(model => model.family))];
  return families.slice(0, FIRST).map(family => same.find(model => model.family === family).name);
}

/** The view. */
export function View({ models }) {
  const params = useAddress();
  if (!models) return html`<p role="status" class="note">The list of models is loading…</p>`;
  const ids = params.models === undefined ? suggestion(models) : [...new Set(params.models.split(",").filter(Boolean))];
  const seed = readSeed(params.seed ?? "1"), n = /^\d+$/.test(params.n ?? String(COUNT)) ? Number(params.n ?? COUNT) : 0;
  const wrong = seed === null ? `“${params.seed}” is not a seed. Enter a whole number from 0 to ${MAX_SEED}.`
    : n < 1 || n > MOST ? `“${params.n}” is not a number of columns. Enter a whole number from 1 to ${MOST}.` : null;
  const choose = next => change({ models: next.join(",") || "none" }, { replace: false });
  const chosen = ids.filter(id => id !== "none");
  return html`<h1>Compare models</h1>
    <p>Choose models to see what each one makes from the same seed.${params.models === undefined && chosen.length > 0 && html` These are an example: models of one data
      set, each of another family. <button type="button" onClick=${() => choose([])}>Start with none</button>`}</p>
    <div class="side compare">
      <div>
        <${Controls} models=${models} ids=${chosen} seed=${params.seed ?? "1"} n=${params.n ?? COUNT} klass=${params.class} />
        ${wrong ? html`<${Failure} error=${{ message: wrong, advice: "Change the value above." }} />`
          : chosen.length ? html`<${Grid} models=${models} ids=${chosen} seed=${seed} n=${n} klass=${params.class}
            remove=${id => choose(chosen.filter(each => each !== id))} />`
          : html`<p class="note">No model is chosen. Choose at least one from the list.</p>`}
      </div>
      <${Chooser} models=${models} ids=${chosen} choose=${choose} />
    </div>
    ${chosen.length > 0 && html`<${Figures} models=${models} ids=${chosen} read=${readId} />`}`;
}

function Controls({ models, ids, seed, n, klass }) {
  const names = ids.map(id => readId(id).name), classes = [...new Set(models.filter(model => names.includes(model.name)).flatMap(model => model.classes ?? []))];
  const set = (changes, options) => change(changes, { replace: true, ...options });
  return html`<form class="controls" onSubmit=${event => event.preventDefault()}>
    <${Field} label="Seed"><input type="text" class="long" inputmode="numeric" autocomplete="off" value=${seed} onChange=${event => set({ seed: event.target.value.trim() })} /><//>
    <${Field} label="Columns"><${NumberInput} min="1" max=${MOST} value=${n} set=${value => set({ n: value === String(COUNT) ? null : value })} /><//>
    ${(classes.length > 0 || klass) && html`<${Field} label="Class"><${Select} value=${klass ?? ""} set=${value => set({ class: value || null })}
      options=${[["", "any class"], ...[...new Set([...classes, ...(klass ? [klass] : [])])].map(each => [each, each])]} /><//>`}
    <button type="button" class="main" onClick=${() => set({ seed: String(randomSeed()) }, { replace: false })}>New seed</button>
  </form>`;
}

/** The list of models to choose from, by data set. */
function Chooser({ models, ids, choose }) {
  const [find, setFind] = useState("");
  const usable = models.filter(model => supports(model, "sample"));
  const names = [...new Set(usable.map(model => model.name))].map(name => usable.filter(model => model.name === name).sort((a, b) => b.version - a.version)[0]);
  const matching = names.filter(model => `${model.name} ${model.description}`.toLowerCase().includes(find.toLowerCase()));
  const groups = [...new Set(matching.map(model => model.dataset ?? "other data"))].sort();
  const toggle = id => choose(ids.includes(id) ? ids.filter(each => each !== id) : [...ids, id]);
  return html`<section class="panel chooser" aria-labelledby="chooser"><h2 id="chooser">Models</h2>
    <${Field} label="Search"><input type="search" placeholder="part of a name" value=${find} onInput=${event => setFind(event.target.value)} /><//>
    <div class="options" tabindex="0" role="group" aria-label="Models to compare">
      ${groups.map(group => html`<fieldset key=${group}><legend>${group}</legend>
        ${matching.filter(model => (model.dataset ?? "other data") === group).map(model => html`<div key=${model.name}>
          <label class="check"><input type="checkbox" checked=${ids.includes(model.name)} disabled=${!answers(model)
            && !ids.includes(model.name)} onChange=${() => toggle(model.name)} />
            <span>${model.name}${!answers(model) && html` <small>(${model.state})</small>`}</span></label>
          ${(model.versions?.length ?? 1) > 1 && html`<div class="versions">${model.versions.filter(version => version !== model.version).map(version => html`<label
            class="check" key=${version}>
            <input type="checkbox" checked=${ids.includes(idOf(model.name, version))} onChange=${() => toggle(idOf(model.name, version))} /> <span>
              <span class="hidden">${model.name} </span>version ${version}</span></label>`)}</div>`}
        </div>`)}</fieldset>`)}
      ${!matching.length && html`<p>No model has this in its name or description.</p>`}
    </div>
    ${ids.length > 0 && html`<button type="button" onClick=${() => choose([])}>Remove all</button>`}
  </section>`;
}

/** The samples: a line for each model, which appears when it arrives. At most two models work at once. */
function Grid({ models, ids, seed, n, klass, remove }) {
  const [states, set] = useState({}), kept = useRef(new Map()), [again, repeat] = useState(0), [shown, show] = useParam("open");
  const [, openId, openPlace] = shown.match(/^(.+):(\d+)$/) ?? [], open = ids.includes(openId) && Number(openPlace) < n ? { id: openId, place: Number(openPlace) } : null;
  const setOpen = (next, options) => show(next ? `${next.id}:${next.place}` : "", options);
  const known = id => listed(models, readId(id));
  const key = id => `${id}/${known(id)?.version}/${seed}/${n}/${klass ?? ""}`;
  const ready = ids.map(id => known(id)?.state ?? "").join();
  useEffect(() => {
    const control = new AbortController(), waiting = ids.filter(id => !kept.current.has(key(id)));
    set(Object.fromEntries(ids.map(id => [id, kept.current.get(key(id)) ?? { state: "waiting" }])));
    const put = (id, state) => { if (!control.signal.aborted) set(before => ({ ...before, [id]: state })); };
    const work = async () => {
      for (let id = waiting.shift(); id !== undefined && !control.signal.aborted; id = waiting.shift()) {
        put(id, { state: "running" });
        try {
          const done = await make(id, known(id), { seed, n, klass }, control.signal);
          kept.current.set(key(id), done);
          put(id, done);
        } catch (error) {
          if (error.name !== "AbortError") put(id, { state: "failed", error });
        }
      }
    };
    for (let i = 0; i < AT_ONCE; i += 1) work();
    return () => control.abort();
  }, [ids.join(), String(seed), n, klass, again, ready]);
  const running = ids.filter(id => ["waiting", "running"].includes(states[id]?.state)).length;
  return html`<p role="status" class="quiet">${running ? `${ids.length - running} of ${ids.length} models are done.`
    : `Seed ${seed}: items 1 to ${n} of each model.`}</p>
    ${shown && !open && html`<${Failure} error=${{ message: `“${shown}” is not one of these items, so none is opened.`, advice: `Click an item below. Valid: the name of a model and
      an index from 0 to ${n - 1}, such as ${ids[0]}:0.` }} />`}
    <div class="matrix" tabindex="0" role="region" aria-label="Samples by model">
      ${ids.map(id => html`<${Line} key=${id} id=${id} state=${states[id] ?? { state: "waiting" }} klass=${klass}
        retry=${() => repeat(again + 1)} remove=${() => remove(id)} open=${place => setOpen({ id, place }, { push: true })} />`)}
    </div>
    ${open && states[open.id]?.outputs?.some(output => output.picture) && html`<${Large} ...${open} states=${states} ids=${ids} seed=${seed} klass=${klass}
      move=${setOpen} close=${() => setOpen(null)} />`}`;
}

/** Generate the items of one model: {state: "done", model, outputs, classes, ms}. */
async function make(id, known, { seed, n, klass }, signal) {
  const { name, version } = readId(id);
  const model = known ?? await described([], { name, version }).catch(error => { throw Object.assign(error, error.status === 404
    && { advice: "Remove it, or choose another model." }); });
  if (!supports(model, "sample")) throw Object.assign(new Error(`${name} does not generate items.`), { advice: "Remove it, or choose another model." });
  const takes = klass !== undefined && (model.classes ?? []).includes(klass), start = performance.now();
  const made = await sample(model, { seed, n, ...(takes && { class: klass }) }, signal);
  return { state: "done", model, takes, outputs: made.outputs, classes: made.classes, ms: performance.now() - start };
}

/** One model of the grid: its name, its state, and its items. */
function Line({ id, state, klass, retry, remove, open }) {
  const { name, version } = readId(id), { model } = state;
  const texts = { waiting: "waiting", running: "works…", failed: "failed", done: state.ms && `${Math.max(1, Math.round(state.ms))} ms` };
  return html`<section class="line" aria-label=${id}>
    <div class="head"><a href=${href({ model: name, version })}>${name}</a>${version && html` <span class="tag">version ${version}</span>`}
      <button type="button" class="plain" aria-label=${`Remove ${id}`} title="Remove" onClick=${remove}>✕</button>
      <small>${model?.family}${model ? " · " : ""}${texts[state.state]}${state.state === "done" && klass !== undefined && !state.takes
        ? html`<br />has no class “${klass}”` : ""}</small></div>
    <div class="items">${state.state === "failed" ? html`<${Failure} error=${state.error} retry=${retry} />`
      : state.state === "done" ? state.outputs.map(output => html`${output.role && html`<small>${output.role}</small>`}${output.picture
        ? html`<div class="strip">${output.items.map((src, i) => html`<button type="button" class="plain picture"
          key=${i} onClick=${() => open(i)} title=${`item ${i + 1}${state.classes ? `, class ${classText(state.classes[i])}` : ""}`}>
            <img class="pixels" src=${src} width="64" height="64" alt=${`${id}, item ${i + 1}`} /></button>`)}</div>`
        : html`<${Records} items=${output.items} caption=${`Items of ${id}`} most=${8} />`}`)
      : html`<span class="blank-line" aria-hidden="true"></span>`}</div>
  </section>`;
}

const classText = value => (value && typeof value === "object" ? Object.entries(value).map(([name, weight]) => `${name} ${weight}`).join(", ") : String(value ?? "none"));

/** One item in large, beside the same item of the other models. The arrow keys move to other items and models. */
function Large({ id, place, states, ids, seed, klass, move, close }) {
  const state = states[id], output = state.outputs.find(each => each.picture), count = output.items.length;
  const shown = ids.filter(each => states[each]?.state === "done" && states[each].outputs.some(one => one.picture));
  const step = (by, models = 0) => move({ id: shown[(shown.indexOf(id) + models + shown.length) % shown.length], place: Math.min(count - 1, Math.max(0, place + by)) });
  const key = event => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way) return;
    event.preventDefault();
    step(...way);
  };
  useEffect(() => {
    addEventListener("keydown", key);
    return () => removeEventListener("keydown", key);
  });
  const { name, version } = readId(id);
  const link = href({ model: name, version, view: "sample", seed, first: place || null, n: 1, class: state.takes ? klass : null });
  return html`<${Dialog} title=${`${id}, item ${place + 1}`} close=${close}><div class="large">
    <img class="pixels" src=${output.items[place]} alt=${`${id}, seed ${seed}, item ${place + 1}`} width="336" height="336" />
    <div><dl class="facts"><dt>Model</dt><dd>${id}</dd><dt>Seed</dt><dd>${String(seed)}</dd><dt>Index</dt><dd>${place} (from 0)</dd>${state.classes && html`<dt>Class</dt>
      <dd>${classText(state.classes[place])}</dd>`}</dl>
      <p><button type="button" disabled=${place === 0} onClick=${() => step(-1)}>Previous item</button> <button type="button"
        disabled=${place === count - 1} onClick=${() => step(1)}>Next item</button></p>
      <p><button type="button" onClick=${() => save(blobOf(output.items[place]), `${name}${version ? `-v${version}` : ""}-${seed}-${place}.png`)}>Download PNG</button>
        <${Copy} text=${location.href} label="Copy link" /></p>
      <p><a href=${link} onClick=${close}>Open in ${name}</a></p></div>
    ${shown.length > 1 && html`<div class="strip" role="group" aria-label="The same item of each model">${shown.map(each => html`<span class="tile" key=${each}>
      <button type="button" class="plain picture" aria-pressed=${each === id} onClick=${() => move({ id: each, place })}>
      <img class="pixels" src=${states[each].outputs.find(one => one.picture).items[place]} alt=${`${each}, item ${place + 1}`} width="84" height="84" /></button>
        <small>${each}</small></span>`)}</div>`}
  </div><//>`;
}
