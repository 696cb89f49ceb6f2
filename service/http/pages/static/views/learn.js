// Learn: guided views with live models. Each has steps, which the address names: ?view=learn&lesson=kl&step=2.
import { html, useEffect, useRef, useState } from "../lib/preact.js";
import { href, useAddress } from "../lib/address.js";
import { answers, listed } from "../lib/models.js";
import { Failure } from "../lib/ui.js";

/** The guided views. `needs` are the models that the live parts use. */
export const LESSONS = [
  {
    name: "kl", title: "Autoencoder or VAE", text: "What the KL term does: it turns a machine that compresses into one that generates.",
    needs: ["mnist-autoencoder", "mnist-vae", "mnist-vae-2d"], load: () => import("./lessons/kl.js"),
  },
  { name: "beta", title: "What β does", text: "A weight of the KL term: fewer active numbers, fewer senseless samples, blurrier pictures.", needs: ["mnist-vae",
    "mnist-beta-vae"], load: () => import("./lessons/beta.js") },
  { name: "ring", title: "Mode collapse", text: "Why a GAN can forget most of its data, on a ring of eight clusters, and how to count what is missing.",
    needs: ["mnist-gan", "mnist-cgan", "mnist-classifier"], load: () => import("./lessons/ring.js") },
  { name: "codes", title: "Codes and their prior", text: "A picture as a small grid of codes, and the model that knows which codes go together.",
    needs: ["mnist-vqvae"], load: () => import("./lessons/codes.js") },
  { name: "noise", title: "From noise to picture", text: "How a flow turns noise into a picture in a few steps, and how a class steers it.", needs: ["mnist-flow"],
    load: () => import("./lessons/noise.js") },
];

/** The view. */
export function View({ models }) {
  const params = useAddress(), lesson = LESSONS.find(each => each.name === params.lesson);
  if (!models) return html`<p role="status" class="note">The list of models is loading…</p>`;
  if (lesson) return html`<${Lesson} key=${lesson.name} about=${lesson} models=${models} step=${params.step} />`;
  return html`<h1>Learn</h1>
    <p>Five guided views of about two minutes each. You change something, and a live model answers.</p>
    ${params.lesson && html`<${Failure} error=${{ message: `There is no guided view “${params.lesson}”.`, advice: "Choose one of those below." }} />`}
    <ol class="lessons">${LESSONS.map((each, i) => {
      const missing = each.needs.filter(name => !usable(models, name));
      return html`<li key=${each.name}><a class="card" href=${href({ view: "learn", lesson: each.name })}><b>${i + 1}. ${each.title}</b><span>${each.text}</span>
        <span class="kind">${missing.length === 0 ? `Live: ${each.needs.join(", ")}` : models.some(model => model.state === "loading") ? "Models are still loading."
          : `This service lacks ${missing.join(", ")}. The other parts work.`}</span></a>
          </li>`;
    })}</ol>`;
}

const usable = (models, name) => { const model = listed(models, { name }); return model && answers(model) ? model : undefined; };

/** A note that a step cannot be shown, because models are missing or still load. */
function Missing({ models, names }) {
  const one = names.length === 1;
  if (names.some(name => listed(models, { name })?.state === "loading")) return html`<p class="note" role="status">${names.join(", ")} ${one ? "is"
    : "are"} still loading. This takes a few seconds.</p>`;
  return html`<div class="note" role="note"><p>This step needs ${one ? "the model " : "the models "}<b>${names.join(", ")}</b>, which ${one ? "does"
    : "do"} not answer in this service.
    Add ${one ? "it" : "them"} to the folder of models and restart the service, or go on with another step.</p></div>`;
}

/** One guided view: its module is loaded when it is opened. */
function Lesson({ about, models, step: text }) {
  const [module, set] = useState(null), [error, fail] = useState(null), heading = useRef(null), shown = useRef(text);
  const load = () => { fail(null); about.load().then(set, () => fail({ message: "This guided view cannot be loaded.",
    advice: "The service may have stopped. Reload the page." })); };
  useEffect(load, []);
  useEffect(() => {
    document.title = `${about.title} · Manifold`;
    return () => { document.title = "Manifold"; };
  }, []);
  useEffect(() => {
    if (shown.current === text) return;
    shown.current = text;
    scrollTo(0, 0);
    heading.current?.focus({ preventScroll: true });
  }, [text]);
  if (error) return html`<h1>${about.title}</h1><${Failure} error=${error} retry=${load} />`;
  if (!module) return html`<h1>${about.title}</h1><p role="status" class="busy">The guided view is loading…</p>`;
  const { steps, papers, families } = module.lesson, count = steps.length, number = /^\d+$/.test(text ?? "1") ? Number(text ?? 1) : 0;
  const link = i => href({ view: "learn", lesson: about.name, step: i === 1 ? null : i });
  const known = number >= 1 && number <= count, step = steps[number - 1], place = LESSONS.indexOf(about), next = LESSONS[place + 1];
  const missing = (step?.needs ?? []).filter(name => !usable(models, name));
  return html`<p class="crumbs"><a href=${href({ view: "learn" })}>Learn</a> › ${about.title}</p><h1>${about.title}</h1>
    <nav class="steps" aria-label="Steps">${steps.map((each, i) => html`<a key=${i} href=${link(i + 1)} aria-current=${i + 1 === number ? "step" : undefined}>
      <span>${i + 1}</span> ${each.title}</a>`)}</nav>
    ${!known ? html`<${Failure} error=${{ message: `This guided view has no step “${text}”.`, advice: `Choose one of its ${count} steps above.` }} />` : html`
      <section class="lesson" aria-labelledby="step"><h2 id="step" tabindex="-1" ref=${heading}><span class="hidden">Step ${number} of ${count}: </span>${step.title}</h2>
        ${missing.length > 0 ? html`<${Missing} models=${models} names=${missing} />` : html`<${step.Body} key=${number} get=${name => usable(models, name)} />`}
      </section>
      <p class="turn">${number > 1 ? html`<a class="button" href=${link(number - 1)}>← Back</a>` : html`<a class="button" href=${href({ view: "learn" })}>← All guided
        views</a>`}
        <span class="quiet">Step ${number} of ${count}</span>
        ${number < count ? html`<a class="button main" href=${link(number + 1)}>Next →</a>` : next ? html`<a class="button main" href=${href({ view: "learn",
          lesson: next.name })}>Next: ${next.title} →</a>` : html`<a class="button main" href=${href({})}>All models →</a>`}</p>`}
    <footer class="sources" aria-label="Sources"><h2>Sources</h2>
      <ul>${papers.map(({ title, authors, year, url }) => html`<li key=${url}>${authors} (${year}). <a href=${url} rel="noreferrer">${title}</a></li>`)}</ul>
      <p>Source code of these models: ${families.map((path, i) => html`${i > 0 && ", "}<code>${path}</code>`)}.</p></footer>`;
}
