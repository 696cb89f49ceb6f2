// Facts of a model: what it is, its columns, how it was trained and measured, its tasks, its calibration, and its load.
import { html } from "../lib/preact.js";
import { getJson } from "../lib/api.js";
import { href } from "../lib/address.js";
import { describe, fileOf, nouns } from "../lib/models.js";
import { anchorOf, anchorsOf, betterOf, figuresOf, howOf, numberOf, protocolText, titleOf, valueOf, variantOf, wordsOf } from "../lib/metrics.js";
import { brief } from "../lib/numbers.js";
import { Progress } from "../lib/ui.js";
import { Curves, Epochs, Sheet } from "./facts-files.js";
import { Load, Tasks } from "./facts-service.js";
import { useLoaded } from "../lib/tasks.js";

const MANY = 12;  // further categories of a column are shown on demand

/** The view. */
export function View({ model }) {
  const [manifest, task] = useLoaded(() => describe(model), [model.name, model.version]);
  const [curves, loading] = useLoaded(async signal => {
    const path = fileOf(model, "curves");
    return path ? getJson(path, { signal }) : {};
  }, [model.name, model.version]);
  if (!manifest) return html`<${Progress} task=${task} text="Loading the facts…" />`;
  const phases = curves?.phases ?? [];
  return html`<p>What is known about this model, and how it was measured.</p>
    <div class="facts-view">
      <${Summary} model=${model} manifest=${manifest} />
      ${Object.entries(model.items ?? { "": model.data }).map(([role, data]) => data?.columns && html`<${Columns} key=${role} role=${role} columns=${data.columns} />`)}
      <${Training} provenance=${manifest.provenance} />
      <${Evaluations} manifest=${manifest} />
      ${phases.length > 0 && html`<${Curves} phases=${phases} />`}
      ${loading.error && html`<section><h2>Training curves</h2><${Progress} task=${loading} /></section>`}
      <${Sheet} model=${model} />
      ${curves && fileOf(model, "epochs") && html`<${Epochs} model=${model} epochs=${curves.epochs} />`}
      <${Tasks} model=${model} />
      <${Calibration} manifest=${manifest} />
      <${Load} model=${model} />
      <section aria-labelledby="links"><h2 id="links">More</h2><p><a href=${`models/${encodeURIComponent(model.name)}?version=${model.version}`}>This model as
        JSON</a> · <a href="docs">Documentation of the API</a> ·
        <a href=${href({ view: "compare", models: model.name })}>Compare with other models</a></p></section>
    </div>`;
}

/** A list of names and values. Empty values are left out. */
export const List = ({ items }) => html`<dl class="facts">${items.filter(([, value]) => value !== null && value !== undefined && value !== "" && value !== false)
  .map(([name, value]) => html`<dt>${name}</dt><dd>${value}</dd>`)}</dl>`;

/** Return the form of an item in words, such as "28 × 28 pixels, 1 channel", from the numbers that its description has. */
function sizeOf(data) {
  if (data?.width) return `${data.width} × ${data.height} pixels, ${data.channels === 1 ? "grey" : `${data.channels} channels`}`;
  return data?.columns ? `${data.columns.length} columns` : null;
}

function latentOf({ latent, codes }) {
  const one = spec => `${brief(spec.size ?? spec.shape?.reduce((a, b) => a * b, 1))} numbers${spec.shape?.length > 1 ? ` (${spec.shape.join(" × ")})` : ""}`;
  const priors = Object.keys(latent?.priors ?? {});
  const parts = [latent && (latent.size ?? latent.shape) ? one(latent) : latent && Object.entries(latent).map(([name, spec]) => `${name}: ${one(spec)}`).join("; ")];
  if (priors.length) parts.push(`priors: ${priors.map(name => (name === (latent.default_prior ?? priors[0]) ? `${name} (default)` : name)).join(", ")}`);
  return { numbers: latent ? parts.join("; ") : null, codes: codes && `a grid of ${codes.shape.join(" × ")} codes, each one of ${codes.levels}` };
}

function Summary({ model, manifest }) {
  const { provenance } = manifest, latent = latentOf(manifest);
  return html`<section aria-labelledby="summary"><h2 id="summary">Summary</h2><${List} items=${[
    ["Description", manifest.description],
    ["Data set", model.dataset ?? provenance?.data?.data],
    ["Licence", manifest.license],
    ["Family", html`${manifest.family}${provenance?.family && html` <small>(source: <code>training/families/${provenance.family}.py</code>)</small>`}`],
    [`Form of ${nouns(model).many}`, model.items ? Object.entries(model.items).map(([role, data]) => `${role}: ${sizeOf(data) ?? data.field}`).join("; ")
      : sizeOf(model.data)],
    ["Classes", model.classes?.join(", ")],
    ["Latent", latent.numbers], ["Codes", latent.codes],
    ["Version", `${model.version}${model.versions?.length > 1 ? ` (of ${model.versions.join(", ")})` : ""}`],
    ["Runs on", `${manifest.backend === "onnx" ? "ONNX Runtime" : manifest.backend}, ${model.device ?? "not loaded"}`],
    ["Same result for the same seed", model.reproducible === false ? "no: a graph of this model draws random numbers itself" : "yes"],
    ["Note", model.note],
  ]} /></section>`;
}

/** Return the values that a column can have, in words: the range of the training rows, or the categories. */
function valuesOf({ kind, minimum, maximum, decimals, unit, categories }) {
  if (kind === "categorical" && categories.length > MANY) {
    return html`<details><summary>${categories.slice(0, MANY).join(", ")}, …</summary>${categories.slice(MANY).join(", ")}</details>`;
  }
  if (kind === "categorical") return categories.join(", ");
  const end = value => (decimals === undefined ? brief(value) : value.toFixed(decimals));
  return minimum === undefined || maximum === undefined ? "" : `${end(minimum)} to ${end(maximum)}${unit ? ` ${unit}` : ""}`;
}

/** Return the kind of a column in words. */
const kindOf = ({ kind, categories }) => (kind === "categorical" ? `${categories.length} ${categories.length === 1 ? "category" : "categories"}` : kind === "numeric"
  ? "number" : kind);


/** The columns of a table: names, kinds and values. `role` names the output of a model with several. */
function Columns({ role, columns }) {
  const title = `Columns${role ? ` of ${role}` : ""}`;
  return html`<section aria-label=${title}><h2>${title}</h2>
    <p>${columns.length} columns. The range of a number is that of the training rows.</p>
    <div class="scroll short" tabindex="0" role="region" aria-label=${`List of the ${title.toLowerCase()}`}><table class="columns-list"><caption class="hidden">${title}</caption>
      <thead><tr><th scope="col">Name</th><th scope="col">Kind</th><th scope="col">Range or categories</th></tr></thead>
      <tbody>${columns.map(column => html`<tr key=${column.name}><th scope=row>${column.name}</th>
        <td>${kindOf(column)}</td><td>${valuesOf(column)}</td></tr>`)}</tbody></table></div></section>`;
}

/** Return a time in seconds as text. */
const duration = seconds => (seconds < 120 ? `${Math.round(seconds)} s` : seconds < 7200 ? `${Math.round(seconds / 60)} minutes` : `${brief(seconds / 3600, 3)} hours`);

function Training({ provenance }) {
  if (!provenance) return null;
  const { data, config, spent } = provenance;
  const splits = { train: "Training items", selection: "Selection items", calibration: "Calibration items", test: "Test items", shift: "Note on the test items" };
  return html`<section aria-labelledby="training"><h2 id="training">Training</h2><${List} items=${[
    ["Time", spent?.seconds && `${duration(spent.seconds)} on ${spent.device}`],
    ["Preset", provenance.preset], ["Weights", provenance.weights], ["Exported", provenance.exported?.replace("T", " ").replace("Z", " UTC")],
    ["Finished", provenance.finished === undefined ? null : provenance.finished ? "yes" : "no: training was stopped early"], ["PyTorch", provenance.torch],
    ...Object.entries(splits).map(([key, title]) => [title, data?.[key]]),
  ]} />
    ${config && html`<details><summary>All ${Object.keys(config).length} options of the training</summary>
      <${List} items=${Object.entries(config).map(([name, value]) => [html`<code>${name}</code>`, Array.isArray(value) ? value.join(", ") || "none"
        : String(value)])} /></details>`}</section>`;
}

/** The figures in groups: each evaluation of samples and of test items, the training's own figures, and those of the anomaly score. */
function Evaluations({ manifest }) {
  const figures = figuresOf(manifest.metrics ?? []), groups = new Map();
  for (const figure of figures) {
    const { by, detail } = figure.protocol ?? {}, what = detail?.part ? "Test items, by the evaluation" : "Samples";
    const key = by === "evaluation" ? `${what}${variantOf(figure) ? `: ${variantOf(figure)}` : ""}` : by === "manifold fit"
      ? "Anomaly scores" : by ? "Classification" : "Test items, after training";
    groups.set(key, [...(groups.get(key) ?? []), figure]);
  }
  if (!figures.length) return html`<section><h2>Figures</h2><p class="note">No figures were recorded for this model.</p></section>`;
  const place = ([title]) => ["Samples", "Test items, by"].findIndex(start => title.startsWith(start)) >>> 0;  // others last, in their order
  const order = [...groups].sort((a, b) => Math.sign(place(a) - place(b)));
  return html`<section aria-labelledby="figures"><h2 id="figures">Figures</h2>
    ${order.map(([title, members]) => html`<${Group} key=${title} title=${title} figures=${members} />`)}</section>`;
}

function Group({ title, figures }) {
  const [{ protocol = {} }] = figures, anchors = anchorsOf(figures), floor = anchors.perfect_generator, held = protocol.detail?.part;
  const against = protocol.anomalies > 0 && `${brief(protocol.n)} normal test items and ${brief(protocol.anomalies)} ${protocol.against
    ? `items of ${String(protocol.against).replaceAll("_", " ")} as anomalies` : "known anomalies of the same data set"}.`;
  const test = protocol.by === "evaluation" ? held && "Figures of items that were not used in training." : against || (protocol.n ? `${brief(protocol.n)} test items.` : "");
  const rows = figures.map(figure => ({ figure, anchor: anchorOf(figure.name, figure.protocol?.by === "evaluation" ? anchors : figure.protocol?.anchors) }));
  const real = rows.some(({ anchor }) => anchor);
  return html`<h3>${title}</h3><p>${test || protocolText(protocol)}
    ${floor && ` A perfect generator would have a Fréchet distance of about ${brief(floor.resampled ?? floor.closed_form, 3)} for this number of items.`}</p>
    <div class="scroll" tabindex="0" role="region" aria-label=${title}><table class="figures"><caption class="hidden">${title}</caption>
      <thead><tr><th scope="col">Figure</th><th scope="col">Value</th><th scope="col">Better</th>${real
        && html`<th scope="col">For comparison</th>`}<th scope="col">Meaning</th></tr></thead>
      <tbody>${rows.map(({ figure, anchor }) => {
        const [, hint] = wordsOf(figure.name), name = titleOf(figure), better = betterOf(figure.name), how = [hint, ...howOf(figure, protocol.n)].filter(Boolean).join("; ");
        return html`<tr><th scope=row>${name}</th><td>${valueOf(figure)}</td><td>${better ? html`<span aria-hidden="true">${better === "lower" ? "↓ "
          : "↑ "}</span>${better}` : "–"}</td>
          ${real && html`<td>${anchor ? html`${numberOf(figure.name, anchor.value)} <small class="how">${anchor.text}</small>` : "–"}</td>`}<td class="meaning"><small>${how}</small></td></tr>`;
      })}</tbody></table></div>`;
}

function Calibration({ manifest }) {
  const { scoring } = manifest;
  if (!scoring) return null;
  const { calibration, combination, terms = [] } = scoring, combined = combination?.terms ?? [];
  return html`<section aria-labelledby="calibration"><h2 id="calibration">Anomaly score and calibration</h2>
    ${calibration ? html`<${List} items=${[["Calibrated on", `${brief(calibration.n)} items: ${calibration.source ?? "unknown source"}`], ["Smallest p-value",
      brief(1 / (calibration.n + 1), 2)],
      ["Created", calibration.created?.replace("T", " ").replace("Z", " UTC")], ["Id", calibration.id], ["Note on the test items", calibration.shift]]} />`
      : html`<p class="note">This model is not calibrated, so its scores rank items but have no p-values.</p>`}
    <p>The score is ${combined.length ? `a combination of ${combined.map(each => each.replaceAll("_", " ")).join(" and ")}` : String(scoring.score).replaceAll("_",
      " ")}.</p>
    <div class="scroll" tabindex="0" role="region" aria-label="Terms of the score"><table class="figures"><caption class="hidden">Terms of the score</caption><thead>
      <tr><th scope="col">Term</th><th scope="col">In the score</th><th scope="col">Meaning</th></tr></thead>
      <tbody>${terms.map(term => html`<tr><th scope=row>${term.name.replaceAll("_", " ")}</th>
        <td>${combined.includes(term.name) || scoring.score === term.name ? "yes" : "no"}</td><td>${term.description}</td></tr>`)}</tbody></table></div></section>`;
}
