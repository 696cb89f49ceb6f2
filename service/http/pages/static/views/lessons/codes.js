// The guided view "Codes and their prior": a picture as a grid of codes, and the model of which codes go together.
import { html, useEffect, useState } from "../../lib/preact.js";
import { href } from "../../lib/address.js";
import { postJson } from "../../lib/api.js";
import { describe } from "../../lib/models.js";
import { sample, sendItems } from "../../lib/made.js";
import { brief } from "../../lib/numbers.js";
import { Bars } from "../../lib/plots.js";
import { Slider } from "../../lib/ui.js";
import { Live, Strip, examples, normals, useIndex, useSeed } from "./parts.js";
import { useSettled } from "../../lib/tasks.js";

const MODEL = "mnist-vqvae", COUNT = 10;

/** A grid of codes as buttons or text. `shade(y, x)` is the strength of a cell's colour, from 0 to 1. */
function Grid({ codes, picked, onPick, shade, label, text }) {
  return html`<div class="codes" role="group" aria-label=${label} style=${{ gridTemplateColumns: `repeat(${codes[0].length}, 1fr)` }}>${codes.flatMap((line,
    y) => line.map((code, x) => {
    const style = shade && { background: `color-mix(in srgb, var(--series-2) ${Math.round(38 * shade(y, x))}%, var(--panel))` };
    return onPick ? html`<button type="button" aria-pressed=${picked?.[0] === y
      && picked?.[1] === x} aria-label=${`Row ${y + 1}, column ${x + 1}: code ${code}`} style=${style} onClick=${() => onPick([y, x])}>${code}</button>`
        : html`<span style=${style}>${text?.(y, x) ?? code}</span>`;
  }))}</div>`;
}

/** The pictures to choose from, and the codes of the chosen one. The child function gets {item, codes, picture, manifest}. */
function Chosen({ get, children }) {
  const model = get(MODEL), [place, set, wrong] = useIndex("item", COUNT, 0);
  return html`${wrong}<${Live} text="Loading the pictures…" deps=${[]} work=${signal => examples([model, get("mnist-vae"), get("mnist-flow")], COUNT, signal)}>${({ items,
    what }) => html`
    <${Strip} title="Picture" note=${what} items=${items} size=${42} picked=${place} onPick=${set} label="Picture" />
    <${Live} text="The model encodes…" deps=${[place]} work=${async signal => {
      const [{ codes }, manifest] = await Promise.all([sendItems("encode", model, [items[place]], {}, signal), describe(model)]);
      return { item: items[place], codes: codes[0], picture: (await sample(model, { codes }, signal)).pictures[0], manifest, place };
    }}>${found => html`<div key=${found.place}>${children(found)}</div>`}<//>`}<//>`;
}

const bitsOf = manifest => ({ count: manifest.codes.shape.reduce((a, b) => a * b, 1), each: Math.log2(manifest.codes.levels) });

function Encode({ get }) {
  return html`<p>This model describes a picture by a small grid of whole numbers, its <b>codes</b>. Each code names one of a fixed list of patterns that the model
    learned. Choose a picture and see its codes, and what they decode to.</p>
    <${Chosen} get=${get}>${({ item, codes, picture, manifest }) => {
      const { count, each } = bitsOf(manifest), { width, height, channels } = manifest.data;
      return html`<div class="trio"><div><h3>Picture</h3><img class="pixels" src=${item} alt="The chosen picture" width="196" height="196" /></div><div><h3>Codes</h3>
        <${Grid} codes=${codes} label="Codes of the picture" /></div><div><h3>Decoded</h3><img class="pixels" src=${picture} alt="The picture that the codes decode to"
          width="196" height="196" /></div></div>
        <p>${count} codes, each one of ${manifest.codes.levels}: ${count} × ${brief(each)} = <b>${brief(count * each)} bits</b>. The picture
          has ${width * height * channels} values of 8 bits, ${width * height * channels * 8} bits.</p>`;
    }}<//>`;
}

function Change({ get }) {
  return html`<p>Click one code and move the slider to another number. The picture changes mostly around this code.</p>
    <${Chosen} get=${get}>${found => html`<${Editor} model=${get(MODEL)} ...${found} />`}<//>`;
}

function Editor({ model, codes: first, picture: before, manifest }) {
  const [codes, set] = useState(first), [[y, x], pick] = useState([Math.floor(first.length / 2), Math.floor(first[0].length / 2)]), settled = useSettled(codes, 60),
    [shown, show] = useState(before);
  useEffect(() => { set(first); show(before); }, [first]);
  const put = value => set(codes.map((line, i) => line.map((code, j) => (i === y && j === x ? value : code))));
  const changed = codes.flat().filter((code, i) => code !== first.flat()[i]).length;
  return html`<div class="trio"><div><h3>Codes</h3><${Grid} codes=${codes} picked=${[y, x]} onPick=${pick} label="Codes of the picture, choose one to change"
    shade=${(i, j) => (codes[i][j] !== first[i][j] ? 0.9 : 0)} /></div>
      <div><h3>Decoded</h3><${Live} deps=${[settled.flat().join()]} text="The model decodes…" work=${async signal => { const made = await sample(model,
        { codes: [settled] }, signal); show(made.pictures[0]); return made; }}>${() => html`<img class="pixels"
          src=${shown} alt=${`Decoded picture, ${changed} codes changed`} width="196" height="196" />`}<//></div>
      <div><h3>Before</h3><img class="pixels" src=${before} alt="The picture before the change" width="196" height="196" /></div></div>
    <div class="lesson-slider"><${Slider} label=${`Code in row ${y + 1}, column ${x + 1}`} value=${codes[y][x]} set=${put} min="0"
      max=${manifest.codes.levels - 1} step="1" /></div>
    <p><button type="button" disabled=${!changed} onClick=${() => set(first)}>Undo all changes</button> <span class="quiet"
      role="status">${changed} of ${codes.flat().length} codes are changed.</span></p>`;
}

/** Return grids of codes, each code drawn uniformly from all levels. */
function uniformCodes(n, { shape: [height, width], levels }, seed) {
  const { uniform } = normals(0, 0, seed);
  return Array.from({ length: n }, () => Array.from({ length: height }, () => Array.from({ length: width }, () => Math.floor(uniform() * levels))));
}

function Prior({ get }) {
  const model = get(MODEL), [seed, control] = useSeed();
  return html`<p>Can we generate pictures by drawing each code at random? All codes are equally likely in the upper line. In the lower line, a second network draws
    them one after the other, and each depends on those before it: the <b>prior</b>, here a PixelCNN.</p><p>${control}</p>
    <${Live} text="The model draws codes and decodes them…" deps=${[String(seed)]} work=${async signal => {
      const manifest = await describe(model), random = uniformCodes(20, manifest.codes, seed);
      const [free, drawn] = await Promise.all([sample(model, { codes: random }, signal), sample(model, { seed, n: 20 }, signal)]);
      return [["Codes drawn uniformly", free.pictures], ["Codes drawn by the prior", drawn.pictures]];
    }}>${lines => lines.map(([title, pictures]) => html`<${Strip} title=${title} note="live" items=${pictures} size=${52} />`)}<//>
    <p>The decoder is the same. All knowledge of what a digit is lies in which codes go together.</p>`;
}

/**
 * Return -log2 p(codes) of each grid and the class under which each is most likely. If the prior has classes, p(codes) is the mean over the classes,
 * which are equally likely.
 */
async function bitsOfCodes(model, grids, signal) {
  const classes = model.classes ?? [null], inputs = [{ name: "codes", datatype: "INT64", shape: [grids.length * classes.length, ...[grids[0].length,
    grids[0][0].length]], data: grids.flatMap(grid => classes.flatMap(() => grid.flat())) }];
  const answer = await postJson(`v2/models/${model.name}.score_codes/infer`, { inputs, outputs: [{ name: "nll" }], ...(model.classes
    && { parameters: { class: JSON.stringify(grids.flatMap(() => classes)) } }) }, { signal });
  const { data } = answer.outputs[0];
  return grids.map((_, i) => {
    const nats = data.slice(i * classes.length, (i + 1) * classes.length), least = Math.min(...nats);
    const mean = nats.reduce((sum, value) => sum + Math.exp(least - value), 0) / classes.length;
    return { bits: (least - Math.log(mean)) / Math.LN2, likely: classes[nats.indexOf(least)] };
  });
}

/**
 * Return the bits of each code given those before it, from the logits of the prior. If the prior has classes, p is the mean over the classes as in
 * bitsOfCodes, so that the bits of all codes sum to those of the grid: the codes before a code tell which class is likely.
 */
async function bitsByCode(model, codes, signal) {
  const classes = model.classes ?? [null], inputs = [{ name: "codes", datatype: "INT64", shape: [classes.length, codes.length, codes[0].length],
    data: classes.flatMap(() => codes.flat()) }];
  const answer = await postJson(`v2/models/${model.name}.score_codes/infer`, { inputs, outputs: [{ name: "logits" }], ...(model.classes
    && { parameters: { class: JSON.stringify(classes) } }) }, { signal });
  const [{ shape: [, levels, height, width], data }] = answer.outputs, nats = classes.map(() => 0);  // -log p(the codes so far | class)
  const logMean = () => { const least = Math.min(...nats); return least - Math.log(nats.reduce((sum, value) => sum + Math.exp(least - value), 0) / nats.length); };
  return codes.map((line, y) => line.map((code, x) => {
    const before = logMean();
    classes.forEach((_, k) => {
      const logits = Array.from({ length: levels }, (__, level) => data[((k * levels + level) * height + y) * width + x]), most = Math.max(...logits);
      nats[k] += most + Math.log(logits.reduce((sum, value) => sum + Math.exp(value - most), 0)) - logits[code];
    });
    return (logMean() - before) / Math.LN2;
  }));
}

function Bits({ get }) {
  const model = get(MODEL);
  return html`<p>The prior gives each grid of codes a probability, and so a number of bits: −log₂ of it. Likely grids need few bits. The stronger the colour of a code,
    the more it surprised the prior, given the codes before it: all lines above, and those to its left.${model.classes ? ` The class is not given: each probability is the
      mean over the ${model.classes.length} classes.` : ""} The bits of all codes sum to those of the grid.</p>
    <${Chosen} get=${get}>${({ item, codes, manifest, place }) => html`<${Live} text="The prior scores the codes…" deps=${[place]} work=${async signal => {
      const drawn = await sample(model, { seed: 1, n: 1, return_latents: true }, signal), { count, each } = bitsOf(manifest);
      const [own, made, random] = await bitsOfCodes(model, [codes, drawn.codes[0], uniformCodes(1, manifest.codes, 1)[0]], signal);
      return { own, made, random, map: await bitsByCode(model, codes, signal), uniform: count * each };
    }}>${({ own, made, random, map, uniform }) => {
      const most = Math.max(...map.flat());
      return html`<div class="trio"><div><h3>Picture</h3><img class="pixels" src=${item} alt="The chosen picture" width="196" height="196" /></div>
        <div><h3>Bits of each code</h3><${Grid} codes=${codes} label="Bits of each code" shade=${(y, x) => map[y][x] / most} text=${(y, x) => map[y][x].toFixed(1)} />
          </div>
        <div><h3>Bits of the whole grid</h3><${Bars} label="Bits of a grid of codes" items=${[
          { name: "this picture", value: own.bits, text: `${Math.round(own.bits)}`, mark: true }, { name: "a sample of the prior", value: made.bits,
            text: `${Math.round(made.bits)}` },
          { name: "random codes", value: random.bits, text: `${Math.round(random.bits)}` }, { name: "without a prior", value: uniform,
            text: `${Math.round(uniform)}` }]} />
        <p>The prior saves ${Math.round(100 - 100 * own.bits / uniform)}% of the bits of this picture's codes.${own.likely !== null
          ? ` They are most likely as class ${own.likely}.` : ""}</p></div></div>`;
    }}<//>`}<//>`;
}

function Classes({ get }) {
  const model = get(MODEL), [seed, control] = useSeed();
  return html`<p>The prior of this model also knows the class. Each line has one class and four items of the same seed.</p><p>${control}</p>
    ${model.classes ? html`<${Live} text="The model generates…" deps=${[String(seed)]} work=${signal => Promise.all(model.classes.map(async name => ({ name,
      pictures: (await sample(model, { seed, n: 4, class: name }, signal)).pictures })))}>${lines => html`<div class="columns">${lines.map(({ name,
        pictures }) => html`<${Strip} title=${`Class ${name}`} items=${pictures} size=${52} />`)}</div>`}<//>`
          : html`<p class="note">The prior of this model has no classes.</p>`}
    <p>So the work is divided: codes describe parts, and the prior arranges them. Large models of pictures, sound and video use the same idea. <a
      href=${href({ model: MODEL, view: "latent" })}>Edit codes freely</a> or <a href=${href({ model: MODEL })}>generate more</a>.</p>`;
}

export const lesson = {
  papers: [
    { authors: "A. van den Oord, O. Vinyals and K. Kavukcuoglu", year: 2017, title: "Neural Discrete Representation Learning, arXiv 1711.00937",
      url: "https://arxiv.org/abs/1711.00937" },
    { authors: "A. van den Oord and others", year: 2016, title: "Conditional Image Generation with PixelCNN Decoders, arXiv 1606.05328",
      url: "https://arxiv.org/abs/1606.05328" },
  ],
  families: ["training/families/vqvae.py", "training/families/pixelcnn.py"],
  steps: [
    { title: "A picture in codes", needs: [MODEL], Body: Encode }, { title: "Change a code", needs: [MODEL], Body: Change }, { title: "Which codes go together",
      needs: [MODEL], Body: Prior },
    { title: "Count the bits", needs: [MODEL], Body: Bits }, { title: "Choose the class", needs: [MODEL], Body: Classes },
  ],
};
