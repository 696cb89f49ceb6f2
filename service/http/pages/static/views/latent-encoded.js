// The latents of encoded items: a table of their numbers, and downloads.
import { html } from "../lib/preact.js";
import { toJson } from "../lib/numbers.js";
import { writeArray } from "../lib/npy.js";
import { Progress, save } from "../lib/ui.js";

const SHOWN = 24;  // numbers in the table

/** Return the sentences about how an image was fitted to the model. */
const notes = fitted => [
  ...(fitted?.steps.length ? [`It was ${fitted.width} × ${fitted.height}: ${fitted.steps.join("; ")}.`] : []),
  ...(fitted?.warnings ?? []).map(warning => `Warning: ${warning}.`),
];

/** The latents of encoded items. take(z) is called to continue from one. */
export function Encoded({ model, space, result, task, take, order }) {
  if (!result) return html`<${Progress} task=${task} text="Encoding…" />`;
  const { mean, log_variance: variances, items } = result, shown = order.slice(0, SHOWN);
  const deviation = (i, j) => (variances ? Math.exp(variances[i][j] / 2) : null);
  return html`<${Progress} task=${task} text="Encoding…" />
    <div class="scroll" tabindex="0" role="region" aria-label="Latents of the encoded items"><table>
      <caption class="hidden">Latents of the encoded items: the mean of each number, and its standard deviation if the model has one</caption>
      <thead><tr><th scope="col">Item</th><th scope="col"><span class="hidden">Action</span></th>
        ${shown.map(j => html`<th scope="col" class="number">z${j + 1}</th>`)}</tr></thead>
      <tbody>${items.map((item, i) => html`<tr key=${i}>
        <th scope=row><span class="latent-item"><b>${i + 1}</b> ${item.src && html`<img class="pixels"
          src=${item.src} alt="" width="28" height="28" />`} ${item.name}</span>
          ${item.file && notes(result.fitted?.[i]).map(note => html`<br /><small>${note}</small>`)}</th>
        <td><button type="button" onClick=${() => take(mean[i])} aria-label=${`Start here, from item ${i + 1}`}>Start here</button></td>
        ${shown.map(j => html`<td class="number">${mean[i][j].toFixed(2)}${variances && html`<br /><small>± ${deviation(i, j).toFixed(2)}</small>`}</td>`)}
      </tr>`)}</tbody></table></div>
    ${variances && html`<p class="quiet">The encoder gives a mean and, after ±, a standard deviation for each number.
      Numbers with ± 1.00 and a mean near 0 carry no information about the item.</p>`}
    ${order.length > SHOWN && html`<p class="quiet">The ${SHOWN} most active of ${order.length} numbers are shown. The files have all of them.</p>`}
    <${Downloads} model=${model} space=${space} result=${result} />`;
}

/** Buttons that save latents or codes as JSON and as a NumPy array. */
export function Downloads({ model, space, result }) {
  const { items, mean, log_variance, codes } = result, values = codes ?? mean;
  const content = { model: model.name, version: model.version, items: items.map(item => item.name), ...(codes ? { codes } : { mean, log_variance }) };
  const json = () => save(toJson(content, 1), `${model.name}-latents.json`, "application/json");
  const npy = () => save(writeArray([values.length, ...space.shape], values.flat(Infinity)), `${model.name}-latents.npy`);
  return html`<div class="controls"><button type="button" onClick=${json}>Download as JSON</button> <button type="button" onClick=${npy}>Download as .npy</button></div>`;
}
