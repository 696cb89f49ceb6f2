// The view "Reconstruct and edit": an item, what the model makes of it, its class, and parts of it that are filled in.
import { html } from "../lib/preact.js";
import { ItemCard, ItemChooser } from "../lib/chooser.js";
import { ConditionForm, NO_CLASS, classesOf, guessClass, otherConditions, takes, useConditions } from "../lib/conditions.js";
import { firstItem, useItem, useKept } from "../lib/items.js";
import { describe, hasNoClass, makesPictures, nouns, supports, useModels } from "../lib/models.js";
import { Field, Progress, Select } from "../lib/ui.js";
import { Classes, Probabilities, Reconstruction } from "./edit-picture.js";
import { FillIn } from "./edit-fill.js";
import { RecordEditor } from "./edit-record.js";
import { useLoaded, useSettled } from "../lib/tasks.js";

export function View({ model }) {
  const [facts, task] = useLoaded(async () => {
    const [manifest, encode, decode, impute] = await Promise.all([describe(model), ...["encode", "decode", "impute"].map(name => takes(model, name))]);
    const has = classesOf(model) !== null;
    return { manifest, impute, classed: has && (encode.has("condition") || decode.has("condition")), targets: has && decode.has("condition") };
  }, [model.name, model.version]);
  return facts ? html`<${Editor} model=${model} facts=${facts} />` : html`<${Progress} task=${task} text="The model is described…" />`;
}

/** Return what useItem returns, with the item's class `name`: that of the address, of the item, or the recognised one (`by` a model). */
function useClassed(model, classed) {
  const { models } = useModels(), chosen = useItem(model, "item", firstItem(model, models)), { item, spec } = chosen;
  const content = useSettled(item?.content), complete = makesPictures(model) || isComplete(model, content);
  const known = spec?.chosen ?? item?.chosen ?? null, optional = hasNoClass(model) && known === null;
  const [guessed, guess] = useKept(async signal => (classed && content && complete && known === null && !optional ? guessClass(model, models, content, { signal })
    : null), [model.name, content, known, classed]);
  const name = classed ? known ?? (optional ? NO_CLASS : guessed?.name ?? null) : null;
  return { ...chosen, content, complete, name, by: known === null && !optional ? guessed?.by : null, guess,
    ready: Boolean(content) && complete && (!classed || name !== null) };
}

/** Whether a record has a value in every column. */
const isComplete = (model, record) => Boolean(record) && model.data.columns.every(column => record[column.name] !== null && record[column.name] !== undefined
  && record[column.name] !== "");

function Editor({ model, facts }) {
  const chosen = useClassed(model, facts.classed), noun = nouns(model), pictures = makesPictures(model), [given, setGiven] = useConditions(model, "condition"),
    [target, setTarget] = useConditions(model, "target");
  const can = endpoint => supports(model, endpoint), others = otherConditions(model).length > 0;
  const does = [can("reconstruct") && "reconstructs it", facts.targets && can("reconstruct") && "gives it another class", can("classify") && "recognises its class",
    can("impute") && "fills in missing parts"].filter(Boolean);
  const last = does.pop(), what = does.length ? `${does.join(", ")} and ${last}` : last, shared = { model, facts, chosen, given, target };
  return html`
    <p>Choose${pictures ? ", draw or open" : " or change"} ${/^[aeiou]/.test(noun.one) ? "an" : "a"} ${noun.one}: the model ${what}.</p>
    <div class=${pictures ? "edit-main" : "edit-records"}>
      <section class="panel edit-source" aria-label=${`The ${noun.one}`}>
        <${ItemCard} model=${model} chosen=${chosen} label=${`Your ${noun.one}`}>
          ${facts.classed && html`<${Field} label="Class"><${Select} value=${chosen.name ?? ""} options=${[...(chosen.name ? [] : [["", "…"]]), ...classesOf(model)]}
            set=${each => each && chosen.setClass(each, true)} /><//>${chosen.by && html`<small class="quiet">recognised by ${chosen.by}</small>`}`}
        <//>
        ${chosen.guess.error && html`<${Progress} task=${chosen.guess} />`}
        ${others && html`<div class="controls"><${ConditionForm} model=${model} given=${given} set=${setGiven}
          />${can("reconstruct") && html`<${ConditionForm} model=${model} given=${target} set=${setTarget} title="Decode with " />`}</div>`}
        <${ItemChooser} model=${model} chosen=${chosen} label=${`Your ${noun.one}`} empty=${can("impute")} />
      </section>
      ${pictures ? html`<div>
        ${can("reconstruct") && html`<${Reconstruction} ...${shared} />`}
        ${can("reconstruct") && facts.targets && html`<${Classes} ...${shared} />`}
        ${can("classify") && html`<${Probabilities} ...${shared} />`}
        ${can("impute") && html`<${FillIn} ...${shared} />`}
      </div>` : html`<${RecordEditor} ...${shared} />`}
    </div>`;
}
