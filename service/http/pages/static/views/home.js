// The first view: what this is, the featured models, and all models with filters.
import { html } from "../lib/preact.js";
import { change, href } from "../lib/address.js";
import { answers, fileOf, isEvaluator, makesPictures, newest, usePicture } from "../lib/models.js";
import { Drop, Field, Figure, Progress, Select } from "../lib/ui.js";
import { viewsOf } from "./registry.js";
import { useTask } from "../lib/tasks.js";

const TITLES = { "sample": "generate", "encode": "encode", "reconstruct": "reconstruct", "interpolate": "interpolate", "anomaly-score": "score anomalies", "classify": "classify", "impute": "fill in" };

/** The page without parameters. */
export function Home({ models: listed, params }) {
  if (!listed) return html`<${Hero} /><p role="status" class="note">The list of models is loading…</p>`;
  const models = newest(listed);
  const featured = models.filter(model => model.featured).sort((a, b) => a.featured - b.featured).slice(0, 6);
  const chosen = ordered(models).filter(model => matches(model, params));
  const evaluators = chosen.filter(isEvaluator), others = chosen.filter(model => !isEvaluator(model));
  const filtered = params.data || params.family || params.task || params.find;
  const loading = models.filter(model => model.state === "loading").length;
  return html`<${Hero} />
    ${!filtered && html`<${Start} models=${models} />`}
    ${loading > 0 && html`<p role="status" class="note">${loading} of ${models.length} models are still loading.</p>`}
    ${featured.length > 0 && !filtered && html`<section aria-labelledby="featured"><h2 id="featured">Start with one of these</h2>
      <div class="cards large">${featured.map(model => html`<${Card} key=${model.name} model=${model} large />`)}</div></section>`}
    <section aria-labelledby="all"><h2 id="all">${filtered ? `${chosen.length} of ${models.length} models` : `All ${models.length} models`}</h2>
      <${Filters} models=${models} params=${params} />
      ${!chosen.length && html`<p class="note">No model matches. <a href=${href({})}>Remove the filters</a></p>`}
      <div class="cards">${others.map(model => html`<${Card} key=${model.name} model=${model} />`)}</div>
    </section>
    ${evaluators.length > 0 && html`<section aria-labelledby="evaluators"><h2 id="evaluators">Models for evaluation</h2>
      <p>These classifiers measure the samples of other models. They can also classify your images.</p>
      <div class="cards">${evaluators.map(model => html`<${Card} key=${model.name} model=${model} />`)}</div></section>`}`;
}

const Hero = () => html`<div class="hero"><h1>Deep generative models, live</h1>
  <p>Choose a model to generate images or table rows, walk through its latent space, edit what you draw, or find the anomalies in your data.
    New here? <a href=${href({ view: "learn" })}>Five guided views</a> show how such models work.</p></div>`;

/** A link to a model, with its preview, what it is, and how good it is. */
function Card({ model, large }) {
  const figures = (model.figures ?? []).slice(0, large ? 2 : 1);
  const state = answers(model) ? null : html`<span class="state">${model.state}${model.reason ? `: ${model.reason}` : ""}</span>`;
  const preview = usePicture(model.state === "loading" ? null : fileOf(model, "preview"));
  return html`<a class=${answers(model) ? "card" : "card off"} href=${href({ model: model.name })}>
    ${preview ? html`<img key=${preview} src=${preview} alt="" loading="lazy" class=${makesPictures(model) ? "pixels" : "chart"}
      onError=${event => { event.target.hidden = true; }} />` : html`<span class="blank"></span>`}
    <b>${model.name}</b>
    <span class="kind">${kindOf(model)}</span>
    ${figures.map(figure => html`<${Figure} ...${figure} />`)}
    ${large && answers(model) && html`<span class="can">${viewsOf(model).filter(view => view.name !== "facts").map(view => view.title.toLowerCase()).join(" · ")}</span>`}
    ${state}
  </a>`;
}

/** The first part of the description: what the model is, and its data. */
const kindOf = model => model.description.split(":")[0].replace(/\.$/, "");

function Filters({ models, params }) {
  const set = name => value => change({ [name]: value === "all" ? null : value }, { replace: true });
  const counted = values => [...new Set(values.filter(Boolean))].sort();
  const choices = (name, values, title = each => each) => html`<${Select} value=${params[name] ?? "all"} set=${set(name)} options=${[["all", "all"], ...values.map(each => [each, title(each)])]} />`;
  return html`<form class="filters" onSubmit=${event => event.preventDefault()}>
    <${Field} label="Data">${choices("data", counted(models.map(model => model.dataset)))}<//>
    <${Field} label="Family">${choices("family", counted(models.map(model => model.family)))}<//>
    <${Field} label="Task">${choices("task", counted(models.flatMap(model => model.endpoints)), each => TITLES[each] ?? each)}<//>
    <${Field} label="Name"><input type="search" value=${params.find ?? ""} placeholder="part of a name" onInput=${event => change({ find: event.target.value }, { replace: true })} /><//>
  </form>`;
}

const matches = (model, { data, family, task, find }) => (!data || model.dataset === data) && (!family || model.family === family)
  && (!task || model.endpoints.includes(task)) && (!find || `${model.name} ${model.description}`.toLowerCase().includes(find.toLowerCase()));

/** Links to the first view of each kind of work, each with the first model that has it, and the way back from a picture to its settings. */
function Start({ models }) {
  const usable = ordered(models).filter(answers);
  const works = [
    ["sample", "Generate images", makesPictures], ["latent", "Walk through a latent space", model => model.files?.points && makesPictures(model)],
    ["interpolate", "Turn one image into another", makesPictures], ["edit", "Draw, change and fill in", model => makesPictures(model) && model.classes && model.files?.points],
    ["anomaly", "Find anomalies in a table", model => !makesPictures(model)],
  ];
  const links = works.map(([view, text, fits]) => [view, text, usable.find(model => fits(model) && viewsOf(model).some(each => each.name === view))]);
  const task = useTask();
  const restore = ([file]) => task.run(async signal => (await import("../lib/recipes.js")).openRecipe(file, { signal }));
  return html`<div class="start">
    ${links.filter(([, , model]) => model).map(([view, text, model]) => html`<a class="chip" href=${href({ model: model.name, view })}>${text}</a>`)}
    <${Drop} take=${restore} accept=".png" label="Restore from a PNG" />
  </div><${Progress} task=${task} text="The settings are read…" />`;
}

/**
 * Return the models in the order of the cards: featured models first, then models of pictures. Of one data set, the best by their first figure come
 * first, and the best of all data sets come before the second best ones.
 */
function ordered(models) {
  const figure = model => model.figures?.[0]?.text.match(/^(\D*?)(-?\d+(?:\.\d+)?)/) ?? [null, "", "0"];
  const is = (a, b) => a.dataset === b.dataset && figure(a)[1] === figure(b)[1];
  const sign = model => (model.figures?.[0]?.better === "lower" ? 1 : -1);
  const rank = model => models.filter(other => is(other, model) && sign(model) * (Number(figure(other)[2]) - Number(figure(model)[2])) < 0).length;
  const ranks = new Map(models.map(model => [model, rank(model)]));
  const before = (a, b) => (a.featured ?? 99) - (b.featured ?? 99) || Number(makesPictures(b)) - Number(makesPictures(a)) || ranks.get(a) - ranks.get(b) || a.name.localeCompare(b.name);
  return [...models].sort(before);
}
