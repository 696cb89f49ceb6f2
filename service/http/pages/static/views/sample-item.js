// One generated item, large: its recipe, downloads, links to other views, and variations.
import { html, useEffect, useState } from "../lib/preact.js";
import { go, href } from "../lib/address.js";
import { NPY, send } from "../lib/api.js";
import { keepOwn } from "../lib/items.js";
import { nouns, supports } from "../lib/models.js";
import { brief, toJson, newId } from "../lib/numbers.js";
import { readText } from "../lib/png.js";
import { readRecipeText } from "../lib/recipes.js";
import { Copy, Dialog, Failure, Progress, save } from "../lib/ui.js";
import { Record, className, csvOf, widthOf } from "./sample-items.js";
import { RANDOM, fieldsOfOne, isPlain } from "./sample-settings.js";
import { Variations } from "./sample-variations.js";
import { base64, blobOf, bytesOf } from "../lib/files.js";
import { useLoaded, useTask } from "../lib/tasks.js";

/** Return the recipe that the PNG of an item contains, or the same values for an item that is not a picture. */
export async function recipeOf(model, item, seed, fields) {
  const picture = item.outputs.find(output => output.picture), text = picture && (await readText(bytesOf(picture.value), "manifold"));
  if (text) return readRecipeText(text);
  const { n, first, seed: _, model: name, version, ...rest } = fields;
  return { model: name, version, seed, item: item.index, ...(item.chosen !== undefined && !rest.class && { class: item.chosen }), ...rest };
}

/** The dialog with one item. `step(d)` goes to a neighbour, or is null at an end. */
export function ItemDialog({ model, manifest, settings, made, item, close, step, first, last, take }) {
  const { one, many } = nouns(model), { seed, fields } = made, { index } = item, place = Number(BigInt(index) - BigInt(fields.first ?? 0));
  const [chosen, choose] = useState(null), task = useTask();  // a variation that is shown in place of the item
  useEffect(() => choose(null), [index]);
  const shown = chosen ? { ...item, outputs: chosen.outputs, chosen: chosen.chosen ?? item.chosen } : item, name = className(shown.chosen);
  const [recipe, reading] = useLoaded(() => recipeOf(model, shown, seed, chosen?.fields ?? fields), [item, chosen, seed]),  file = `${model.name}-${seed ?? "latent"}-${index}${chosen ? "-variation" : ""}`;
  const single = fieldsOfOne(fields, place), picture = shown.outputs.find(output => output.picture);
  useEffect(() => {
    const keys = event => {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by || event.altKey || event.ctrlKey || event.metaKey || event.target.closest?.("input, select, textarea, pre, .scroll")) return;
      event.preventDefault();
      if (by < 0 ? !first : !last) step(by);
    };
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  });
  const array = () => task.run(async signal => save(await (await send("sample", { fields: chosen ? chosen.fields : single,
    accept: NPY, signal })).blob(), `${file}.npy`));
  const origin = seed === null || seed === undefined ? `Index ${index}` : `Seed ${seed}, index ${index}`, title = chosen ? `A variation of ${origin.toLowerCase()}` : origin;
  return html`<${Dialog} title=${title} close=${close}><div class="sample-item">
    <div class="sample-figure">
      ${shown.outputs.map(({ role, data, picture: isPicture, value }) => html`<figure key=${role}>${isPicture
        ? html`<img class="pixels" src=${value} width=${widthOf(data, 300)}
          alt=${`${role || one}: ${title.toLowerCase()}${name && `, class ${name}`}`} />` : html`<${Record} value=${value} />`}
        ${role && html`<figcaption>${role}</figcaption>`}</figure>`)}
      <div class="sample-seeds"><button type="button" disabled=${first} onClick=${() => step(-1)}>← Previous</button><button type="button" disabled=${last}
        onClick=${() => step(1)}>Next →</button></div>
      ${chosen && html`<p class="note">This is a variation. <button type="button" onClick=${() => choose(null)}>Back to the original</button></p>`}
    </div>
    <div>
      <div class="sample-actions">
        ${seed !== null && seed !== undefined && !chosen && html`<button type="button" class="main" title=${`Sample again from this seed, so that this ${one} comes first`}
          onClick=${() => take(index)}>Use this seed</button>`}
        ${picture && html`<button type="button" onClick=${() => save(blobOf(picture.value), `${file}.${picture.value.match(/^data:\w+\/(\w+)/)[1]}`)}>Download PNG</button>`}
        ${!picture && html`<button type="button" onClick=${() => save(csvOf([shown], 0), `${file}.csv`, "text/csv")}>Download CSV</button>`}
        <button type="button" onClick=${array}>Download npy</button>
        <${Links} model=${model} settings=${settings} item=${shown} seed=${seed} varied=${chosen !== null} />
      </div>
      ${task.error && html`<${Failure} error=${task.error} retry=${task.retry} />`}
      <h3>Recipe</h3>
      ${recipe ? html`<${Recipe} recipe=${recipe} />` : html`<${Progress} task=${reading} />`}
    </div>
    <${Variations} key=${String(index)} model=${model} manifest=${manifest} fields=${single} item=${item} settings=${settings} choose=${choose}
      chosen=${chosen} many=${many} />
  </div><//>`;
}

/** Links to views that start from this item: they make it again from its seed, index and class, or get its picture if that is not enough. */
function Links({ model, settings, item, seed, varied }) {
  const [output] = item.outputs, plain = !varied && isPlain(settings) && seed !== null && seed !== undefined, base = { model: model.name, version: settings.version };
  if (!plain && !output.picture) return null;
  const targets = [
    ...(supports(model, "interpolate") ? [["Interpolate", text => href({ ...base, view: "interpolate", from: text })]] : []),
    ...(["reconstruct", "impute", "classify"].some(each => supports(model, each)) ? [["Edit", text => href({ ...base, view: "edit", item: text })]] : []),
  ];
  const named = typeof item.chosen === "string" && model.classes?.includes(item.chosen), own = to => {
    const id = newId();
    keepOwn(id, { content: base64(output.value), src: output.value, exact: true, name: `${varied ? "A variation of seed" : "Seed"} ${seed}, index ${item.index}` });
    go(Object.fromEntries(new URLSearchParams(to(`own:${id}${named ? `:${item.chosen}` : ""}`))));
  };
  const text = `${seed}:${item.index}${named && settings.chosen !== RANDOM ? `:${settings.chosen}` : ""}`;
  return targets.map(([title, to]) => (plain ? html`<a class="button" href=${to(text)}>${title}</a>` : html`<button type="button"
    onClick=${() => own(to)}>${title}</button>`));
}

const TITLES = { item: "index", n: "items" };

/** A recipe as a table of names and values. Long values are shortened. */
function Recipe({ recipe }) {
  const order = ["model", "version", "seed", "item", "class"], names = [...order.filter(name => name in recipe),
    ...Object.keys(recipe).filter(name => !order.includes(name))];
  const text = value => (typeof value === "object" && value !== null ? toJson(value) : typeof value === "number" ? brief(value, 8) : String(value));
  const short = value => (text(value).length > 32 ? `${text(value).slice(0, 30)}…` : text(value));
  return html`<table class="sample-recipe"><caption class="hidden">Recipe</caption>
    ${names.filter(name => recipe[name] !== undefined).map(name => html`<tr><th scope="row">${TITLES[name] ?? name.replace(/_/g, " ")}</th><td
      title=${text(recipe[name]).slice(0, 300)}>${short(recipe[name])}</td></tr>`)}
  </table><${Copy} text=${toJson(recipe)} label="Copy the recipe" />`;
}
