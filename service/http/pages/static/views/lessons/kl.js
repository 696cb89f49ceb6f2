// The guided view "Autoencoder or VAE": what the KL term does.
import { html, useState } from "../../lib/preact.js";
import { href } from "../../lib/address.js";
import { postJson } from "../../lib/api.js";
import { nouns } from "../../lib/models.js";
import { outputsOf, sample } from "../../lib/made.js";
import { Bars } from "../../lib/plots.js";
import { loadSpace, planeOf } from "../../lib/latents.js";
import { Plane } from "../latent-plane.js";
import { Live, Reconstructed, Recorded, Strip, confidence, examples, normals, percent, useIndex, useSeed } from "./parts.js";
import { base64 } from "../../lib/files.js";

const PLAIN = "mnist-autoencoder", VAE = "mnist-vae", FLAT = "mnist-vae-2d", COUNT = 10, DRAWN = 200;
const NAMES = { [PLAIN]: "Autoencoder", [VAE]: "VAE" };
const both = get => [get(PLAIN), get(VAE)];

function Compress({ get }) {
  const models = both(get);
  return html`<p>Both models squeeze a picture of 784 pixels into 20 numbers, the <b>latent</b>, and rebuild the picture from them. The encoder and the decoder have
    the same size. The VAE draws its latent at random near the encoder’s mean, and has one more term in its loss, the <b>KL term</b>. (It was also trained for longer, 60 epochs
      instead of 30, and on fewer pictures, 50 000 instead of 55 000.)
      Compare the reconstructions: without the KL term they are at least as good.</p>
    <${Reconstructed} models=${models} names=${NAMES} count=${COUNT} />`;
}

function Places({ get }) {
  const models = both(get);
  return html`<p>Each dot is a test picture at the place of its latent. Its 20 numbers are projected to two. Both planes have the same scale.
      The KL term pulls all dots towards the middle, where standard normal random numbers lie; without it they lie anywhere.</p>
    <${Live} text="Loading the latents…" deps=${[]} work=${() => Promise.all(models.map(model => loadSpace(model)))}>${spaces => html`
      <${Planes} models=${models} spaces=${spaces} />
      <h3>How far the numbers spread</h3><p>Standard deviation of each of the 20 numbers over the test pictures. In the VAE none is far above 1, and those near 0 are
        not used.</p>
      <div class="split">${spaces.map(({ points }, i) => points && html`<div><h3>${NAMES[models[i].name]}</h3>
        <${Bars} label=${`Standard deviation of each number of ${models[i].name}`}
        high=${Math.max(...spaces.flatMap(each => each.points?.spread ?? []))}
        items=${points.active.map(index => ({ name: `z${index + 1}`, value: points.spread[index] }))} /></div>`)}</div>`}<//>`;
}

/** The planes of both models with one scale. Zooming changes both. */
function Planes({ models, spaces }) {
  const reach = spaces.flatMap(({ space, points }) => (points ? points.means.flatMap(planeOf(space, points).to).map(Math.abs) : []));
  const [area, set] = useState({ x: 0, y: 0, half: 1.05 * Math.max(3, ...reach) });
  return html`<div class="split">${models.map(model => html`<div key=${model.name}><h3>${NAMES[model.name]}</h3>
    <${Plane} model=${model} size=${460} showPlane=${false} area=${area} setArea=${set} /></div>`)}</div>`;
}

function Draw({ get }) {
  const [seed, control] = useSeed("1", "Draw other numbers"), classifier = get("mnist-classifier");
  return html`<p>To generate, we draw 20 standard normal random numbers and decode them. Both decoders get the same numbers here.
      The VAE was trained so that such numbers are decodable. The autoencoder was not trained on such latents.</p>
    <p>${control}</p>
    <${Live} text="The models decode…" deps=${[String(seed)]} work=${signal => Promise.all(both(get).map(async model => {
      const made = await sample(model, { latents: normals(DRAWN, 20, seed).latents }, signal);
      return { model, pictures: made.pictures, sure: await confidence(classifier, made.pictures, signal) };
    }))}>${made => made.map(({ model, pictures, sure }) => html`<${Strip} title=${NAMES[model.name]} note=${sure === null ? "live"
      : `live; a classifier is more than 90% sure of ${percent(sure)} of ${DRAWN} pictures, of which these are the first`} items=${pictures.slice(0,
        30)} size=${42} />`)}<//>`;
}

function Walk({ get }) {
  const models = both(get), [from, setFrom, wrong] = useIndex("from", COUNT, 0), [to, setTo, bad] = useIndex("to", COUNT, 1);
  const { one } = nouns(models[0]);
  return html`<p>Choose two pictures. Each model encodes both and decodes 12 latents on the straight line between them. On the autoencoder's line there can be holes:
    places between the clusters that decode to no digit.</p>${wrong}${bad}
    <${Live} text="Loading the pictures…" deps=${[]} work=${signal => examples(models, COUNT, signal)}>${({ items, what }) => html`
      <${Strip} title="From" note=${what} items=${items} size=${42} picked=${from} onPick=${setFrom} label="From" />
        <${Strip} title="To" note=${what} items=${items} size=${42} picked=${to} onPick=${setTo} label="To" />
      <${Live} text="The models decode…" deps=${[from, to]} work=${signal => Promise.all(models.map(async model => {
        const fields = { model: model.name, version: model.version, steps: 12, method: "lerp", from: { [one]: base64(items[from]) }, to: { [one]: base64(items[to]) } };
        return outputsOf(model, await postJson("interpolate", fields, { signal }))[0].items;
      }))}>${paths => paths.map((path, i) => html`<${Strip} title=${NAMES[models[i].name]} note="live" items=${path} size=${52} />`)}<//>`}<//>`;
}

function Flat({ get }) {
  const model = get(FLAT);
  return html`<p>This VAE has only two numbers, so the plane shows its whole latent space. Move the pointer over it, or use the arrow keys: almost every place decodes
    to a digit, and neighbours are alike. The dots are encoded test pictures.</p>
    <${Plane} model=${model} size=${560} showPlane=${true} />
    <p><a href=${href({ model: FLAT, view: "latent" })}>Open this latent space with the decoder that follows the pointer</a></p>`;
}

function Price({ get }) {
  return html`<p>The KL term has a price: reconstructions are less exact. It buys samples: the Fréchet distance says how far they are from real pictures. These figures
    were recorded when the models were evaluated.</p>
    <${Recorded} models=${both(get)} names=${["reconstruction_mse", "kl", "active_units", "fd_classifier", "confident"]} titles=${NAMES} />
    <p>“prior” says where the latents come from: standard normal random numbers, or a Gaussian or a mixture that was fitted to the latents after training. The autoencoder
      needs
      a fitted one. <a href=${href({ view: "compare", models: `${PLAIN},${VAE}` })}>Compare both models on one seed</a></p>`;
}

export const lesson = {
  papers: [
    { authors: "D. P. Kingma and M. Welling", year: 2013, title: "Auto-Encoding Variational Bayes, arXiv 1312.6114", url: "https://arxiv.org/abs/1312.6114" },
    { authors: "D. J. Rezende, S. Mohamed and D. Wierstra", year: 2014,
      title: "Stochastic Backpropagation and Approximate Inference in Deep Generative Models, arXiv 1401.4082",
      url: "https://arxiv.org/abs/1401.4082" },
  ],
  families: ["training/families/vae.py"],
  steps: [
    { title: "Compress", needs: [PLAIN, VAE], Body: Compress }, { title: "Where pictures land", needs: [PLAIN, VAE], Body: Places }, { title: "Draw at random",
      needs: [PLAIN, VAE], Body: Draw },
    { title: "Walk between two", needs: [PLAIN, VAE], Body: Walk }, { title: "A whole plane", needs: [FLAT], Body: Flat }, { title: "The price", needs: [PLAIN, VAE],
      Body: Price },
  ],
};
