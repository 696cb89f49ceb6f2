// The frame of the page: the header, the view that the address names, the form for an API key, and the state of the service.
import { html, render, useEffect, useErrorBoundary, useRef, useState } from "./lib/preact.js";
import { follow, go, href, useAddress } from "./lib/address.js";
import { getJson, hasKey, onRefused } from "./lib/api.js";
import { answers, listed, refresh, useModels } from "./lib/models.js";
import { Failure, KeyForm, Progress, Select, Tabs } from "./lib/ui.js";
import { GENERAL, viewsOf } from "./views/registry.js";
import { Home } from "./views/home.js";
import { useLoaded } from "./lib/tasks.js";

/** The page. */
function App() {
  const params = useAddress(), { models, error } = useModels();
  const [refused, setRefused] = useState(null);
  useEffect(() => onRefused(setRefused), []);
  useEffect(() => { refresh(); }, []);
  const general = GENERAL.find(view => view.name === params.view && !params.model), unknown = params.view && !params.model && !general;
  const place = `${params.model ?? ""}/${params.version ?? ""}/${params.view ?? ""}/${params.lesson ?? ""}`;
  useFocus(place);
  useEffect(() => { if (!params.model) document.title = general ? `${general.title} · Manifold` : "Manifold"; }, [params.model, general]);
  return html`
    <header class="top">
      <a class="brand" href=${href({})}><img src="static/icon.svg" alt="" width="26" height="26" /> Manifold</a>
      <nav aria-label="Pages">
        <a href=${href({})} aria-current=${!params.model && !general ? "page" : undefined}>Models</a>
        ${GENERAL.map(view => html`<a href=${href({ view: view.name })} aria-current=${view === general ? "page" : undefined}>${view.title}</a>`)}
        <a href="docs">API</a>
      </nav>
    </header>
    ${refused && html`<${KeyForm} error=${refused} done=${() => setRefused(null)} />`}
    <main id="content" tabindex="-1">
      ${error && !refused && html`<${Failure} error=${error} retry=${refresh} />`}
      ${unknown && html`<p class="note" role="alert">There is no page “${params.view}”. This is the first page.</p>`}
      ${general ? html`<${Loaded} key=${general.name} view=${general} models=${models} />` : params.model ? html`<${ModelPage} models=${models} params=${params} />` : html`<${Home} models=${models} params=${params} />`}
    </main>
    <footer><a href="docs">API documentation</a> <a href="metrics">Metrics</a>${!hasKey() && html` <a href="models">Models as JSON</a>`}</footer>`;
}

/** Move the focus to the main content, and the view to its top, when another place is opened. */
function useFocus(place) {
  const before = useRef(place);
  useEffect(() => {
    if (before.current === place) return;
    const [model] = before.current.split("/");
    const same = model !== "" && model === place.split("/")[0];  // tabs of one model keep the focus where it is
    before.current = place;
    if (same) return;
    scrollTo(0, 0);
    document.getElementById("content").focus({ preventScroll: true });
  }, [place]);
}

/** The page of one model: its name and version, its views as tabs, and the chosen view. */
function ModelPage({ models, params }) {
  const { model: name, version, view: chosen } = params;
  const used = useRef(null), known = listed(models ?? [], { name }), found = listed(models ?? [], { name, version });
  // a version that the list does not contain is described on its own: it is loaded at its first request
  const older = !found && known?.versions?.map(String).includes(version) ? version : null;
  const [described, task] = useLoaded(signal => (older ? getJson(`models/${encodeURIComponent(name)}?version=${older}`, { signal }) : null), [name, older]);
  useEffect(() => {
    document.title = `${name} · Manifold`;
    return () => { document.title = "Manifold"; };
  }, [name]);
  const model = found ?? (older ? described : null);
  if (!models) return html`<p role="status">The list of models is loading…</p>`;
  if (older && !model) return html`<${Progress} task=${task} text=${`Version ${older} is described…`} />`;
  if (!model) return html`<${Unknown} known=${known} name=${name} version=${version} />`;
  if (answers(model)) used.current = model;
  const last = used.current, again = model.state === "loading" && last?.name === name && last.version === model.version;
  const shown = answers(model) ? model : again ? last : null;  // a view in use stays while its model loads again, so that drawings and files are not lost
  const views = shown ? viewsOf(shown) : [], view = views.find(each => each.name === chosen) ?? views[0];
  const link = each => href({ model: name, version, view: each.name });
  return html`
    <div class="title">
      <h1>${name}</h1>
      ${model.versions?.length > 1 ? html`<${Select} aria-label="Version" value=${model.version} options=${model.versions.map(each => [each, `version ${each}`])}
        set=${each => go({ model: name, version: each === String(Math.max(...model.versions)) ? null : each, view: chosen })} />` : html`<span class="tag">version ${model.version}</span>`}
    </div>
    <p class="about">${(shown ?? model).description}</p>
    ${!answers(model) && html`<${Unavailable} model=${model} />`}
    ${shown && html`
      <${Tabs} label="Views" value=${view.name} options=${views.map(each => [each.name, each.title, link(each)])} />
      ${chosen && view.name !== chosen && html`<p class="note">This model has no view “${chosen}”. It has those above.</p>`}
      <${Loaded} key=${`${name}/${model.version}/${view.name}`} view=${view} model=${shown} models=${models} />`}`;
}

/** A model that does not answer: its state and the reason. */
function Unavailable({ model }) {
  if (model.state === "loading") return html`<p role="status" class="note">This model is loading. This takes a few seconds.</p>`;
  return html`<div class="failure" role="alert"><p><strong>This model is ${model.state}${model.reason ? `: ${model.reason}` : "."}</strong></p>
    <p><button type="button" onClick=${refresh}>Check again</button> Or choose another model: <a href=${href({})}>all models</a></p></div>`;
}

/** A name or a version that the service does not have. */
function Unknown({ known, name, version }) {
  return html`<div class="failure" role="alert">
    <p><strong>${known ? `The service has no version ${version} of ${name}.` : `The service has no model “${name}”.`}</strong></p>
    <p>${known ? html`<a href=${href({ model: name })}>Open version ${known.version}</a>` : "Choose one of the models."} <a href=${href({})}>All models</a></p>
  </div>`;
}

/** A view, whose module is loaded when it is opened. An error of the view is shown in its place, and the rest of the page stays. */
function Loaded({ view, ...rest }) {
  const [module, set] = useState(null), [error, fail] = useState(null);
  const [broken, repair] = useErrorBoundary(thrown => console.error(thrown));
  const load = () => { fail(null); view.load().then(set, () => fail({ message: `The view “${view.title}” cannot be loaded.`, advice: "The service may have stopped or may have been updated. Reload the page." })); };
  useEffect(load, [view.name]);
  if (broken) {
    return html`<${Failure} error=${{ message: `The view “${view.title}” has failed: ${broken.message}.`, advice: "Try again. If it fails again, open it without the settings in the address." }} retry=${repair} />`;
  }
  if (error) return html`<${Failure} error=${error} retry=${load} />`;
  return module ? html`<${module.View} ...${rest} />` : html`<p role="status" class="busy">The view is loading…</p>`;
}

addEventListener("click", follow);
addEventListener("dragover", event => event.preventDefault());  // a file that misses its place does not replace the page
addEventListener("drop", event => event.preventDefault());
const root = document.getElementById("app");
root.replaceChildren();
render(html`<${App} />`, root);
