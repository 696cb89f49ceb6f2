// The guided view "What β does": a VAE with the KL term weighted by 1, beside one with it weighted by 4.
import { html } from "../../lib/preact.js";
import { href } from "../../lib/address.js";
import { getJson } from "../../lib/api.js";
import { describe, fileOf } from "../../lib/models.js";
import { sample, sendItems } from "../../lib/made.js";
import { brief } from "../../lib/numbers.js";
import { Bars } from "../../lib/plots.js";
import { Slider } from "../../lib/ui.js";
import { Live, Reconstructed, Recorded, Strip, confidence, examples, percent, useIndex, useSeed } from "./parts.js";
import { useSettled } from "../../lib/tasks.js";

const ONE = "mnist-vae", FOUR = "mnist-beta-vae", COUNT = 10, SIZE = 20, USED = 0.1, DRAWN = 200;
const NAMES = { [ONE]: "β = 1", [FOUR]: "β = 4" };
const both = get => [get(ONE), get(FOUR)];

function Weight({ get }) {
  const models = both(get);
  return html`<p>The loss of a VAE is the reconstruction term plus β times the KL term. The KL term counts how much the latent tells about the picture. With β = 4 each
    bit in the latent is four times as expensive.
      These two models have the same networks and were trained for 60 epochs. Besides β, two things differ: the learning rate is constant with β = 1 and falls with β = 4,
      and the training pictures are 50 000 with β = 1 (5000 others served to choose options) and 55 000 with β = 4. See what the expensive latent leaves out:</p>
    <${Reconstructed} models=${models} names=${NAMES} count=${COUNT} />`;
}

/** Return the spread of each number of a latent: of the encoded test items, or (as a share of information) the recorded KL of each number. */
async function activity(model, signal) {
  if (fileOf(model, "points")) {
    const points = await getJson(fileOf(model, "points"), { signal });
    return { what: "standard deviation over test pictures", values: points.spread, order: points.active, used: points.spread.filter(value => value > USED).length };
  }
  const units = ((await describe(model)).metrics ?? []).find(metric => metric.name === "active_units"), values = units?.protocol.kl_by_dimension;
  const order = values && [...values.keys()].sort((a, b) => values[b] - values[a]);
  return { what: "recorded information, nats", values, order: order ?? [...Array(SIZE).keys()], used: units?.value };
}

/** Return the bar of one number of a latent. The latent view names it in the same way. */
const barOf = (index, value, used) => ({ name: `z${index + 1}`, value, mark: !used, text: `${brief(value, 2)}${used ? "" : " not used"}` });

function Active({ get }) {
  return html`<p>Both latents have 20 numbers, but not all are used. A number is <b>active</b> if it changes with the picture: if its standard deviation over test
    pictures is above ${USED}. The others stay at their average, because telling something would cost more than it saves. z1 is the first number.</p>
    <${Live} text="Loading the latents…" deps=${[]} work=${signal => Promise.all(both(get).map(model => activity(model,
      signal)))}>${found => html`<div class="split">${found.map(({ what, values, order, used }, i) => html`<div>
      <h3>${NAMES[both(get)[i].name]}: ${used} of ${SIZE} numbers are active</h3><p class="quiet">${what}</p>
      ${values && html`<${Bars} label=${`${NAMES[both(get)[i].name]}: ${what} of each number`} high=${Math.max(...found.flatMap(each => each.values ?? []))}
        items=${order.map((index, rank) => barOf(index, values[index], rank < used))} />`}</div>`)}</div>`}<//>`;
}

function Traverse({ get }) {
  const models = both(get), [picture, setPicture, wrong] = useIndex("item", COUNT, 0), [rank, setRank, bad] = useIndex("number", SIZE, 0), settled = useSettled(rank);
  const steps = [-2.5, -1.8, -1.1, -0.4, 0.4, 1.1, 1.8, 2.5];
  return html`<p>Choose a picture, and change one number of its latent from −2.5 to 2.5. The numbers are sorted: the most active one is first. Move the slider to the
    numbers that are not used: nothing changes any more.</p>${wrong}${bad}
    <${Live} text="Loading the pictures…" deps=${[]} work=${signal => examples(models, COUNT, signal)}>${({ items,
      what }) => html`<${Strip} title="Picture" note=${what} items=${items} size=${42} picked=${picture} onPick=${setPicture} label="Picture" />
      <${Slider} label="Number, by activity" value=${rank} set=${setRank} min="0" max=${SIZE - 1} step="1" format=${value => `${value + 1} of ${SIZE}`} />
      <${Live} text="The models decode…" deps=${[picture, settled]} work=${signal => Promise.all(models.map(async model => {
        const [{ mean }, { order }] = await Promise.all([sendItems("encode", model, [items[picture]], {}, signal), activity(model, signal)]);
        const latents = steps.map(value => mean[0].map((old, j) => (j === order[settled] ? value : old)));
        return { index: order[settled], pictures: (await sample(model, { latents }, signal)).pictures };
      }))}>${made => made.map(({ index, pictures }, i) => html`<${Strip} title=${NAMES[models[i].name]} note=${`z${index + 1}, live`} items=${pictures}
        captions=${steps.map(value => brief(value))} size=${56} />`)}<//>`}<//>`;
}

function Samples({ get }) {
  const [seed, control] = useSeed(), classifier = get("mnist-classifier");
  return html`<p>Now decode standard normal random numbers. With β = 4 the encoded pictures fill this place more evenly, so that fewer samples are nonsense. But each one is
    blurrier, because the latent can say less, and the samples differ less from each other: compare recall in the next step.</p><p>${control}</p>
    <${Live} text="The models generate…" deps=${[String(seed)]} work=${signal => Promise.all(both(get).map(async model => {
      const made = await sample(model, { seed, n: DRAWN, prior: "normal" }, signal);
      return { model, pictures: made.pictures, sure: await confidence(classifier, made.pictures, signal) };
    }))}>${made => made.map(({ model, pictures, sure }) => html`<${Strip} title=${NAMES[model.name]} note=${sure === null ? "live"
      : `live; a classifier is more than 90% sure of ${percent(sure)} of ${DRAWN} pictures, of which these are the first`} items=${pictures.slice(0,
        30)} size=${42} />`)}<//>`;
}

function Sum({ get }) {
  return html`<p>β chooses a point on one curve: less information in the latent (KL term), or a smaller error (reconstruction term). Neither end is best for
    everything. These figures were recorded when the models were evaluated.</p>
    <${Recorded} models=${both(get)} names=${["reconstruction", "kl", "active_units", "reconstruction_mse", "fd_classifier",
      "confident", "recall"]} prior="normal" titles=${NAMES} />
    <p><a href=${href({ model: FOUR, view: "latent", beside: ONE })}>Open both latent spaces side by side</a></p>`;
}

export const lesson = {
  papers: [
    { authors: "I. Higgins and others", year: 2017, title: "β-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, ICLR",
      url: "https://openreview.net/forum?id=Sy2fzU9gl" },
    { authors: "A. Alemi and others", year: 2017, title: "Fixing a Broken ELBO, arXiv 1711.00464", url: "https://arxiv.org/abs/1711.00464" },
  ],
  families: ["training/families/vae.py"],
  steps: [
    { title: "A weight", needs: [ONE, FOUR], Body: Weight }, { title: "Active numbers", needs: [ONE, FOUR], Body: Active }, { title: "Change one number", needs: [ONE,
      FOUR], Body: Traverse },
    { title: "Samples", needs: [ONE, FOUR], Body: Samples }, { title: "The trade", needs: [ONE, FOUR], Body: Sum },
  ],
};
