// ItemChooser: choose an item from examples, by drawing, from a file, from a seed, or by filling in a form; and ItemCard, which shows the chosen one.
import { html, useState } from "./preact.js";
import { classesOf } from "./conditions.js";
import { DrawArea } from "./draw.js";
import { examplesOf, fromFile, generate, writeItem } from "./items.js";
import { makesPictures, nouns, pictureType, supports, useModels } from "./models.js";
import { brief, randomSeed, readSeed } from "./numbers.js";
import { isEmpty, isNumeric, readCell, readRecords } from "./records.js";
import { Busy, Choice, Drop, Failure, Field, Progress, Select } from "./ui.js";
import { base64 } from "./files.js";
import { useLoaded, useTask } from "./tasks.js";

const GENERATED = 16;

/**
 * Choose an item. `chosen` is what useItem returned. `reads` says whether the model reads given items; if not, only generated ones can be chosen.
 * `label` names the item, such as "Start". `empty` allows records with empty fields.
 */
export function ItemChooser({ model, chosen, label, reads = true, empty = false, done }) {
  const pictures = makesPictures(model), { spec, item } = chosen;
  const ways = [...(reads ? [["examples", "Examples"], ...(pictures ? [["draw", "Draw"], ["file", "File"]] : [["form", "Form"], ["file", "Paste or file"]])] : []),
    ...(supports(model, "sample") ? [["seed", "Generate"]] : [])];
  const [picked, pick] = useState(null), start = { test: "examples", seed: "seed" }[spec?.from] ?? (item?.file ? "file" : pictures ? "draw" : "form");
  const way = [picked, start].find(each => ways.some(([name]) => name === each)) ?? ways[0][0];
  return html`<div class="item-chooser">
    ${ways.length > 1 && html`<${Choice} label=${`${label}: where it comes from`} value=${way} set=${pick} options=${ways} />`}
    ${way === "examples" && html`<${Examples} model=${model} chosen=${chosen} done=${done} />`}
    ${way === "draw" && html`<${Drawing} model=${model} chosen=${chosen} label=${label} />`}
    ${way === "file" && (pictures ? html`<${PictureFile} chosen=${chosen} type=${pictureType(model.data)} />` : html`<${RecordFile} model=${model} chosen=${chosen} />`)}
    ${way === "form" && html`<${RecordForm} model=${model} chosen=${chosen} empty=${empty} />`}
    ${way === "seed" && html`<${Generated} model=${model} chosen=${chosen} done=${done} />`}
  </div>`;
}

/** Buttons with a picture or a name, of which one is chosen. */
const Buttons = ({ items, label, isChosen, choose }) => html`<div class="latent-examples" role="group" aria-label=${label}>
  ${items.map((each, i) => html`<button type="button" key=${i} aria-pressed=${isChosen(i)} aria-label=${each.name} title=${each.name} onClick=${() => choose(i)}>
    ${each.src ? html`<img class="pixels" src=${each.src} alt="" width="44" height="44" />` : each.name}</button>`)}</div>`;

function Examples({ model, chosen, done }) {
  const { models } = useModels();
  const [examples, task] = useLoaded(signal => examplesOf(model, models, signal), [model.name, model.version]);
  if (!examples) return html`<${Progress} task=${task} text="Loading examples…" />`;
  const { spec } = chosen;
  return html`<${Buttons} items=${examples.items} label=${`Examples: ${examples.what}`} isChosen=${i => spec?.from === "test" && spec.index === i}
    choose=${i => { chosen.choose(`test:${i}`); done?.(); }} />
    <small class="quiet">These are ${examples.what}.</small>`;
}

/** A drawing starts blank, or from the chosen item, and is kept in this tab. */
function Drawing({ model, chosen, label }) {
  const { item, spec } = chosen, [from, setFrom] = useState(spec?.from === "own" && item && !item.file ? item.src : null);
  const draw = (src, isNew) => chosen.setOwn({ src, content: base64(src), name: "Drawing", exact: true }, isNew);
  return html`<${DrawArea} data=${model.data} value=${from} onDraw=${draw} label=${`${label}: drawing`} />
    <p>${item?.exact && html`<button type="button" onClick=${() => setFrom(item.src)}>Draw on the chosen ${nouns(model).one}</button>`}
      <small class="quiet"> Drawings stay in this tab: reload and back keep them, closing the tab removes them.</small></p>`;
}

function PictureFile({ chosen, type }) {
  const task = useTask(), take = ([file]) => task.run(async () => chosen.setOwn(await fromFile(file), true));
  const { item } = chosen;
  return html`<${Drop} take=${take} accept=${type.replace(/\/.*/, "/*")} label="Choose a file, or drop one here"><p
    class="quiet">A copied picture can be pasted: select this button and press Ctrl+V.
      Files are sent to this service only, and stay in this tab.</p><//>
    ${task.error && html`<${Failure} error=${task.error} />`}
    ${item?.file && item.kept === false && html`<p class="note">This file is too large to survive a reload of the page: open it again then.</p>`}`;
}

/** A file or a text with records. */
function RecordFile({ model, chosen }) {
  const [text, set] = useState(""), task = useTask(), { many } = nouns(model);
  const use = given => task.run(async () => { const all = readRecords(given,
    model.data.columns); chosen.setOwn({ all, place: 0, content: all[0], name: all.length > 1 ? `${all.length} ${many}` : "Your record" }, true); });
  return html`<${Field} label="Records as JSON, or as CSV with a first line of names" wide><textarea rows="5" value=${text}
    onInput=${event => set(event.target.value)} /><//>
    <div class="controls"><button type="button" class="main" disabled=${!text.trim()} onClick=${() => use(text)}>Use these ${many}</button>
      <${Drop} take=${([file]) => file.text().then(use)} accept=".csv,.json,text/csv,application/json" label="Choose a CSV or JSON file, or drop one here" /></div>
    ${task.error && html`<${Failure} error=${task.error} />`}`;
}

/** A form with a field for each column. */
function RecordForm({ model, chosen, empty }) {
  const { item } = chosen, record = item?.content;
  if (!record) return html`<${Progress} task=${chosen.task} text="Loading…" />`;
  const put = (column, text) => {
    const content = { ...record, [column.name]: readCell(column, text) };
    const all = chosen.spec.from === "own" && item.all ? item.all.map((each, i) => (i === item.place ? content : each)) : [content];
    chosen.setOwn({ ...item, all, place: all.length > 1 ? item.place : 0, content, chosen: undefined, name: all.length > 1 ? item.name : "Your record" }, false);
  };
  return html`<form class="record-form" onSubmit=${event => event.preventDefault()}>${model.data.columns.map(column => {
    const value = record[column.name], text = isEmpty(value) ? "" : String(value);
    return html`<${Field} key=${column.name} label=${column.name}>${isNumeric(column)
      ? html`<input type="number" step="any" value=${text} placeholder=${empty ? "empty" : ""}
        title=${`Numbers in the training data: ${brief(column.minimum)} to ${brief(column.maximum)}${column.unit ? ` ${column.unit}` : ""}`}
          onChange=${event => put(column, event.target.value)} />`
      : html`<${Select} value=${text} set=${each => put(column, each)}
        options=${[["", "– empty –"], ...column.categories, ...(text && !column.categories.map(String).includes(text) ? [text] : [])]} />`}<//>`;
  })}</form>`;
}

/** Items that a seed generates. */
function Generated({ model, chosen, done }) {
  const { spec, item } = chosen, classes = supports(model, "sample") ? classesOf(model) : null;
  const [state, set] = useState({ seed: spec?.from === "seed" ? String(spec.seed) : "1",
    chosen: spec?.from === "seed" && classes?.includes(spec.chosen) ? spec.chosen : "" });
  const seed = readSeed(state.seed);
  const [items, task] = useLoaded(async signal => (seed === null ? [] : generate(model, { seed, n: GENERATED, chosen: state.chosen || undefined }, signal)),
    [model.name, model.version, state.seed, state.chosen]);
  const choose = i => { chosen.choose(writeItem({ from: "seed", seed, index: i, chosen: state.chosen || items[i].chosen })); done?.(); };
  return html`<div class="controls">
      <${Field} label="Seed"><input inputmode="numeric" value=${state.seed} onChange=${event => set({ ...state, seed: event.target.value })} /><//>
      <button type="button" onClick=${() => set({ ...state, seed: String(randomSeed()) })}>New seed</button>
      ${classes && html`<${Field} label="Class"><${Select} value=${state.chosen} set=${each => set({ ...state, chosen: each })}
        options=${[["", "any"], ...classes]} /><//>`}
    </div>
    ${seed === null ? html`<p class="failure" role="alert">A seed is a whole number from 0 to 9223372036854775807. Enter one, or press “New seed”.</p>`
    : items ? html`<${Buttons} items=${items} label=${`Items of seed ${seed}`}
      isChosen=${i => spec?.from === "seed" && spec.seed === seed && spec.index === i && Boolean(item)} choose=${choose} />`
    : html`<${Progress} task=${task} text="Generating…" />`}`;
}

/** The chosen item: its picture or name. Files can be dropped on it. */
export function ItemCard({ model, chosen, label, size = 112, reads = true, children }) {
  const { item, task } = chosen, [over, set] = useState(false), opening = useTask();
  const drop = event => {
    event.preventDefault();
    set(false);
    const [file] = event.dataTransfer.files;
    if (file && reads && makesPictures(model)) opening.run(async () => chosen.setOwn(await fromFile(file), true));
  };
  return html`<div class=${over ? "item-card over" : "item-card"} onDragOver=${event => { event.preventDefault(); set(true); }} onDragLeave=${() => set(false)}
    onDrop=${drop}>
    <h2>${label}</h2>
    ${item?.src ? html`<img class="pixels" src=${item.src} alt=${`${label}: ${item.name}`} width=${size}
      />` : item ? html`<p>${item.name}</p>` : task.error ? html`<div><${Failure} error=${task.error} retry=${task.error.type === "item" ? undefined : task.retry}
        /></div>` : html`<${Busy} task=${task} text="Loading…" />`}
    ${item?.src && html`<small class="quiet">${item.name}</small>`}
    ${opening.error && html`<${Failure} error=${opening.error} />`}
    ${children}
  </div>`;
}
