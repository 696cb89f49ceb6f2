// What a model offers and does in this service: its tasks as functions of tensors, and its load.
import { html, useState } from "../lib/preact.js";
import { getJson } from "../lib/api.js";
import { brief } from "../lib/numbers.js";
import { Code, Failure, Progress } from "../lib/ui.js";
import { useLoaded } from "../lib/tasks.js";

const SOURCES = {
  latent: "drawn from the prior, or given", data: "items of the request", condition: "the class or condition", uniform: "uniform random numbers from 0 to 1",
    normal: "standard normal random numbers", temperature: "temperature, 1 by default",
  codes: "codes", mask: "the mask of known values", number: "a number", integer: "a whole number", tokens: "a text", token_mask: "the length of a text",
};

/** The tasks of a model, with their inputs and outputs: what /v2 offers. They are requested when the section is opened. */
export function Tasks({ model }) {
  const [open, set] = useState(false);
  return html`<section aria-labelledby="tasks"><h2 id="tasks">Tasks</h2>
    <p>Endpoints of this model: ${model.endpoints.map((name, i) => html`${i > 0 && ", "}<code>/${name}</code>`)}. Each task is also a function of
      tensors, <code>${model.name}.TASK</code>, under <code>/v2</code>.</p>
    <details onToggle=${event => set(event.target.open)}><summary>Inputs and outputs of ${model.tasks.length} tasks</summary>${open
      && html`<${Tensors} model=${model} />`}</details></section>`;
}

function Tensors({ model }) {
  const [found, task] = useLoaded(async signal => Promise.all(model.tasks.map(async name => {
    try { return { ...(await getJson(`v2/models/${encodeURIComponent(`${model.name}.${name}`)}/versions/${model.version}`, { signal })), name }; } catch (error) {
      if (error.name === "AbortError") throw error;
      return { name, error };
    }
  })), [model.name, model.version]);
  if (!found) return html`<${Progress} task=${task} text="Loading the tasks…" />`;
  const lines = found.flatMap(each => [...(each.inputs ?? []).map(tensor => ({ task: each.name, way: "input", tensor })),
    ...(each.outputs ?? []).map(tensor => ({ task: each.name, way: "output", tensor }))]);
  const about = ({ source, optional, default: fallback, minimum, maximum, choices } = {}) => [
    SOURCES[source] ?? source, fallback !== undefined && `default ${brief(fallback)}`, choices && `one of ${choices}`, minimum !== undefined && maximum !== undefined
      && `${brief(minimum)} to ${brief(maximum)}`, optional && "optional",
  ].filter(Boolean).join("; ");
  return html`${found.filter(each => each.error).map(each => html`<${Failure} error=${each.error} />`)}
    <div class="scroll" tabindex="0" role="region" aria-label="Inputs and outputs of the tasks"><table><caption class="hidden">Inputs and outputs of the tasks</caption>
    <thead><tr><th scope="col">Task</th><th scope="col">Input or output</th><th scope="col">Tensor</th><th scope="col">Type</th>
      <th scope="col" title="-1 is the number of items">Shape</th><th scope="col">Filled by</th></tr></thead>
    <tbody>${lines.map(({ task: name, way, tensor }) => html`<tr><th scope=row>${name}</th><td>${way}</td><td><code>${tensor.name}</code></td>
      <td>${tensor.datatype}</td><td>${tensor.shape.join(" × ").replace("-1", "n")}</td><td>${way === "input" ? about(tensor.parameters) : ""}</td></tr>`)}</tbody>
        </table></div>
    <p>A request that works, for the first task:</p><${Code} label="Request of /v2" text=${exampleOf(model, found[0])} />`;
}

/** Return a request of /v2 with curl. Long lists are shortened, because an item is long. */
function exampleOf(model, { name, parameters }) {
  const text = parameters?.example ?? '{"inputs":[]}';
  return `curl -s ${location.origin}${location.pathname}v2/models/${model.name}.${name}/infer -d '${text.length > 600 ? `${text.slice(0, 600)}…` : text}'`;
}

/** The queue and the totals of a model since the service started. */
export function Load({ model }) {
  const [turn, again] = useState(model.state === "ready" ? 1 : 0);  // the request would load an idle model
  const path = `models/${encodeURIComponent(model.name)}/stats?version=${model.version}`;
  const [stats, task] = useLoaded(signal => (turn ? getJson(path, { signal }) : null), [path, turn]);
  const [before, keep] = useState(null), shown = stats ?? before;
  if (stats && stats !== before) keep(stats);
  if (!turn) {
    return html`<section aria-labelledby="load"><h2 id="load">Load</h2><p>The model is not loaded.
      <button type="button" onClick=${() => again(1)}>Load it and show its statistics</button></p></section>`;
  }
  return html`<section aria-labelledby="load"><h2 id="load">Load</h2>
    ${!shown ? html`<${Progress} task=${task} text="Loading the statistics…" />` : html`<p>${shown.queued_rows
      ? `${shown.queued_rows} items are queued or running. The expected wait is ${brief(shown.expected_wait_ms, 2)} ms.`
        : "Nothing is queued."} These totals count since the service started.</p>
      ${task.error && html`<${Failure} error=${task.error} />`}
      <div class="scroll" tabindex="0" role="region" aria-label="Load by task"><table><caption class="hidden">Load by task</caption>
      <thead><tr>${["Task", "Requests", "Runs", "Items", "Items in a run", "Failed", "Computing time, s"].map((title, i) => html`<th scope="col" class=${i ? "number"
        : ""}>${title}</th>`)}</tr></thead>
      <tbody>${Object.entries(shown.tasks).map(([name, { requests, runs, rows: items, rows_a_run: mean, failed, seconds }]) => html`<tr>
        <th scope=row>${name}</th>${[requests, runs, items, mean, failed, seconds].map(value => html`<td class="number">${brief(value, 3)}</td>`)}</tr>`)}</tbody>
          </table></div>
      <p><button type="button" onClick=${() => again(turn + 1)}>Refresh</button></p>`}</section>`;
}
