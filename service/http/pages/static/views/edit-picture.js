// What a model makes of a picture: reconstruction, difference and latent; the same picture in other classes; the probabilities of its classes.
import { html, useEffect, useRef } from "../lib/preact.js";
import { useParam } from "../lib/address.js";
import { postJson } from "../lib/api.js";
import { NumberFields, classesOf, classify, conditionFields, useNumbers } from "../lib/conditions.js";
import { asSeen, fittedNotes, useKept } from "../lib/items.js";
import { outputsOf } from "../lib/made.js";
import { inputsOf, nouns, supports } from "../lib/models.js";
import { brief } from "../lib/numbers.js";
import { Bars } from "../lib/plots.js";
import { Progress, save } from "../lib/ui.js";
import { Latent } from "./edit-latent.js";
import { blobOf, pixelsOf } from "../lib/files.js";

/** Return the fields of a request about the chosen item. */
export const itemFields = (model, chosen, given) => ({ model: model.name, version: model.version, [nouns(model).many]: [chosen.content],
  ...conditionFields(model, chosen.name, given) });

/** Return the absolute difference of two pictures: {src, most} with the largest difference (of a range from 0 to 1), which is drawn brightest. */
async function differenceOf(a, b, { width, height }) {
  const [one, two] = [await pixelsOf(a, { width, height }), await pixelsOf(b, { width, height })], gaps = [];
  const gap = i => Math.abs(one.data[i] - two.data[i]) / 765;
  for (let i = 0; i < one.data.length; i += 4) gaps.push(gap(i) + gap(i + 1) + gap(i + 2));
  const most = Math.max(...gaps, 1 / 255);
  gaps.forEach((each, i) => {
    const share = each / most;
    [255 * Math.min(1, 2.2 * share), 255 * Math.max(0, Math.min(1, 2.2 * share - 0.7)),
      255 * Math.max(0, 2.2 * share - 1.5)].forEach((value, c) => { one.data[4 * i + c] = value; });
  });
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  canvas.getContext("2d").putImageData(one, 0, 0);
  return { src: canvas.toDataURL(), most };
}

/** A picture with a caption. */
export const Shown = ({ src, title, children, size = 168, alt }) => html`<figure class="shown"><img class="pixels" src=${src} alt=${alt ?? title} width=${size}
  /><figcaption><strong>${title}</strong>${children}</figcaption></figure>`;

/** Input, reconstruction and difference, and the latent. */
export function Reconstruction({ model, facts, chosen, given, target }) {
  const { item, content, name, ready } = chosen, inputs = [...inputsOf(model, "encode"),
    ...inputsOf(model, "decode")].filter((input, i, all) => all.findIndex(each => each.name === input.name) === i);
  const [numbers, setNumbers] = useNumbers("decoding");
  const [made, task, old] = useKept(async signal => {
    if (!ready) return null;
    const fields = itemFields(model, chosen, given),
      stated = names => { const kept = Object.entries(numbers).filter(([each]) => names.some(input => input.name === each)); return kept.length
        ? { inputs: Object.fromEntries(kept) } : {}; };
    const [answer, encoded] = await Promise.all([
      postJson("reconstruct", { ...fields, ...stated(inputs), ...conditionFields(model, null, target, "target_") }, { signal }),
      supports(model, "encode") ? postJson("encode", { ...fields, ...stated(inputsOf(model, "encode")) }, { signal }) : null,
    ]);
    const outputs = outputsOf(model, answer), fitted = answer.fitted?.[0], seen = await asSeen(item.src, model.data, fitted),
      picture = outputs[0].picture ? outputs[0].items[0] : null;
    return { outputs, encoded, fitted, seen, item, picture, error: answer.errors[0], difference: picture && await differenceOf(seen, picture, model.data) };
  }, [model.name, content, name, JSON.stringify(given), JSON.stringify(target), JSON.stringify(numbers), ready]);
  return html`<section aria-labelledby="reconstruction" class=${old ? "edit-section old" : "edit-section"} aria-busy=${old}><h2 id="reconstruction">Reconstruction</h2>
    ${made && fittedNotes(made.fitted, made.item)?.map(note => html`<p class="note">${note}</p>`)}
    ${made && html`<div class="shown-line">
      <${Shown} src=${made.seen} title="Input" alt="Input"><small>${made.fitted?.steps.length && made.item.file ? "about as it is fitted to the model"
        : "as it is sent to the model"}</small><//>
      ${made.picture && html`<${Shown} src=${made.picture} title="Reconstruction"><small
        title="Mean of the squared differences of all pixels, which are 0 to 1">mean squared error ${brief(made.error, 3)}</small><//>
      <${Shown} src=${made.difference.src} title="Difference" alt=${`Difference of input and reconstruction; the largest is ${brief(made.difference.most, 2)}`}><span
        class="heat" aria-hidden="true"></span><small class="heat-scale"><span>0</span><span
          title="The largest difference of a pixel, whose range is 0 to 1">${brief(made.difference.most, 2)}</span></small><//>`}
      ${made.outputs.slice(made.picture ? 1 : 0).map(output => (output.picture ? html`<${Shown} src=${output.items[0]} title=${output.role}
        />` : html`<p><strong>${output.role}</strong>: ${JSON.stringify(output.items[0])}</p>`))}
      ${made.encoded && html`<div class="shown-latent"><${Latent} model=${model} manifest=${facts.manifest} encoded=${made.encoded} /></div>`}
    </div>`}
    ${inputs.length > 0 && html`<div class="controls" role="group" aria-label="Reconstruction settings"><${NumberFields} inputs=${inputs} values=${numbers}
      set=${setNumbers} /></div>`}
    <${Progress} task=${task} text="The model reconstructs…" />
  </section>`;
}

/** The item decoded as each class, side by side. A click on one shows it large. */
export function Classes({ model, chosen, given }) {
  const { item, content, name, ready } = chosen, classes = classesOf(model), [target, setTarget] = useParam("target", "");
  const [made, task, old] = useKept(async signal => {
    if (!ready) return null;
    const answer = await postJson("reconstruct", { ...itemFields(model, chosen, given), [nouns(model).many]: classes.map(() => content),
      ...conditionFields(model, classes, {}, "target_") }, { signal });
    return { items: outputsOf(model, answer)[0].items, seen: await asSeen(item.src, model.data, answer.fitted?.[0]), from: name };
  }, [model.name, content, name, JSON.stringify(given), ready]);
  const at = classes.indexOf(target);
  const keep = async () => save(blobOf(made.items[at]), `${model.name}-${made.from}-to-${target}.png`);
  return html`<section aria-labelledby="classes" class=${old ? "edit-section old" : "edit-section"} aria-busy=${old}><h2 id="classes">Change the class</h2>
    <p>Click a class: the style stays, the class changes.</p>
    ${target && at < 0 && html`<p class="failure" role="alert">This model has no class “${target}”. Choose one of those below.</p>`}
    ${made && html`<div class="class-grid" role="group" aria-label="Classes">${classes.map((each, i) => html`<button type="button" key=${each} class="plain picture"
      aria-pressed=${each === target} aria-label=${`Class ${each}`} onClick=${() => setTarget(each === target ? "" : each, { push: true })}>
        <img class="pixels" src=${made.items[i]} alt="" width="64" /><span>${each}</span></button>`)}</div>
      ${at >= 0 && html`<div class="shown-line" role="status"><${Shown} src=${made.seen} title=${made.from} alt="Before" size="224"><small>before</small><//><span
        class="becomes" aria-hidden="true">→</span>
        <${Shown} src=${made.items[at]} title=${target} alt=${`As class ${target}`} size="224"><small>as the model draws it in class ${target}</small> <button
          type="button" onClick=${keep}>Save</button><//></div>`}`}
    <${Progress} task=${task} text="The classes are decoded…" />
  </section>`;
}

/** Return how the probabilities were computed, as a sentence. */
export const ruleOf = ({ by, temperature, calibration_error: error }) => `The probabilities come from ${by === "logits" ? "the classifier's outputs"
  : `the likelihood bound of each class (${by}) and Bayes' rule`}, at temperature ${brief(temperature, 3)}.${error === null || error === undefined ? ""
    : ` On test items they are wrong by ${brief(100 * error, 2)} percentage points on average (calibration error).`}`;

/** The probabilities of the classes, as bars. */
export function Probabilities({ model, chosen }) {
  const { content, item } = chosen, complete = chosen.complete && Boolean(content);
  const [made, task, old] = useKept(async signal => (complete ? { ...await classify(model, [content], { signal }), item } : null), [model.name, content, complete]);
  return html`<section aria-labelledby="probabilities" class=${old ? "edit-section old" : "edit-section"} aria-busy=${old}><h2 id="probabilities">Which class?</h2>
    ${made && !supports(model, "reconstruct") && fittedNotes(made.fitted?.[0], made.item)?.map(note => html`<p class="note">${note}</p>`)}
    ${made && html`<${ProbabilityBars} item=${made.items[0]} /><p class="quiet"><small>${ruleOf(made.classification)}</small></p>`}
    <${Progress} task=${task} text="The model classifies…" />
  </section>`;
}

/** The most probable class as a sentence, and bars of all. */
export function ProbabilityBars({ item }) {
  const { class: best, probabilities } = item, percent = value => (value > 0.9995 && value < 1 ? "> 99.9%" : value < 0.0005 ? "0.0%" : `${(100 * value).toFixed(1)}%`);
  return html`<p role="status">Most probable: <strong>${best}</strong> (${percent(probabilities[best])})</p>
    <${Bars} label="Probabilities of the classes" high=${1} items=${Object.entries(probabilities).map(([name, value]) => ({ name, value, text: percent(value),
      mark: name === best }))} />`;
}

/** A canvas that shows ImageData. */
export function Raster({ image, label, size }) {
  const canvas = useRef(null);
  useEffect(() => canvas.current.getContext("2d").putImageData(image, 0, 0), [image]);
  return html`<canvas ref=${canvas} class="pixels" width=${image.width} height=${image.height} style=${{ width: `${size}px` }} role="img" aria-label=${label}></canvas>`;
}
