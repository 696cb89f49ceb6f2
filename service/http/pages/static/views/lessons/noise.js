// The guided view "From noise to picture": a flow, its steps, its recorded path, and guidance by class.
import { html, useEffect, useMemo, useState } from "../../lib/preact.js";
import { href, useParam } from "../../lib/address.js";
import { getJson } from "../../lib/api.js";
import { inputsOf, samplingTask } from "../../lib/models.js";
import { sample, sendItems } from "../../lib/made.js";
import { brief } from "../../lib/numbers.js";
import { Choice, Progress, Slider } from "../../lib/ui.js";
import { Live, Strip, Wrong, examples, useIndex, useSeed } from "./parts.js";
import { blobOf, pixelsOf } from "../../lib/files.js";
import { useLoaded, useSettled } from "../../lib/tasks.js";
import { splitGrid } from "../../lib/pictures.js";

const MODEL = "mnist-flow", COUNT = 8, PAUSE = 350, STRONGEST = 10;

/** Return grey values (lists of lists) from -1 to 1 as a data URL. */
function drawn(values) {
  const [height, width] = [values.length, values[0].length], canvas = Object.assign(document.createElement("canvas"), { width, height }),
    context = canvas.getContext("2d");
  const picture = context.createImageData(width, height);
  values.flat().forEach((value, i) => picture.data.set([...Array(3).fill(Math.round(127.5 * (Math.min(1, Math.max(-1, value)) + 1))), 255], 4 * i));
  context.putImageData(picture, 0, 0);
  return canvas.toDataURL();
}

/** Return the grey values of a picture from -1 to 1. */
async function valuesOf(src) {
  const { data, width, height } = await pixelsOf(src);
  return Array.from({ length: height }, (_, y) => Array.from({ length: width }, (__, x) => data[4 * (y * width + x)] / 127.5 - 1));
}

function Start({ get }) {
  const model = get(MODEL), [seed, control] = useSeed();
  return html`<p>This model starts from a picture of pure noise: a standard normal random number for each pixel. It moves all pixels a little, several times, until a digit is
    there. ${model.classes ? "The seed determines the noise and draws a class; noise and class together determine the picture."
      : "The seed determines the noise, and the noise determines the picture."}</p><p>${control}</p>
    <${Live} text="The flow generates…" deps=${[String(seed)]} work=${async signal => {
      const made = await sample(model, { seed, n: COUNT, return_latents: true }, signal);
      return { noise: made.latents.map(each => drawn(each[0])), pictures: made.pictures, classes: made.classes };
    }}>${({ noise, pictures, classes }) => html`<${Strip} title="Noise" note="live" items=${noise} size=${72} />
      <${Strip} title="Picture" note="live" items=${pictures} captions=${classes?.map(name => `class ${name}`)} size=${72} />`}<//>`;
}

function Mix({ get }) {
  const model = get(MODEL), [seed, control] = useSeed(), [share, set] = useState(0.5);
  return html`<p>Training is simple. Take a picture and noise, and mix them: the share t is picture, the rest is noise. The network sees the mixture and t, and learns
    the direction from the noise to the picture. Move t.</p><p>${control}</p>
    <${Live} text="The flow generates…" deps=${[String(seed)]} work=${async signal => {
      const [pair, other] = await Promise.all([sample(model, { seed, n: 5 }, signal), sample(model, { seed: 10n ** 9n + seed % 10n ** 9n, n: 5, return_latents: true },
        signal)]);
      return { pictures: await Promise.all(pair.pictures.map(valuesOf)), noise: other.latents.map(each => each[0]) };
    }}>${found => html`<${Mixtures} ...${found} share=${share} />`}<//>
    <div class="lesson-slider"><${Slider} label="Time t" value=${share} set=${set} min="0" max="1" step="0.01" format=${value => value.toFixed(2)} /></div>
    <p class="quiet">The page mixes live noise with live pictures. Many pictures and much noise lead to the same mixture, so the network learns the average
      direction.</p>`;
}

function Mixtures({ pictures, noise, share }) {
  const mixed = useMemo(() => pictures.map((picture, i) => drawn(picture.map((line, y) => line.map((value, x) => share * value + (1 - share) * noise[i][y][x])))),
    [pictures, noise, share]);
  return html`<${Strip} title=${`Mixture at t = ${share.toFixed(2)}`} items=${mixed} size=${96} />`;
}

function Path({ get }) {
  const [record, task] = useLoaded(async signal => {
    const found = await getJson("static/data/path.json", { signal }), lines = async text => {
      const all = await splitGrid(blobOf(`data:image/png;base64,${text}`), found, 1, 0), each = found.steps + 1;
      return found.classes.map((_, i) => all.slice(i * each, (i + 1) * each));
    };
    return { ...found, states: await lines(found.states), expected: await lines(found.expected) };
  }, []);
  return html`<p>To generate, the model starts at t = 0 and takes steps in the direction that the network predicts. Move through the steps. “State” is where the model
    is. “Expected end” is where it would arrive if it went straight on: at first an average of many pictures, later one of them.</p>
    ${record ? html`<${Frames} record=${record} model=${get(MODEL)} />` : html`<${Progress} task=${task} text="Loading the recorded path…" />`}`;
}

function Frames({ record, model }) {
  const { states, expected, steps, classes, seed, guidance } = record, [at, set, wrong] = useIndex("at", steps + 1, 0), [plays, play] = useState(false);
  useEffect(() => {
    if (!plays) return undefined;
    const timer = setTimeout(() => (at < steps ? set(at + 1) : play(false)), PAUSE);
    return () => clearTimeout(timer);
  }, [plays, at]);
  const start = () => { if (!plays && at === steps) set(0); play(!plays); };
  const names = classes.map(name => `class ${name}`);
  return html`${wrong}<div class="split"><div><${Strip} title="State" note=${`t = ${brief(at / steps)}`} items=${states.map(line => line[at])}
        size=${112} captions=${names} /></div>
      <div><${Strip} title="Expected end" note=${`seen from t = ${brief(at / steps)}`} items=${expected.map(line => line[at])}
        size=${112} captions=${names} /></div></div>
    <div class="player"><button type="button" class="main" onClick=${start}>${plays ? "Pause" : "Play"}</button>
      <${Slider} label="Step" value=${at} set=${value => { play(false); set(value); }} min="0" max=${steps} step="1" format=${value => `${value} of ${steps}`} /></div>
    <p class="quiet">Recorded: the service does not return the states between noise and picture. This path was recorded from ${record.model},
      version ${record.version}, with seed ${seed}, ${steps} steps and guidance ${guidance}. Here is its end, live:</p>
    <${Live} text="The flow generates…" deps=${[]} work=${signal => sample(model, { seed, n: classes.length, class: classes, steps, guidance },
      signal)}>${made => html`<${Strip} title="The same seed, live" note=${`${made.model}, version ${made.version}`} items=${made.pictures} size=${72} />`}<//>`;
}

function Steps({ get }) {
  const model = get(MODEL), [seed, control] = useSeed(), { choices = [], default: usual } = inputsOf(model,
    samplingTask(model)).find(input => input.name === "steps") ?? {};
  const [made, setMade] = useState({});
  const [, task] = useLoaded(async signal => {
    await sample(model, { seed, n: COUNT, steps: choices[0] }, signal);  // the first run takes longer, whatever its steps
    for (const steps of choices) {
      const answer = await sample(model, { seed, n: COUNT, steps }, signal);
      if (signal.aborted) return;
      setMade(before => ({ ...before, [steps]: answer }));
    }
  }, [String(seed)]);
  return html`<p>Fewer steps are faster, but each one goes further in a direction that is only right near its start. The same noise and class lead to nearly the same
    pictures. Compare the time with what you see.</p><p>${control}</p>
    ${!choices.length && html`<p class="note">This model has a fixed number of steps.</p>`}
    ${choices.filter(steps => made[steps]).map(steps => html`<${Strip} key=${steps} title=${`${steps} steps`} note=${`${Math.round(made[steps].timing.compute)} ms${steps === usual
      ? ", the default" : ""}, live`} items=${made[steps].pictures} size=${64} />`)}
    <${Progress} task=${task} text="The flow generates, with one number of steps after the other…" />
    <p class="quiet">The requests run one after the other, so that they do not slow each other down. Other work on this computer still changes the time.</p>`;
}

function Guide({ get }) {
  const model = get(MODEL), [seed, control] = useSeed(), input = inputsOf(model, samplingTask(model)).find(each => each.name === "guidance"),
    classes = model.classes ?? [];
  const [text, setText] = useParam("guidance", String(input?.default ?? 1)), [name, setName] = useParam("class", classes[3] ?? "");
  const given = Number(text), valid = text.trim() !== "" && given >= 0 && given <= STRONGEST, value = valid ? given : input?.default ?? 1;
  const settled = useSettled(value), known = classes.includes(name) ? name : classes[0];
  if (!input || !classes.length) return html`<p class="note">This model has no classes, or no guidance.</p>`;
  return html`<p>The network can predict the direction for a class, and without one. <b>Guidance</b> exaggerates the difference between both. 0 ignores the class, 1 is
    what was trained; more makes typical digits, and in the end all alike.</p>
    ${!valid && html`<${Wrong} name="guidance" value=${text} used=${value} valid=${`0 to ${STRONGEST}`} />`}
    ${known !== name && html`<${Wrong} name="class" value=${name} used=${known} valid=${classes.join(", ")} />`}
    <div class="controls"><div class="field"><span>Class</span><${Choice} label="Class" value=${known} set=${setName} options=${classes.map(each => [each, each])} />
      </div>${control}</div>
    <div class="lesson-slider"><${Slider} label="Guidance" value=${value} set=${next => setText(String(next))} min="0" max=${STRONGEST} step="0.5" /></div>
    <${Live} text="The flow generates…" deps=${[String(seed), known, settled]} work=${signal => sample(model, { seed, n: 16, class: known, guidance: settled },
      signal)}>${made => html`<${Strip} title=${`Class ${known}, guidance ${brief(settled)}`} note="the same noise for each value, live"
        items=${made.pictures} size=${64} />`}<//>`;
}

function Back({ get }) {
  const model = get(MODEL), [place, pick, wrong] = useIndex("item", COUNT, 0);
  return html`<p>The path can be followed backwards: from a picture to the noise that leads to it. Forwards again, the same noise returns the picture. Choose one. With
    another class, the same noise becomes another digit, often in the same handwriting.</p>${wrong}
    <${Live} text="Loading the pictures…" deps=${[]} work=${signal => examples([model, get("mnist-vae")], COUNT, signal)}>${({ items,
      what }) => html`<${Strip} title="Picture" note=${what} items=${items} size=${52} picked=${place} onPick=${pick} label="Picture" />
      <${Live} text="The flow goes back and forth…" deps=${[place]} work=${async signal => {
        const { mean } = await sendItems("encode", model, [items[place]], {}, signal), classes = model.classes ?? [];
        const [back, others] = await Promise.all([sample(model, { latents: mean, ...(classes.length && { class: "none", guidance: 1 }) }, signal), classes.length
          ? sample(model, { latents: classes.map(() => mean[0]), class: classes, guidance: 2 }, signal) : null]);
        return { noise: drawn(mean[0][0]), back: back.pictures[0], others: others?.pictures, classes };
      }}>${({ noise, back, others, classes }) => html`<${Strip} title="Picture, its noise, and back again" note="live" items=${[items[place], noise,
        back]} captions=${["picture", "noise", "back again"]} size=${112} />
        ${others && html`<${Strip} title="The same noise, with each class" note="guidance 2, live" items=${others} captions=${classes} size=${64} />`}`}<//>`}<//>
    <p><a href=${href({ model: MODEL })}>Generate with all options</a></p>`;
}

export const lesson = {
  papers: [
    { authors: "Y. Lipman and others", year: 2022, title: "Flow Matching for Generative Modeling, arXiv 2210.02747", url: "https://arxiv.org/abs/2210.02747" },
    { authors: "X. Liu, C. Gong and Q. Liu", year: 2022, title: "Flow Straight and Fast, arXiv 2209.03003", url: "https://arxiv.org/abs/2209.03003" },
    { authors: "J. Ho and T. Salimans", year: 2022, title: "Classifier-Free Diffusion Guidance, arXiv 2207.12598", url: "https://arxiv.org/abs/2207.12598" },
  ],
  families: ["training/families/flow.py"],
  steps: [
    { title: "Noise", needs: [MODEL], Body: Start }, { title: "How it is trained", needs: [MODEL], Body: Mix }, { title: "The path", needs: [MODEL], Body: Path },
      { title: "How many steps", needs: [MODEL], Body: Steps },
    { title: "Guidance", needs: [MODEL], Body: Guide }, { title: "Backwards", needs: [MODEL], Body: Back },
  ],
};
