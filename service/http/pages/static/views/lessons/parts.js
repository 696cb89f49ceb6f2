// What the guided views share: live parts, seeds, test items, and random numbers that a seed determines.
import { html, useRef } from "../../lib/preact.js";
import { useParam } from "../../lib/address.js";
import { Pictures, sample, sendItems, testItems } from "../../lib/made.js";
import { describe } from "../../lib/models.js";
import { betterOf, figuresOf, valueOf, wordsOf } from "../../lib/metrics.js";
import { brief, randomSeed, readSeed } from "../../lib/numbers.js";
import { Failure, Progress } from "../../lib/ui.js";
import { useLoaded } from "../../lib/tasks.js";

/** A live part: `work(signal)` runs whenever `deps` change, and the child function draws its result. The last result stays until the next one arrives. */
export function Live({ work, deps, text, children }) {
  const [value, task] = useLoaded(work, deps), last = useRef(undefined);
  if (value !== undefined) last.current = value;
  return html`<div class="live">${last.current !== undefined && !task.error && children(last.current)}<${Progress} task=${task} text=${text} /></div>`;
}

/** Return [seed, control]: the seed of the address (`fallback` if it is none), and a button for a new one. */
export function useSeed(fallback = "1", label = "New seed") {
  const [text, set] = useParam("seed", fallback), seed = readSeed(text);
  const control = html`<span class="seed"><button type="button" onClick=${() => set(String(randomSeed()),
    { push: true })}>${label}</button> <small>seed ${String(seed ?? fallback)}</small></span>
    ${seed === null && html`<${Failure} error=${{ message: `“${text}” is not a seed, so seed ${fallback} is used.`, advice: "Press the button for a new one." }} />`}`;
  return [seed ?? BigInt(fallback), control];
}

/** A note that a value of the address cannot be used, and what is used instead. */
export const Wrong = ({ name, value, used, valid }) => html`<${Failure} error=${{ message: `“${value}” is not a valid ${name}, so ${used} is used.`,
  advice: `Choose one below. Valid: ${valid}.` }} />`;

/** Return [index, set, note] of a parameter of the address that is a whole number from 0 to `count` - 1. The note says if it is something else. */
export function useIndex(name, count, fallback = 0) {
  const [text, set] = useParam(name, String(fallback)), value = /^\d+$/.test(text) ? Number(text) : count;
  if (value < count) return [value, set, null];
  return [fallback, set, html`<${Wrong} name=${`value of “${name}”`} value=${text} used=${fallback} valid=${`0 to ${count - 1}`} />`];
}

/**
 * Return {items, what} with pictures to encode: test items from the sheet of the first model that has one, otherwise samples of the first model that
 * makes some. `what` says which.
 */
export async function examples(models, n, signal) {
  for (const model of models.filter(Boolean)) {
    const items = await testItems(model, n, signal);
    if (items?.length) return { items, what: "test item" };
  }
  const [model] = models.filter(Boolean), made = await sample(model, { seed: 1, n }, signal);
  return { items: made.pictures, what: `sample of ${model.name}` };
}

/** Return n latents of standard normal random numbers, which a seed determines (a 32-bit generator, mulberry32, and Box and Muller's method). */
export function normals(n, size, seed) {
  let state = Number(BigInt(seed) & 0xffffffffn) >>> 0;
  const uniform = () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const normal = () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  return { latents: Array.from({ length: n }, () => Array.from({ length: size }, normal)), uniform };
}

/** Return the share of pictures that a classifier is more than 90% sure of; null without a classifier. */
export async function confidence(classifier, pictures, signal) {
  if (!classifier) return null;
  const { items } = await sendItems("classify", classifier, pictures, {}, signal);
  return items.filter(item => item.probabilities[item.class] > 0.9).length / items.length;
}

/** A named line of pictures. */
export const Strip = ({ title, note, items, size = 56, captions, ...rest }) => html`<div class="named"><p>
  <b>${title}</b>${note && html` <span class="quiet">${note}</span>`}</p>
  <${Pictures} items=${items} alt=${title} size=${size} captions=${captions} ...${rest} /></div>`;

/** Test items, and their live reconstructions by several models. `names` are titles by the name of the model. */
export const Reconstructed = ({ models, names, count }) => html`<${Live} text="The models encode and decode…" deps=${[]} work=${async signal => {
      const { items, what } = await examples(models, count, signal);
      return { items, what, made: await Promise.all(models.map(model => sendItems("reconstruct", model, items, {}, signal))) };
    }}>${({ items, what, made }) => html`<${Strip} title="Input" note=${`${what}s`} items=${items} />
      ${made.map(({ pictures, errors }, i) => html`<${Strip} title=${names[models[i].name]} note=${`mean squared error ${brief(errors.reduce((a, b) => a + b,
        0) / errors.length, 3)}, live`} items=${pictures} />`)}`}<//>`;

/** A table of recorded figures of several models. `names` are figures; `prior` selects an evaluation. */
export function Recorded({ models, names, prior, titles = {} }) {
  return html`<${Live} work=${() => Promise.all(models.map(describe))} deps=${[models.map(model => model.name).join()]} text="Loading the figures…">${found => {
    const of = (manifest, name) => figuresOf(manifest.metrics ?? []).filter(figure => figure.name === name && (figure.protocol?.by !== "evaluation" || !prior
      || figure.protocol.prior === prior));
    const cell = figures => (figures.length ? figures.map(figure => html`<div>${valueOf(figure)}${figure.protocol?.prior
      && html` <small>prior ${figure.protocol.prior}</small>`}</div>`) : "–");
    return html`<div class="scroll" tabindex="0" role="region" aria-label="Recorded figures"><table class="figures"><caption class="hidden">Recorded figures</caption>
      <thead><tr><th scope="col">Figure</th>${found.map(manifest => html`<th scope="col">${titles[manifest.name] ?? manifest.name}</th>`)}</tr></thead>
      <tbody>${names.filter(name => found.some(manifest => of(manifest, name).length)).map(name => html`<tr>
        <th scope=row title=${wordsOf(name)[1]}>${wordsOf(name)[0]}${betterOf(name) && html`<small>${betterOf(name)} is better</small>`}</th>
        ${found.map(manifest => html`<td>${cell(of(manifest, name))}</td>`)}</tr>`)}</tbody></table></div>`;
  }}<//>`;
}

export const percent = share => `${brief(100 * share, 3)}%`;
