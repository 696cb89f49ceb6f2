// One scored item in a dialog: its decision, the terms of its score, the reasons, and the nearest normal items.
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { brief } from "../lib/numbers.js";
import { nouns, pictureType } from "../lib/models.js";
import { Dialog, Progress, Slider } from "../lib/ui.js";
import { Band } from "./anomaly-table.js";
import { capital, count, digitsOf, isExpected, percent, reasonText, shown } from "./anomaly-words.js";
import { explain, isOpen } from "./anomaly-request.js";
import { loadPicture } from "../lib/files.js";
import { useTask } from "../lib/tasks.js";

const MOST = 2000;  // rank up to which items of a file that cannot be read here are explained

/** The dialog of score `i`. `step(by)` goes to the next item in the order of the list, if there is one. */
export function Detail({ model, manifest, source, scores, decision, i, n, fields, explains, close, step }) {
  const task = useTask(), [, redraw] = useState(0), explanation = scores.explanations.get(i), number = scores.numbers.place[i];
  const can = explains && (isOpen(source) || scores.rank[i] < MOST);
  useEffect(() => {
    if (can && !explanation) task.run(signal => explain(model, source, scores, [i], fields, signal).then(() => redraw(k => k + 1)));
  }, [i]);
  const item = source.items?.[number - 1], id = scores.carried.get(i)?.id, warnings = scores.warnings.get(i) ?? [], fitted = source.fitted?.[number - 1];
  const title = item ? item.name : `${capital(nouns(model).one)} ${number}${id === undefined || id === null ? "" : `: ${id}`}`;
  return html`<${Dialog} title=${title} close=${close}>
    <div class="stepper"><button type="button" disabled=${!step(-1, true)} onClick=${() => step(-1)}>← Previous</button> <button type="button"
      disabled=${!step(1, true)} onClick=${() => step(1)}>Next →</button>
      <span><${Band} band=${decision.band(i)} isAnomaly=${decision.isAnomaly(i)} /> rank ${count(scores.rank[i] + 1)} of ${count(scores.n)}, score ${brief(scores.numbers.score[i])}${Number.isNaN(scores.numbers.risk[i]) ? "" : `, risk ${scores.numbers.risk[i]}`}</span></div>
    <p>${meaning(scores, i, n)}</p>
    ${[...warnings, ...(fitted?.warnings ?? [])].map(text => html`<p class="note">${text}</p>`)}
    ${fitted?.steps.length > 0 && html`<p class="quiet">It was fitted to the model: ${fitted.steps.join(", ")}.</p>`}
    ${item && html`<${Evidence} src=${item.url} name=${item.name} map=${explanation?.map} type=${pictureType(model.data)} size=${model.data} />`}
    ${explains && !can && html`<p class="note">The cells of this file cannot be read here, so only its ${count(MOST)} most anomalous entries are explained. Save the file as CSV to explain any of them.</p>`}
    <${Progress} task=${task} text="The reasons are computed…" />
    ${explanation?.columns && html`<${Reasons} explanation=${explanation} one=${nouns(model).one} />`}
    ${explanation?.neighbours?.length > 0 && html`<${Neighbours} explanation=${explanation} item=${item} model=${model} />`}
    <${Parts} scores=${scores} i=${i} terms=${manifest?.scoring?.terms ?? []} combined=${manifest?.scoring} />
    ${source.sheet && html`<${Record} source=${source} number=${number} model=${model} open=${!explains} />`}
    ${!explains && html`<p class="quiet">The score of this model is one number without parts for single values, so it cannot be explained further.</p>`}
  <//>`;
}

/** The p-value in words. */
function meaning(scores, i, n) {
  const p = scores.numbers.p[i];
  if (Number.isNaN(p)) return "This model has no calibration, so the score only ranks items.";
  if (scores.states[i] === "below_resolution" || p <= 1 / (n + 1)) return `p-value ≤ ${brief(p, 2)}: the score is higher than those of all ${count(n)} normal items of the calibration.`;
  if (p > 0.5) return `p-value ${brief(p, 2)}: ${percent(p)} of normal items have a score at least as high.`;
  return `p-value ${brief(p, 2)}: about 1 of ${count(Number((1 / p).toPrecision(2)))} normal items has a score at least as high.`;
}

/** The reasons of a record by column, with its share of what is unusual. */
function Reasons({ explanation, one }) {
  const [all, set] = useState(false), { columns, latent_share: latent, neighbours } = explanation;
  const near = neighbours?.[0]?.[one], few = columns.filter(reason => reason.share >= 0.005).slice(0, 8), list = all ? columns : few.length ? few : columns.slice(0, 3);
  const first = columns[0];
  return html`<section><h3>Why</h3>
    ${first?.share ? html`<p>The main reason: <strong>${reasonText(first)}</strong> (${percent(first.share)} of what is unusual).</p>`
      : html`<p>No single value is unusual.</p>`}
    <div class="scroll" tabindex="0" role="region" aria-label="Reasons by column"><table class="reasons"><caption class="hidden">Reasons by column</caption>
      <thead><tr><th scope="col">Column</th><th scope="col">Value</th>
        <th scope="col" title="What the other columns predict; computed for the most unusual columns">Expected</th>
        ${near && html`<th scope="col" title="The same column of the most similar normal item">Nearest normal</th>`}<th scope="col">Share of what is unusual</th>
          <th scope="col" class="number" title="−log p of the value, above its usual size">Excess, nats</th></tr></thead>
      <tbody>${list.map(reason => html`<tr key=${reason.column}><th scope=row>${reason.column}</th><td><b>${shown(reason.value, digitsOf(reason))}</b>
        ${reason.direction && !isExpected(reason) ? html` <small>${reason.direction}</small>` : ""}</td>
        <td>${reason.expected === null || reason.expected === undefined ? "" : shown(reason.expected, digitsOf(reason))}</td>${near && html`<td>${shown(near[reason.column])}</td>`}<td>
          <${Share} value=${reason.share} /></td><td class="number">${brief(reason.excess, 3)}</td></tr>`)}
      ${latent !== null && latent !== undefined && html`<tr><th scope=row>the combination <small>(unusual position in the latent space)</small></th><td></td><td></td>
        ${near && html`<td></td>`}<td><${Share} value=${latent} /></td><td></td></tr>`}</tbody></table></div>
    ${columns.length > list.length && html`<p><button type="button" onClick=${() => set(true)}>Show all ${columns.length} columns</button></p>`}
  </section>`;
}

const Share = ({ value }) => html`<span class="share"><span class="bar" style=${{ width: `${Math.max(0, Math.min(100, 100 * (value ?? 0)))}%` }}></span><span>
  ${value === null ? "–" : percent(value)}</span></span>`;

/** The nearest normal items: pictures, or records whose differences are emphasised. */
function Neighbours({ explanation, item, model }) {
  const { neighbours, columns } = explanation, type = pictureType(model.data), { one } = nouns(model);
  if (item) {
    return html`<section><h3>Nearest normal items</h3><p class="quiet">The most similar training items that the model keeps, with their distances.</p>
      <div class="strip"><figure class="tile"><img class="pixels" src=${item.url} alt="This item" width="64" /><small>this item</small></figure>
      ${neighbours.map((near, k) => html`<figure class="tile"><img class="pixels" src=${`data:${type};base64,${near[one]}`} alt=${`Normal item ${k + 1}`} width="64" />
        <small>${brief(near.distance, 3)}</small></figure>`)}</div></section>`;
  }
  const value = Object.fromEntries((columns ?? []).map(reason => [reason.column, reason.value])),
    specs = new Map(model.data.columns.map(column => [column.name, column]));
  const names = columns ? columns.map(reason => reason.column) : Object.keys(neighbours[0][one]);
  const differs = (name, other) => {
    const mine = value[name], scale = specs.get(name)?.scale, log = specs.get(name)?.transform === "log1p",
      of = each => (log ? Math.sign(each) * Math.log1p(Math.abs(each)) : each);
    if (mine === null || mine === undefined) return false;
    if (scale && typeof other === "number" && mine !== "" && Number.isFinite(Number(mine))) return Math.abs(of(Number(mine)) - of(other)) > scale;
    return String(mine) !== String(other);
  };
  const different = names.filter(name => differs(name, neighbours[0][one][name])).length;
  return html`<section><h3>Nearest normal items</h3>
    <p class="quiet">The most similar training items that the model keeps. Values marked ≠ differ from this one by more than a standard deviation, or are another category: ${different} of ${names.length} for the nearest one.</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Nearest normal items"><table class="nearest">
      <caption class="hidden">Nearest normal items, by column</caption>
      <thead><tr><th scope="col">Column</th><th scope="col">This one</th>${neighbours.map((near, k) => html`<th scope="col">
        ${k + 1}. <small>distance ${brief(near.distance, 3)}</small></th>`)}</tr></thead>
      <tbody>${names.map(name => html`<tr key=${name}><th scope=row>${name}</th><td><b>${shown(value[name])}</b></td>
        ${neighbours.map(near => (differs(name, near[one][name]) ? html`<td class="differs">≠ ${shown(near[one][name])}</td>` : html`<td>
          ${shown(near[one][name])}</td>`))}</tr>`)}</tbody></table></div></section>`;
}

/** The terms of the score with their p-values. */
function Parts({ scores, i, terms, combined }) {
  const used = new Set(combined?.combination?.terms ?? []),
    told = name => terms.find(term => term.name === name)?.description ?? (name === combined?.score ? "the combination of the terms marked •" : "");
  return html`<section><h3>Terms of the score</h3>
    <div class="scroll" tabindex="0" role="region" aria-label="Terms of the score"><table><caption class="hidden">Terms of the score</caption>
      <thead><tr><th scope="col">Term</th><th scope="col" class="number">Value</th><th scope="col" class="number">p-value</th><th scope="col">Meaning</th></tr></thead>
      <tbody>${scores.partsOf(i).map(part => html`<tr key=${part.name} class=${part.name === combined?.score ? "total" : ""}><th scope=row>
        ${part.name.replaceAll("_", " ")}${used.has(part.name) ? html` <span title="part of the score">•</span>` : ""}${part.name === combined?.score
        ? html` <small>(the score)</small>` : ""}</th>
        <td class="number">${brief(part.value)}</td><td class="number">${Number.isNaN(part.p) ? "–" : brief(part.p, 2)}</td><td class="wrap">${told(part.name)}</td>
          </tr>`)}</tbody></table></div></section>`;
}

/** All cells of a record, as the file has them. */
function Record({ source, number, model, open }) {
  const cells = source.sheet.cells(number - 1), known = new Set(model.data.columns.map(column => column.name));
  return html`<details open=${open}><summary>All columns of the file</summary><dl class="facts">${source.sheet.header.map((name, place) => html`<dt>
    ${name || "(no name)"}${known.has(name) ? "" : html` <small>not used</small>`}</dt><dd>${cells[place] ?? ""}</dd>`)}</dl></details>`;
}

/** A picture, its heat map, and both on top of each other. */
function Evidence({ src, name, map, type, size }) {
  const [strength, set] = useState(0.7), canvas = useRef(null), heat = useRef(null), [same, know] = useState(true);
  useEffect(() => {
    let current = true;
    Promise.all([loadPicture(src), map ? loadPicture(`data:${type};base64,${map}`) : null]).then(([picture, nats]) => {
      if (!current) return;
      know(Math.abs(picture.naturalWidth / picture.naturalHeight - size.width / size.height) < 0.02);
      draw(canvas.current, heat.current, picture, nats, strength);
    }, () => current && know(false));
    return () => { current = false; };
  }, [src, map, strength]);
  return html`<section><h3>Where</h3><div class="strip evidence">
    <figure class="tile"><img class="pixels" src=${src} alt=${name} width="168" /><small>as given</small></figure>
    ${map && html`<figure class="tile"><canvas ref=${heat} class="pixels" role="img" aria-label="Heat map of the item"></canvas><small>heat map</small></figure>
      <figure class="tile" hidden=${!same}><canvas ref=${canvas} class="pixels" role="img" aria-label="Heat map over the item"></canvas><small>both</small>
        </figure>`}</div>
    ${map ? html`<p class="quiet">The brightest pixels are at least as unusual as the most unusual 0.1% of the pixels of normal items.</p>${same
      && html`<div class="anomaly-heat"><${Slider} label="Strength of the heat map" min="0" max="1" step="0.05" value=${strength} set=${set} /></div>`}` : ""}</section>`;
}

/** Draw the heat map alone, and over the picture. Both are as large as the model's items. */
function draw(canvas, heat, picture, nats, strength) {
  if (!canvas || !heat || !nats) return;
  const width = nats.naturalWidth, height = nats.naturalHeight, buffer = Object.assign(document.createElement("canvas"), { width, height }),
    context = buffer.getContext("2d");
  context.drawImage(nats, 0, 0);
  const pixels = context.getImageData(0, 0, width, height), tint = context.createImageData(width, height);
  for (let i = 0; i < pixels.data.length; i += 4) {
    const value = pixels.data[i] / 255, [r, g, b] = [Math.min(1, 3 * value), Math.min(1, Math.max(0, 3 * value - 1)), Math.max(0,
      3 * value - 2)];  // black, red, yellow, white
    pixels.data.set([255 * r, 255 * g, 255 * b, 255], i);
    tint.data.set([255, 60, 20, 255 * value * strength], i);
  }
  Object.assign(heat, { width, height });
  heat.getContext("2d").putImageData(pixels, 0, 0);
  context.putImageData(tint, 0, 0);
  Object.assign(canvas, { width, height });
  const over = canvas.getContext("2d");
  over.imageSmoothingEnabled = false;
  over.drawImage(picture, 0, 0, width, height);
  over.drawImage(buffer, 0, 0);
}
