// The view "Latent space": what a model encodes items to, and what each place of its latent space decodes to.
import { html } from "../lib/preact.js";
import { useAddress, useParam } from "../lib/address.js";
import { answers, fileOf, makesPictures, nouns, supports } from "../lib/models.js";
import { loadSpace, planeOf } from "../lib/latents.js";
import { Field, Progress, Select } from "../lib/ui.js";
import { Codes } from "./latent-codes.js";
import { Explorer, PlaneControls, useShared } from "./latent-explorer.js";
import { useItems } from "./latent-items.js";
import { Noise } from "./latent-noise.js";
import { useLoaded } from "../lib/tasks.js";

/** The view of one model. A second one is beside it if the address has `beside=NAME`. */
export function View({ model, models }) {
  const [chosen, setChosen] = useParam("latent"), [loaded, task] = useLoaded(() => loadSpace(model, chosen), [model.name, model.version, chosen]);
  if (!loaded) return html`<${Progress} task=${task} text="Loading the latents of the test items…" />`;
  const { space } = loaded;
  if (space.form === "codes") return html`<${Codes} model=${model} space=${space} />`;
  if (space.form === "array") return html`<${Noise} model=${model} space=${space} />`;
  if (space.form === "none") return html`<p class="note">The manifest of this model describes no latent. Choose another view above.</p>`;
  return html`${space.names.length > 1 && html`<div class="controls"><${Field} label="Latent"><${Select} value=${space.name} options=${space.names}
    set=${setChosen} /><//></div>`}
    <${Vectors} key=${space.name} model=${model} models=${models} ...${loaded} />`;
}

/** A model whose latent is a vector. */
function Vectors({ model, models, space, points, problem }) {
  const params = useAddress(), shared = useShared(space.size === 2), plane = planeOf(space, points), encodes = supports(model, "encode");
  const alike = each => each.name !== model.name && each.dataset && each.dataset === model.dataset;
  const others = models.filter(each => alike(each) && answers(each) && supports(each, "encode") && fileOf(each, "points"));
  const beside = others.find(each => each.name === params.beside), [, setBeside] = useParam("beside");
  const [second, loading] = useLoaded(async () => (beside ? loadSpace(beside) : null), [beside?.name]);
  const { items, source } = useItems(model, { enabled: encodes }), noun = nouns(model), shown = beside && second?.space.form === "vector" ? second : null;
  const same = shown && points && shown.points && shown.points.labels.join() === points.labels.join();
  const encode = encodes && html`<section class="latent-encode"><h2>Encode your own ${noun.many}</h2>
    <p>Their places are marked by number in the plane above.</p>${source}</section>`;
  const explorer = rest => html`<${Explorer} shared=${shared} items=${encodes ? items : []} narrow=${Boolean(beside)} ...${rest} />`;
  const lead = plane ? `Move the pointer over the plane: the ${noun.one} beside it is decoded from the latent at that place.`
    : `Move a slider: the ${noun.one} is decoded from the latent that the sliders set.`;
  return html`<p>${lead}</p>
    <div class="controls">
      <${PlaneControls} shared=${shared} flat=${space.size === 2} plane=${plane} hasPoints=${Boolean(points)} pictures=${makesPictures(model)} />
      ${others.length > 0 && html`<${Field} label="Beside another model"><${Select} value=${beside?.name ?? ""}
        set=${name => setBeside(name, { push: true })} options=${[["", "none"], ...others.map(each => each.name)]} /><//>`}
    </div>
    ${problem && html`<p class="note" role="alert">The encoded test items are not shown: ${problem.message}. The rest of this view works without them.</p>`}
    ${params.beside && !beside && html`<p class="note" role="alert">“${params.beside}” cannot be shown beside ${model.name}:
      choose one of the models in the list “Beside another model”, which have the same data and encoded test items.</p>`}
    ${beside ? html`<div class="latent-pair">
        ${explorer({ model, space, points, samePoints: true })}
        ${shown ? explorer({ key: beside.name, model: beside, ...shown, suffix: "2", samePoints: Boolean(same) }) : html`<${Progress} task=${loading}
          text=${`Loading ${beside.name}…`} />`}
      </div>${encode}`
      : explorer({ model, space, points, samePoints: true, source: encode })}`;
}
