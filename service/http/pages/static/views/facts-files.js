// The files of an artifact for its page: training curves, the sheet of test items and reconstructions, and samples by epoch.
import { html, useMemo, useState } from "../lib/preact.js";
import { useParam } from "../lib/address.js";
import { send } from "../lib/api.js";
import { readCsv } from "../lib/csv.js";
import { fileOf, makesPictures, nouns, supports } from "../lib/models.js";
import { fetchPicture } from "../lib/made.js";
import { Lines, Numbers, Stroke } from "../lib/plots.js";
import { Choice, Progress, Slider, save } from "../lib/ui.js";
import { useLoaded, useTask } from "../lib/tasks.js";

const WORDS = { train: "training", selection: "selection", calibration: "calibration", test: "test" };

/** Return a name of a loss such as "train/kl" in words. */
const titled = name => {
  const [part, loss] = name.split("/");
  return loss ? `${loss.replaceAll("_", " ")}, ${WORDS[part] ?? part}` : name;
};

/** The losses during training, one plot for each phase. */
export function Curves({ phases }) {
  const [chosen, setPhase] = useParam("phase", phases[0].phase), [scale, setScale] = useParam("scale", "linear");
  const phase = phases.find(each => each.phase === chosen) ?? phases[0];
  return html`<section aria-labelledby="curves"><h2 id="curves">Training curves</h2>
    <div class="controls">
      ${phases.length > 1 && html`<div class="field"><span>Phase</span><${Choice} label="Phase"
        value=${phase.phase} set=${setPhase} options=${phases.map(each => [each.phase, each.phase])} /></div>`}
      <div class="field"><span>Vertical axis</span><${Choice} label="Vertical axis" value=${scale === "log" ? "log" : "linear"} set=${setScale} options=${[["linear",
        "linear"], ["log", "logarithmic"]]} /></div>
    </div>
    ${phase.phase !== chosen && html`<p class="note">This model has no phase “${chosen}”, so the first one is shown.</p>`}
    <${Phase} key=${phase.phase} phase=${phase} log=${scale === "log"} /></section>`;
}

function Phase({ phase, log }) {
  const names = Object.keys(phase.losses), main = names.filter(name => name.endsWith("/loss"));
  const [text, set] = useParam("losses", (main.length ? main : names.slice(0, 2)).join());
  const shown = text.split(",").filter(name => names.includes(name));
  const series = names.filter(name => shown.includes(name)).map(name => ({ name: titled(name), x: phase.steps, y: phase.losses[name], place: names.indexOf(name) }));
  const toggle = name => set(shown.includes(name) ? shown.filter(each => each !== name).join() || "none" : [...shown, name].join());
  return html`<div class="choices" role="group" aria-label="Losses">${names.map((name, i) => html`<label class="check" key=${name}>
    <input type="checkbox" checked=${shown.includes(name)} onChange=${() => toggle(name)} /> <${Stroke} place=${i} /> ${titled(name)}</label>`)}</div>
    <${Lines} series=${series} title=${`Losses of the phase ${phase.phase} by training step`} xTitle="training step" yTitle="loss" log=${log} />
    <${Numbers} series=${series} xTitle="step" caption="Losses by training step" />`;
}

/** Test items beside their reconstructions, or samples. */
export function Sheet({ model }) {
  const path = fileOf(model, "sheet"), { many, one } = nouns(model), pairs = supports(model, "reconstruct");
  if (!path) return null;
  const text = pairs ? `Test ${many}, each followed by its reconstruction: the ${one} that the model returns after encoding and decoding it.`
    : `${many[0].toUpperCase()}${many.slice(1)} that the model generated when it was exported.`;
  return html`<section aria-labelledby="sheet"><h2 id="sheet">${pairs ? "Reconstructions" : "Samples"}</h2><p>${text}</p>
    ${makesPictures(model) ? html`<${Whole} path=${path} alt=${text} />` : html`<${Cells} path=${path} text=${text} pairs=${pairs} />`}</section>`;
}

function Whole({ path, alt }) {
  const [picture, task] = useLoaded(signal => fetchPicture(path, signal), [path]);
  if (!picture) return html`<${Progress} task=${task} text="Loading the sheet…" />`;
  const scale = Math.max(1, Math.floor(900 / picture.naturalWidth));
  return html`<img class="pixels sheet" src=${picture.src} alt=${alt} width=${picture.naturalWidth * scale} />`;
}

/** A sheet of records: CSV that the service returns, as text. */
function Cells({ path, text, pairs }) {
  const saving = useTask();
  const [table, task] = useLoaded(async signal => readCsv(await (await send(path, { accept: "text/csv", signal })).text()), [path]);
  if (!table) return html`<${Progress} task=${task} text="Loading the sheet…" />`;
  const head = table.header, body = Array.from({ length: table.count }, (_, i) => table.cells(i));
  return html`<div class="scroll" tabindex="0" role="region" aria-label=${text}><table><caption class="hidden">${text}</caption><thead>
    <tr>${pairs && html`<th scope="col">item</th>`}${head.map(name => html`<th scope="col">${name}</th>`)}</tr></thead>
    <tbody>${body.map((cells, i) => html`<tr>${pairs && html`<th scope=row>${i % 2 ? "reconstruction"
      : `test item ${i / 2 + 1}`}</th>`}${cells.map(cell => html`<td>${cell.length > 12 && !Number.isNaN(Number(cell)) ? Number(Number(cell).toPrecision(6))
        : cell}</td>`)}</tr>`)}</tbody></table></div>
    <p><button type="button" onClick=${() => saving.run(signal => send(path, { accept: "text/csv", signal }).then(response => response.blob()), file => save(file, "sheet.csv"))}>Download as CSV</button></p><${Progress} task=${saving} />`;
}

/** Samples of the same seeds after several epochs: one line of a picture for each epoch. */
export function Epochs({ model, epochs }) {
  const path = fileOf(model, "epochs"), { height } = model.data, [picture, task] = useLoaded(signal => fetchPicture(path, signal), [path]);
  const count = picture ? epochs?.length ?? Math.max(1, Math.round(picture.naturalHeight / height)) : 0, gap = count > 1
    ? (picture.naturalHeight - count * height) / (count - 1) : 0, [place, set] = useState(null), [all, setAll] = useState(false);
  const at = Math.min(place ?? count - 1, count - 1), name = epochs?.[at] ?? at + 1;
  const src = useMemo(() => {
    if (!picture || at < 0) return null;
    const canvas = Object.assign(document.createElement("canvas"), { width: picture.naturalWidth, height });
    canvas.getContext("2d").drawImage(picture, 0, -Math.round(at * (height + gap)));
    return canvas.toDataURL();
  }, [picture, at]);
  return html`<section aria-labelledby="epochs"><h2 id="epochs">Samples by epoch</h2><p>Samples of the same seeds, during training. Move the slider to another epoch.</p>
    ${!picture ? html`<${Progress} task=${task} text="Loading the samples…" />` : html`
      <${Slider} label="Epoch" value=${at} set=${set} min="0" max=${count - 1} step="1"
        format=${each => String(epochs?.[each] ?? each + 1)} aria-valuetext=${`epoch ${name}`} />
      <img class="pixels sheet" src=${src} alt=${`Samples after epoch ${name}`} width=${Math.max(1, Math.floor(900 / picture.naturalWidth)) * picture.naturalWidth} />
      <p><button type="button" aria-expanded=${all} onClick=${() => setAll(!all)}>${all ? "Hide all epochs" : "Show all epochs"}</button></p>
      ${all && html`<img class="pixels sheet" src=${picture.src} alt=${`Samples after the epochs ${(epochs ?? []).join(", ")}, one line for each`} width=${Math.max(1,
        Math.floor(600 / picture.naturalWidth)) * picture.naturalWidth} />`}`}</section>`;
}
