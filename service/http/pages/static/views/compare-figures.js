// The figures of several models beside each other. Only figures that were measured in the same way are on one line.
import { html } from "../lib/preact.js";
import { href } from "../lib/address.js";
import { described } from "../lib/made.js";
import { anchorOf, anchorsOf, betterOf, figuresOf, howOf, measuredBy, numberOf, valueOf, variantOf, wordsOf } from "../lib/metrics.js";
import { Progress } from "../lib/ui.js";
import { useLoaded } from "../lib/tasks.js";

/** The section below the grid. `read(id)` returns {name, version}. */
export function Figures({ models, ids, read }) {
  const [found, task] = useLoaded(async () => Promise.all(ids.map(async id => {
    try { return { id, manifest: await described(models, read(id)) }; } catch (error) { return { id, error }; }
  })), [ids.join()]);
  if (!found) return html`<${Progress} task=${task} text="Loading the figures…" />`;
  const shown = found.filter(each => each.manifest), lines = linesOf(shown);
  const several = lines.filter(line => line.cells.size > 1), single = lines.filter(line => line.cells.size === 1);
  const data = [...new Set(shown.map(each => dataOf(each.manifest)).filter(Boolean))];
  return html`<section aria-labelledby="figures"><h2 id="figures">Figures</h2>
    <p>${several.length ? "Figures on one line were measured in the same way and can be compared. “best” marks the best value of a line, if it has a direction."
      : shown.length > 1 ? "No two of these models have a figure that was measured in the same way."
        : "Choose a second model to compare its figures with those of the first."}
      ${data.length > 1 ? ` These models were trained on different data (${data.join(", ")}), so few of their figures can be compared.` : ""}</p>
    ${several.length > 0 && html`<${Table} lines=${several} models=${shown} caption="Figures that can be compared" />
      ${several.some(line => new Set(line.anchors.map(({ value }) => value)).size > 1) && html`<p class="quiet">The figures of real items compare training items with
        the same test items. They differ between these models, because the models have different training items: ${trainingOf(shown)}.</p>`}`}
    ${single.length > 0 && html`<details><summary>${single.length} figures of one model only, or measured in another way</summary>
      <${Table} lines=${single} models=${shown} caption="Figures that cannot be compared" /></details>`}
    ${found.filter(each => each.error).map(each => html`<p class="note">The figures of ${each.id} are missing: ${each.error.message}</p>`)}
  </section>`;
}

const dataOf = manifest => manifest.provenance?.data?.data ?? manifest.data_name;

/** Return the training items of models as text, such as "items 0 to 49999 of the training split (mnist-flow, mnist-vae)". */
function trainingOf(models) {
  const groups = Map.groupBy(models, ({ manifest }) => (manifest.provenance?.data?.train ?? "unknown").replace("training part", "training split"));
  return [...groups].map(([items, members]) => `${items} (${members.map(({ id }) => id).join(", ")})`).join("; ");
}

/** Return the lines of the table: {name, key, cells: Map(id → figures), anchors} with the anchor of each model. */
function linesOf(models) {
  const lines = new Map();
  for (const { id, manifest } of models) {
    const anchors = anchorsOf(manifest.metrics ?? []);
    for (const figure of figuresOf(manifest.metrics ?? [])) {
      const key = `${figure.name}|${measuredBy(figure, dataOf(manifest), manifest.provenance?.data?.train)}`;
      if (!lines.has(key)) lines.set(key, { key, name: figure.name, cells: new Map(), anchors: [], figure });
      const line = lines.get(key), anchor = anchorOf(figure.name, figure.protocol?.by === "evaluation" ? anchors : figure.protocol?.anchors);
      line.cells.set(id, [...(line.cells.get(id) ?? []), figure]);
      if (anchor) line.anchors.push(anchor);
    }
  }
  const order = line => ["evaluation", "manifold fit", undefined].indexOf(line.figure.protocol?.by);
  return [...lines.values()].sort((a, b) => (order(a) + 9) % 9 - (order(b) + 9) % 9);
}

function Table({ lines, models, caption }) {
  const real = lines.some(line => line.anchors.length);
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${caption}><table class="figures"><caption class="hidden">${caption}</caption>
    <thead><tr><th scope="col">Figure</th>${models.map(({ id }) => html`<th scope="col"><a href=${href({ model: id.split("@")[0], version: id.split("@")[1],
      view: "facts" })}>${id}</a></th>`)}${real && html`<th scope="col">For comparison</th>`}</tr></thead>
    <tbody>${lines.map(line => html`<${Row} key=${line.key} line=${line} models=${models} real=${real} />`)}</tbody></table></div>`;
}

function Row({ line, models, real }) {
  const [title, hint] = wordsOf(line.name), better = betterOf(line.name), all = [...line.cells.values()].flat().map(figure => figure.value);
  const best = better && line.cells.size > 1 && new Set(all).size > 1 ? (better === "lower" ? Math.min(...all) : Math.max(...all)) : null;
  const { protocol } = line.figure, ends = line.anchors.map(anchor => anchor.value), [low, high] = [Math.min(...ends), Math.max(...ends)].map(end => numberOf(line.name, end));
  const [first, ...others] = [...line.cells.values()].flat().map(figure => howOf(figure, figure.protocol?.n));
  const how = [...first.filter(text => others.every(each => each.includes(text))), protocol?.anomalies > 0 && `anomalies: ${protocol.against?.replaceAll("_", " ") ?? "known ones"}`].filter(Boolean).join("; ");
  return html`<tr><th scope=row title=${hint}>${title}${better && html` <small><span aria-hidden="true">${better === "lower" ? "↓"
    : "↑"}</span> ${better} is better</small>`}${how && html`<small class="how">${how}</small>`}</th>
    ${models.map(({ id }) => html`<td>${(line.cells.get(id) ?? []).map(figure => html`<div class=${figure.value === best ? "best"
      : ""}>${valueOf(figure)}${figure.value === best && html` <span class="tag">best</span>`}
      ${line.cells.get(id).length > 1 && html` <small>${variantOf(figure)}</small>`}</div>`)}${!line.cells.has(id) && html`<span class="quiet">–</span>`}</td>`)}
    ${real && html`<td>${ends.length ? html`${low === high ? low : `${low} to ${high}`} <small class="how">${line.anchors[0].text}</small>`
      : html`<span class="quiet">–</span>`}</td>`}</tr>`;
}
