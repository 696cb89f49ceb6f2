// What a model makes of records: filled-in fields, reconstruction by column, classes, and the same record in another class.
import { html, useState } from "../lib/preact.js";
import { useParam } from "../lib/address.js";
import { postJson } from "../lib/api.js";
import { classesOf, classify, conditionFields } from "../lib/conditions.js";
import { useKept } from "../lib/items.js";
import { outputsOf } from "../lib/made.js";
import { nouns, supports } from "../lib/models.js";
import { brief, randomSeed, readSeed } from "../lib/numbers.js";
import { differs, isEmpty, isNumeric } from "../lib/records.js";
import { DataTable, Field, Progress, Select } from "../lib/ui.js";
import { Bars } from "../lib/plots.js";
import { Latent } from "./edit-latent.js";
import { ProbabilityBars, itemFields, ruleOf } from "./edit-picture.js";

const MOST = 200;  // records whose errors are listed

export function RecordEditor(shared) {
  const { model, chosen } = shared, { item, content, complete } = chosen, noun = nouns(model), can = endpoint => supports(model, endpoint);
  const gaps = content ? model.data.columns.filter(column => isEmpty(content[column.name])) : [];
  return html`<div>
    ${item?.all?.length > 1 && html`<${Several} ...${shared} />`}
    ${can("impute") && html`<${FillFields} ...${shared} gaps=${gaps} />`}
    ${content && !complete && html`<p class="note">The other results need a value in every column. Empty: ${gaps.map(column => column.name).slice(0,
      12).join(", ")}${gaps.length > 12 ? ", …" : ""}.</p>`}
    ${complete && html`${can("classify") && html`<${ClassOf} ...${shared} />`}
      ${can("reconstruct") && html`<${ReconstructRecord} ...${shared} />`}
      ${can("reconstruct") && shared.facts.targets && html`<${ClassRecord} ...${shared} />`}`}
    ${!content && !chosen.task.error && html`<p role="status">Loading the ${noun.one}…</p>`}
  </div>`;
}

/** All records that were pasted, with the error of each: a click chooses one. */
function Several({ model, chosen }) {
  const { item, name } = chosen, all = item.all.slice(0, MOST), { many, one } = nouns(model);
  const whole = all.every(record => model.data.columns.every(column => !isEmpty(record[column.name]))), columns = model.data.columns.slice(0, 6);
  const [made, task] = useKept(async signal => {
    if (!whole || !supports(model, "reconstruct") || (model.classes && !name)) return { errors: null };
    const classes = chosen.name && supports(model, "classify") ? (await classify(model, all, { signal })).items.map(each => each.class) : null;
    const { errors } = await postJson("reconstruct", { ...itemFields(model, chosen), [many]: all, ...(classes && conditionFields(model, classes)) }, { signal });
    return { errors, classes };
  }, [model.name, JSON.stringify(all), whole]);
  const list = all.map((record, i) => ({ record, place: i, error: made?.errors?.[i], found: made?.classes?.[i] }));
  const pick = place => chosen.setOwn({ ...item, place, content: item.all[place], chosen: undefined }, false);
  return html`<section class="edit-section" aria-labelledby="several"><h2 id="several">${item.all.length} ${many}</h2>
    <p>Choose the ${one} that is shown below.${item.all.length > MOST ? ` The first ${MOST} are listed.` : ""}</p>
    <${DataTable} caption=${`The ${many}`} rows=${list} keyOf=${each => each.place} rowClass=${each => (each.place === item.place ? "now" : "")} columns=${[
      { name: "place", title: "number", numeric: true, value: each => each.place + 1,
        cell: each => html`<button type="button" aria-pressed=${each.place === item.place} onClick=${() => pick(each.place)}>${each.place + 1}</button>` },
      ...(made?.errors ? [{ name: "error", title: "error", numeric: true, hint: "Mean squared error of the reconstruction, of scaled columns" }] : []),
        ...(made?.classes ? [{ name: "found", title: "class" }] : []),
      ...columns.map(column => ({ name: `c-${column.name}`, title: column.name, numeric: isNumeric(column), value: each => each.record[column.name] }))]} />
    <${Progress} task=${task} text="The errors are computed…" /></section>`;
}

/** Fields that are empty are filled in, with the probabilities of categories. */
function FillFields({ model, chosen, given, gaps }) {
  const { content, item } = chosen, [seedText, setSeed] = useParam("seed", ""), seed = seedText === "" ? undefined : readSeed(seedText), { one, many } = nouns(model);
  const names = gaps.map(column => column.name);
  const [made, task, old] = useKept(async signal => {
    if (!content || !names.length || seed === null) return { filled: null };
    const answer = await postJson("impute", { model: model.name, version: model.version, [many]: [content], ...(seed !== undefined && { seed }),
      ...conditionFields(model, chosen.spec?.chosen ?? null, given) }, { signal });
    return { filled: outputsOf(model, answer)[0].items[0], probabilities: answer.probabilities?.[0] ?? {}, names };
  }, [model.name, content, seedText, chosen.spec?.chosen, JSON.stringify(given)]);
  const clear = some => chosen.setOwn({ ...item, content: { ...content, ...Object.fromEntries(some.map(column => [column.name, null])) }, all: undefined,
    chosen: undefined, name: `Your ${one}` }, false);
  const accept = () => chosen.setOwn({ ...item, content: made.filled, all: undefined, chosen: undefined, name: `Filled-in ${one}` }, true);
  const half = model.data.columns.filter((_, i) => i % 4 === 1);
  return html`<section aria-labelledby="fill" class=${old ? "edit-section old" : "edit-section"} aria-busy=${old}><h2 id="fill">Fill in empty fields</h2>
    <p>Empty some fields in the form: the model says what it expects there.</p>
    <div class="controls">
      <${Field} label="Empty a field"><${Select} key=${names.join()} value="" set=${name => name && clear(model.data.columns.filter(column => column.name === name))}
        options=${[["", "choose a column"], ...model.data.columns.map(column => column.name)]} /><//>
      <button type="button" disabled=${!content} onClick=${() => clear(half)}>Empty every fourth field</button>
      <${Field} label="Seed"><input inputmode="numeric" value=${seedText} placeholder="none"
        title="Without a seed, numbers are expected values and categories the most probable ones. With a seed, all are drawn."
          onChange=${event => setSeed(event.target.value.trim())} /><//>
      <button type="button" onClick=${() => setSeed(String(randomSeed()))}>Draw with a new seed</button>
      ${made?.filled && names.length > 0 && html`<button type="button" class="main" onClick=${accept}>Use the filled-in ${one}</button>`}
    </div>
    ${seed === null && html`<p class="failure" role="alert">A seed is a whole number from 0 to 9223372036854775807. Enter one, or leave the field empty.</p>`}
    ${names.length > 0 && made?.filled && html`<div class="scroll" tabindex="0" role="region" aria-label="Filled-in values"><table><caption
      class="hidden">Filled-in values</caption>
      <thead><tr><th scope="col">column</th><th scope="col">filled in</th><th scope="col">probabilities</th></tr></thead>
      <tbody>${made.names.map(name => html`<tr key=${name}><th scope=row>${name}</th><td><strong>${brief(made.filled[name])}</strong></td><td>${made.probabilities[name]
        ? html`<${Bars} label=${`Probabilities of ${name}`} high=${1}
          items=${Object.entries(made.probabilities[name]).sort((a, b) => b[1] - a[1]).slice(0,
            4).map(([each, value]) => ({ name: each, value, text: `${(100 * value).toFixed(1)}%`, mark: each === String(made.filled[name]) }))} />`
        : seed === undefined ? "expected value" : "drawn"}</td></tr>`)}</tbody></table></div>`}
    <${Progress} task=${task} text="The model fills in…" /></section>`;
}

function ClassOf({ model, chosen }) {
  const [made, task, old] = useKept(async signal => classify(model, [chosen.content], { signal }), [model.name, chosen.content]);
  return html`<section aria-labelledby="probabilities" class=${old ? "edit-section old" : "edit-section"} aria-busy=${old}><h2 id="probabilities">Which class?</h2>
    ${made && html`<${ProbabilityBars} item=${made.items[0]} /><p class="quiet"><small>${ruleOf(made.classification)}</small></p>`}
    <${Progress} task=${task} text="The model classifies…" /></section>`;
}

/** The record and its reconstruction, column by column; the columns that differ come first. */
function ReconstructRecord({ model, facts, chosen, given, target }) {
  const { content, name, ready } = chosen;
  const [made, task, old] = useKept(async signal => {
    if (!ready) return null;
    const fields = itemFields(model, chosen, given);
    const [answer, encoded] = await Promise.all([postJson("reconstruct", { ...fields, ...conditionFields(model, null, target, "target_") }, { signal }),
      supports(model, "encode") ? postJson("encode", fields, { signal }) : null]);
    return { back: outputsOf(model, answer)[0].items[0], error: answer.errors[0], encoded, content };
  }, [model.name, content, name, JSON.stringify(given), JSON.stringify(target), ready]);
  if (!made) return html`<${Progress} task=${task} text="The model reconstructs…" />`;
  const lines = model.data.columns.map((column, place) => {
    const before = made.content[column.name], after = made.back[column.name], changed = differs(column, before, after);
    const size = isNumeric(column) ? Math.abs(after - before) / (Math.abs(column.scale ?? 1) || 1) : Number(changed);
    return { column, place, name: column.name, before, after, changed, gap: isNumeric(column) ? after - before : null, order: (changed ? 1e6 : 0) + Math.min(size, 1e5) };
  });
  const cell = key => line => (line.changed ? html`<strong>${brief(line[key])}</strong>` : brief(line[key]));
  return html`<section aria-labelledby="reconstruction" class=${old ? "edit-section old" : "edit-section"} aria-busy=${old}><h2 id="reconstruction">Reconstruction</h2>
    <p>${lines.filter(line => line.changed).length} of ${lines.length} columns differ. <span
      title="Mean of the squared differences of the columns, each scaled to a standard deviation of 1">Mean squared error of scaled columns: ${brief(made.error,
        3)}.</span></p>
    <${DataTable} caption="Reconstruction by column" keyOf=${line => line.name} initial=${{ name: "differs", down: true }} rows=${lines} columns=${[
      { name: "name", title: "column" }, { name: "before", title: "input", numeric: false }, { name: "after", title: "reconstruction", cell: cell("after") },
      { name: "gap", title: "difference", numeric: true, cell: line => (line.changed && line.gap !== null
        ? `${line.gap > 0 ? "+" : "−"}${brief(Math.abs(line.gap))}` : "") },
      { name: "differs", title: "changed", value: line => line.order, cell: line => (line.changed ? "changed" : "") }]} />
    ${made.encoded && html`<${Latent} model=${model} manifest=${facts.manifest} encoded=${made.encoded} />`}
  </section>`;
}

/** The record decoded as each class: the columns that change. */
function ClassRecord({ model, chosen, given }) {
  const { content, name, ready } = chosen, classes = classesOf(model), [all, setAll] = useState(false);
  const [made, task, old] = useKept(async signal => {
    if (!ready) return null;
    const answer = await postJson("reconstruct", { ...itemFields(model, chosen, given), [nouns(model).many]: classes.map(() => content),
      ...conditionFields(model, classes, {}, "target_") }, { signal });
    return { items: outputsOf(model, answer)[0].items, from: name };
  }, [model.name, content, name, JSON.stringify(given), ready]);
  const base = made?.items[classes.indexOf(made.from)] ?? made?.items[0],
    varies = column => made.items.some(item => differs(column, item[column.name], base[column.name]));
  const columns = made ? model.data.columns.filter(column => all || varies(column)) : [];
  return html`<section aria-labelledby="classes" class=${old ? "edit-section old" : "edit-section"} aria-busy=${old}><h2 id="classes">Change the class</h2>
    <p>The same style in each class. Bold values with a mark (•) differ from those of class ${made?.from ?? "…"}.</p>
    ${made && html`<label class="check"><input type="checkbox" checked=${all} onChange=${event => setAll(event.target.checked)} /> Show columns that do not change</label>
      <div class="scroll" tabindex="0" role="region" aria-label="The same item in each class"><table><caption class="hidden">The same item in each class</caption>
      <thead><tr><th scope="col">column</th>${classes.map(each => html`<th scope="col" class="number">${each}${each === made.from ? " (input)" : ""}</th>`)}</tr></thead>
      <tbody>${columns.map(column => html`<tr key=${column.name}><th
        scope=row>${column.name}</th>${made.items.map((item, i) => html`<td key=${i}
          class="number">${differs(column, item[column.name], base[column.name]) ? html`<strong>• ${brief(item[column.name])}</strong>`
            : brief(item[column.name])}</td>`)}</tr>`)}</tbody></table></div>`}
    <${Progress} task=${task} text="The classes are decoded…" /></section>`;
}
