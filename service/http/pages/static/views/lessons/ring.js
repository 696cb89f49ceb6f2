// The guided view "Mode collapse": recorded training runs on a ring of eight clusters, and live counts of the classes that models make.
import { html, useEffect, useState } from "../../lib/preact.js";
import { href, useParam } from "../../lib/address.js";
import { getJson } from "../../lib/api.js";
import { sample, sendItems } from "../../lib/made.js";
import { Bars, Lines, Numbers } from "../../lib/plots.js";
import { Choice, Progress, Slider } from "../../lib/ui.js";
import { Live, Recorded, Strip, Wrong, percent, useIndex, useSeed } from "./parts.js";
import { useLoaded } from "../../lib/tasks.js";

// the data: standard deviation of a cluster (training/datasets/ring.py); a cluster is covered if SHARE of COUNTED points are within REACH (benchmarks/unrolled.py)
const DEVIATION = 0.02, REACH = 30 * DEVIATION, SHARE = 0.01, COUNTED = 2000, LAST = 10;
const PAUSE = 150, GAN = "mnist-gan", CGAN = "mnist-cgan", CLASSIFIER = "mnist-classifier", DRAWN = 200;

/** Draw the recorded runs when they are loaded. */
function Recording({ children }) {
  const [ring, task] = useLoaded(signal => getJson("static/data/ring.json", { signal }), []);
  return ring ? children(ring) : html`<${Progress} task=${task} text="Loading the recorded runs…" />`;
}

/** Return the share of points that are within three standard deviations of a cluster's centre, as 98.9% of the data are. */
const exact = (modes, points) => points.filter(([x, y]) => modes.some(([a, b]) => Math.hypot(x - a, y - b) < 3 * DEVIATION)).length / points.length;

/** The same share for the last frames of a run. */
const near = (modes, run) => exact(modes, run.points.slice(-LAST).flat());

/** Generated points of one frame, over the clusters (three standard deviations) and the circles whose points count for them. */
function Dots({ modes, points, title }) {
  const reach = 1.35 * Math.max(...modes.flat().map(Math.abs)), at = value => 150 + 140 * value / reach;
  return html`<svg class="ring" viewBox="0 0 300 300" role="img" aria-label=${title}><rect width="300" height="300" rx="8" />
    ${modes.map(([x, y]) => html`<circle class="mode" cx=${at(x)} cy=${at(-y)} r=${at(REACH) - at(0)} /><circle class="cluster" cx=${at(x)} cy=${at(-y)}
      r=${at(3 * DEVIATION) - at(0)} />`)}
    ${points?.map(([x, y]) => html`<circle class="dot" cx=${Math.min(298, Math.max(2, at(x)))} cy=${Math.min(298, Math.max(2, at(-y)))} r="2.4" />`)}</svg>`;
}

/** The last frame of a run. */
const End = ({ modes, run }) => html`<${Dots} modes=${modes} points=${run.points.at(-1)}
  title=${`Generated points at the end of the run ${run.title}: ${run.covered.at(-1)} of ${modes.length} clusters are covered`} />`;

function Problem() {
  return html`<p>The data are points in the plane, in eight narrow clusters on a ring (the small discs). A GAN has two players: the <b>generator</b> makes points from
    random numbers, and the <b>discriminator</b> tells them from data. At the start the generator knows nothing. In the end, all eight clusters should have points.</p>
    <p>A generator in training is less exact than the data, so we count generously: a cluster is <b>covered</b> if at least ${percent(SHARE)} of ${COUNTED} generated points are
      inside its dashed circle. The radius of the circle is ${REACH}, which is 30 standard deviations of the cluster; the ring has a radius of 2.</p>
    <${Recording}>${ring => html`<div class="split">
      <div><h3>Early: step ${ring.runs[0].steps[0]}</h3><${Dots} modes=${ring.modes} points=${ring.runs[0].points[0]} title="Generated points early in training, and the eight clusters" /></div>
      <div><h3>After training, if it goes well</h3><${End} modes=${ring.modes} run=${[...ring.runs].sort((a, b) => b.covered.at(-1) - a.covered.at(-1))[0]} /></div>
    </div><p class="quiet">Recorded: these ${ring.runs[0].points[0].length} points come from training runs of this project, not from a live model. A disc has a radius of three
      standard deviations, ${3 * DEVIATION}, and contains 98.9% of the data of its cluster. Points outside the frame are drawn at its edge.</p>`}<//>`;
}

function Watch() {
  return html`<p>Two recorded runs with the same data. Play them, or move the slider. The generator of the plain GAN moves most of its points towards one cluster, because the
    present discriminator takes them for data there; the discriminator learns this, and the generator moves on to another cluster. This is <b>mode collapse</b>.</p>
    <${Recording}>${ring => html`<${Runs} ring=${ring} />
      <p>Covered does not mean exact. In the last ${LAST} frames, ${ring.runs.map((run, i) => html`${i > 0 && " and "}<b>${percent(near(ring.modes, run))}</b> of the points of
        the ${run.title}`)} are within three standard deviations of a centre, against 98.9% of the data.</p>`}<//>`;
}

function Runs({ ring }) {
  const { modes, runs } = ring, count = Math.min(...runs.map(run => run.points.length)), [frame, set, wrong] = useIndex("frame", count, 0), [plays,
    play] = useState(false);
  useEffect(() => {
    if (!plays) return undefined;
    const timer = setTimeout(() => (frame + 1 < count ? set(frame + 1) : play(false)), PAUSE);
    return () => clearTimeout(timer);
  }, [plays, frame]);
  const start = () => { if (!plays && frame === count - 1) set(0); play(!plays); };
  const series = runs.map(run => ({ name: run.title, x: run.steps.slice(0, count), y: run.covered.slice(0, count) }));
  return html`${wrong}<div class="split">${runs.map(run => html`<div><h3>${run.title}</h3>
    <${Dots} modes=${modes} points=${run.points[frame]}
      title=${`${run.title}, step ${run.steps[frame]}: ${run.covered[frame]} of ${modes.length} clusters are covered`} />
      <p>Step ${run.steps[frame]}: <b>${run.covered[frame]} of ${modes.length}</b> clusters are covered.</p></div>`)}</div>
    <div class="player"><button type="button" class="main" onClick=${start}>${plays ? "Pause" : "Play"}</button>
      <${Slider} label="Training" value=${frame} set=${value => { play(false); set(value); }} min="0" max=${count - 1} step="1"
        format=${value => `${value + 1} / ${count}`} aria-valuetext=${`step ${runs[0].steps[frame]}`} /></div>
    <${Lines} series=${series} title="Covered clusters by training step" xTitle="training step" yTitle="covered clusters"
      height=${220} at=${runs[0].steps[frame]} low=${0} high=${modes.length} /><${Numbers} series=${series} xTitle="step" caption="Covered clusters by training step" />`;
}

/** Return a value of a configuration as text. */
const shown = value => (Array.isArray(value) ? value.join(", ") || "none" : String(value ?? "–"));

function Remedy() {
  return html`<p>The two runs differ in these options only.</p>
    <${Recording}>${({ runs, modes }) => {
      const names = [...new Set(runs.flatMap(run => Object.keys(run.config ?? {})))],
        differ = names.filter(name => new Set(runs.map(run => shown(run.config[name]))).size > 1);
      return html`<div class="scroll" tabindex="0" role="region" aria-label="Options that differ"><table class="figures">
        <caption class="hidden">Options that differ</caption><thead><tr><th scope="col">Option</th>${runs.map(run => html`<th scope="col">${run.title}</th>`)}</tr>
          </thead>
        <tbody>${differ.map(name => html`<tr><th scope=row><code>${name}</code></th>${runs.map(run => html`<td>${shown(run.config[name])}</td>`)}</tr>`)}
          <tr><th scope=row>Covered clusters, mean over the recording</th>${runs.map(run => html`<td>${(run.covered.reduce((a, b) => a + b,
            0) / run.covered.length).toFixed(1)} of ${modes.length}</td>`)}</tr>
          <tr><th scope=row>Covered clusters at the end</th>${runs.map(run => html`<td>${run.covered.at(-1)} of ${modes.length}</td>`)}</tr>
          <tr><th scope=row>Points within three standard deviations, last ${LAST} frames</th>${runs.map(run => html`<td>${percent(near(modes, run))}</td>`)}</tr></tbody></table></div>
        ${names.length > differ.length && html`<details><summary>Options that are the same</summary>
          <dl class="facts">${names.filter(name => !differ.includes(name)).map(name => html`<dt><code>${name}</code></dt><dd>${shown(runs[0].config[name])}</dd>`)}</dl>
            </details>`}`;
    }}<//>
    <p>A remedy of this family is <b>unrolled</b> steps: the generator does not play against the present discriminator, but against the one that would answer its move
      some
      steps later. Leaving clusters out no longer pays, but each step of training takes longer. The page docs/explanation/gans.md of the documentation has the
        experiment.</p>`;
}

function Count({ get }) {
  const [name, choose] = useParam("gan", GAN), choices = [GAN, CGAN, "mnist-dcgan", "mnist-flow"].filter(each => get(each)), model = get(choices.includes(name) ? name
    : GAN), classifier = get(CLASSIFIER), [seed, control] = useSeed();
  return html`<p>Pictures have no ring to look at, but we can count. A live model draws ${DRAWN} digits, and a classifier counts the classes. A class with far fewer
    than ${percent(0.1)} is partly forgotten; one with none is dropped. A model that drops most classes has collapsed.</p>
    ${!choices.includes(name) && html`<${Wrong} name="model" value=${name} used=${model.name} valid=${choices.join(", ")} />`}
    <div class="controls"><div class="field"><span>Model</span><${Choice} label="Model" value=${model.name} set=${value => choose(value,
      { push: true })} options=${choices.map(each => [each, each])} /></div>${control}</div>
    <${Live} text=${`${model.name} draws, and the classifier counts…`} deps=${[model.name, String(seed)]} work=${async signal => {
      const made = await sample(model, { seed, n: DRAWN }, signal), { items } = await sendItems("classify", classifier, made.pictures, {}, signal);
      return { model, pictures: made.pictures, items };
    }}>${({ model: of, pictures, items }) => {
      const names = classifier.classes, counts = names.map(each => items.filter(item => item.class === each).length), least = counts.indexOf(Math.min(...counts));
      const own = names.map(each => items.findIndex(item => item.class === each)).filter(i => i >= 0), distinct = new Set(pictures).size;
      return html`<div class="split"><div><h3>Classes of ${DRAWN} pictures</h3><${Bars} label=${`Number of pictures by class, of ${DRAWN}`} items=${names.map((each,
        i) => ({ name: each, value: counts[i], mark: i === least, text: `${counts[i]}${i === least ? " rarest" : ""}` }))} /></div>
        <div><${Strip} title="One of each class" note=${`${of.name}, live`} items=${own.map(i => pictures[i])} captions=${own.map(i => items[i].class)} size=${52} />
        <p>The rarest class is ${names[least]}, with ${percent(counts[least] / items.length)} of the pictures. ${distinct} of ${pictures.length} pictures are
          distinct.${of.classes ? " Each class is requested equally often here: this model cannot drop a class, unless it ignores the request." : ""}</p></div></div>`;
    }}<//>`;
}

function Measured({ get }) {
  const models = [GAN, CGAN, "mnist-dcgan"].map(get).filter(Boolean);
  return html`<p>Three figures of an evaluation find collapse: the share of the rarest class, <b>recall</b> (the share of real pictures that lie among the generated
    ones) and the class divergence. Precision alone does not: a collapsed model can be precise.</p>
    <${Recorded} models=${models} names=${["least_class_share", "recall", "precision", "class_divergence", "duplicates", "fd_classifier"]} />
    <p>These figures were recorded from 10 000 pictures of each model. <a href=${href({ view: "compare",
      models: models.map(model => model.name).join() })}>Compare these models on one seed</a></p>`;
}

export const lesson = {
  papers: [
    { authors: "I. Goodfellow and others", year: 2014, title: "Generative Adversarial Networks, arXiv 1406.2661", url: "https://arxiv.org/abs/1406.2661" },
    { authors: "L. Metz, B. Poole, D. Pfau and J. Sohl-Dickstein", year: 2016, title: "Unrolled Generative Adversarial Networks, arXiv 1611.02163",
      url: "https://arxiv.org/abs/1611.02163" },
  ],
  families: ["training/families/gan.py", "training/families/cgan.py"],
  steps: [
    { title: "The task", Body: Problem }, { title: "Watch it collapse", Body: Watch }, { title: "A remedy", Body: Remedy }, { title: "Count classes", needs: [GAN,
      CLASSIFIER], Body: Count }, { title: "Measure it", needs: [GAN], Body: Measured },
  ],
};
