// What the view of anomalies says about columns: those that a file needs, with a template, and those of the table of scores.
import { html } from "../lib/preact.js";
import { send } from "../lib/api.js";
import { line, readCsv } from "../lib/csv.js";
import { fileOf, nouns, supports } from "../lib/models.js";
import { brief } from "../lib/numbers.js";
import { Progress, save } from "../lib/ui.js";
import { useTask } from "../lib/tasks.js";
import { columnsOf } from "./anomaly-source.js";
import { count } from "./anomaly-words.js";

const FEW = 8;  // categories that are listed
const EXAMPLES = 3;  // records of a template

/** Return what the values of a column are, in words. */
function kindOf({ categories, minimum, maximum, unit }) {
  if (!categories) return minimum === undefined ? "number" : `number; in training ${brief(minimum, 6)} to ${brief(maximum, 6)}${unit ? ` ${unit}` : ""}`;
  if (categories.length === 1) return `always ${categories[0]} in training`;
  return `one of ${categories.length}: ${categories.slice(0, FEW).join(", ")}${categories.length > FEW ? ", …" : ""}`;
}

/** Return a usual value of a column: the first category, or a number in the middle. */
function usual({ categories, transform, knots, mean, minimum, maximum, decimals }) {
  if (categories) return categories[0];
  const middle = knots ? knots[knots.length >> 1] : transform === "log1p" ? Math.sign(mean) * Math.expm1(Math.abs(mean)) : mean;
  return Number(Math.min(maximum ?? middle, Math.max(minimum ?? middle, middle)).toFixed(Math.min(decimals ?? 4, 20)));
}

/** Return the CSV text of a template: the header, and records of the artifact's sheet or one with usual values. */
async function templateOf(model, signal) {
  const path = fileOf(model, "sheet"), names = columnsOf(model);
  if (!path) return line(names) + line(model.data.columns.map(usual));
  const table = readCsv(await (await send(path, { accept: "*/*", signal })).text(), names), step = supports(model, "reconstruct") ? 2 : 1,
    places = names.map(name => table.header.indexOf(name)), n = Math.min(EXAMPLES, Math.ceil(table.count / step));
  return line(names) + Array.from({ length: n }, (_, i) => { const cells = table.cells(i * step); return line(places.map(place => cells[place] ?? "")); }).join("");
}

/** The columns that a file needs, and a template of a file. */
export function NeededColumns({ model }) {
  const task = useTask(), { columns } = model.data;
  const download = () => task.run(async signal => save(new Blob([await templateOf(model, signal)], { type: "text/csv" }), `${model.name}-template.csv`));
  return html`<details class="needed"><summary>The ${count(columns.length)} columns that a file needs</summary>
    <p><button type="button" onClick=${download}>Download a template CSV</button> <small>A cell without a value may be empty. A file may have other columns.</small></p>
    <${Progress} task=${task} text="The template is written…" />
    <div class="scroll" tabindex="0" role="region" aria-label="Columns of the model"><table><caption class="hidden">Columns of the model</caption>
      <thead><tr><th scope="col">Column</th><th scope="col">Values</th></tr></thead>
      <tbody>${columns.map(column => html`<tr key=${column.name}><th scope=row>${column.name}</th><td class="wrap">${kindOf(column)}</td></tr>`)}</tbody></table></div>
    </details>`;
}

/** The meanings of the columns of the table of scores. `n` is the number of calibration items. */
export function Meanings({ model, n, explains }) {
  const { one, many } = nouns(model);
  return html`<details class="meanings"><summary>What do these columns mean?</summary><dl class="facts">
    <dt>Rank</dt><dd>The place in the order of the scores: 1 is the most anomalous of these ${many}.</dd>
    <dt>Score</dt><dd>How unlike normal data it is: higher is more anomalous. Scores of one model can be compared, those of different models cannot.</dd>
    ${n > 0 && html`<dt>p-value</dt><dd>(1 + k) / (n + 1), where k is the number of the n = ${count(n)} normal ${many} of the calibration whose score is at least as high.${" "}
        It is not the probability that the ${one} is normal.</dd>
      <dt>Band</dt><dd><b>allow</b>: not flagged. <b>review</b>: flagged. <b>block</b>: flagged, and below the threshold of the block rate as well.${" "}
        <b>undecided</b>: the calibration cannot resolve a rate as low as the chosen one.</dd>
      <dt>Risk</dt><dd>0 to 999, a fixed function of the p-value, so that it means the same after retraining: a p-value of 0.1 gives 600, 0.02 gives 900, 0.001 gives 980.</dd>`}
    ${n === 0 && html`<dt>Band</dt><dd>Whether it is among the number to flag. This model has no calibration, so it has no p-values, no bands and no risk.</dd>`}
    ${explains && model.data.columns && html`<dt>Main reasons</dt><dd>The columns whose values are unusual, with the value that the other columns predict, and the share of${" "}
      the column in all that is unusual.</dd>`}
    <dt>State</dt><dd>In the downloads: <b>below_resolution</b>, more anomalous than every ${one} of the calibration (its p-value is then written with ≤);${" "}
      <b>unknown</b>, it has a category that training never saw; <b>uncalibrated</b>, the model has no calibration; otherwise <b>ok</b>.</dd>
    <dt>Warnings</dt><dd>${model.data.columns ? "Values that the model did not see in training, or that are missing." : `Remarks about the ${one}.`} Open the ${one} to read them in full.</dd>
  </dl></details>`;
}
