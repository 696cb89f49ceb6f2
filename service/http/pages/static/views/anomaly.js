// The view of anomalies: drop a file, see which items are anomalous and why, choose the threshold, and download the decisions.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { change, read as readAddress, useAddress, useParam } from "../lib/address.js";
import { describe, hasNoClass, nouns, pictureType, supports } from "../lib/models.js";
import { Busy, Drop, Failure, Field, Progress, Select, save } from "../lib/ui.js";
import { Effect, RuleControls, ScoreHistogram, useRule, useThreshold } from "./anomaly-decision.js";
import { Detail } from "./anomaly-detail.js";
import { EXPLAINED, csvOf, explainFlagged, linesOf } from "./anomaly-export.js";
import { explain, isOpen, scoreSource } from "./anomaly-request.js";
import { decide, fieldsOf } from "./anomaly-scores.js";
import { InputError, PASTED, examplesOf, fromFiles, fromText, templateOf, unscored } from "./anomaly-source.js";
import { Meanings, NeededColumns } from "./anomaly-columns.js";
import { capital, count, isOfFile, worded } from "./anomaly-words.js";
import { PAGE, ScoreTable, useOrder } from "./anomaly-table.js";
import { useLoaded, useTask } from "../lib/tasks.js";

const EXPLAIN = 50;  // items of the list that are explained at once
const FEW = 8;  // columns of a file that are shown at first
const SHOWN_ERRORS = 10;  // up to so many items without a score are listed at once

/** The view. */
export function View({ model }) {
  const [manifest, loading] = useLoaded(() => describe(model), [model.name, model.version]);
  if (!manifest) return html`<${Progress} task=${loading} text="The description of the model is loading…" />`;
  return html`<${Scoring} model=${model} manifest=${manifest} />`;
}

// what was scored last: it survives that the frame removes the view while the model loads, and that another view of the model is opened
const last = { id: null, source: null, result: null, condition: null };

/** Return the last source of a model, unless the address names another one. */
const keptFor = (id, { file, examples }) => (last.id === id && last.source && (last.source.made ? !file : !examples && (!file || file === last.source.name)) ? last : null);

/** Write into the address what is scored: the name of a file, or that it is examples. An item that was opened in another file is closed. */
function addressOf(source) {
  const { file, examples } = readAddress(), name = source.made ? null : source.name, was = examples ? null : file;
  change({ file: name, examples: source.made ? 1 : null, ...(was !== undefined && was !== name && { row: null }) }, { replace: true });
}

function Scoring({ model, manifest }) {
  const n = manifest.scoring?.calibration?.n ?? 0, explains = Boolean(manifest.scoring?.surprise), { many, one } = nouns(model);
  const [rule, setRule, wrong] = useRule(n), condition = useCondition(model), address = useAddress(), { row: opened, file: named } = address,
    id = `${model.name}/${model.version}`;
  const [kept] = useState(() => keptFor(id, address)), task = useTask(), [source, setSource] = useState(kept?.source ?? null),
    [result, setResult] = useState(kept?.result ?? null), [done, hear] = useState(0), [invalid, refuse] = useState(null), again = useRef(null);
  const scores = result?.scores, [info, checking, costRate] = useThreshold(model, source, scores, rule, n, condition.fields), [, redraw] = useState(0);
  const open = each => change({ row: scores.numbers.place[each] });
  const decision = useMemo(() => scores && decide(scores, rule, n, costRate), [scores, rule, n, costRate]);
  const conditionId = JSON.stringify(condition.fields);

  const keep = (next, found) => { Object.assign(last, { id, source: next, result: found, condition: conditionId }); setSource(next); setResult(found); };
  const start = next => {
    again.current = () => start(next);
    refuse(null);
    keep(next, null);
    hear(0);
    addressOf(next);
    task.run(async signal => {
      try {
        const found = await scoreSource(model, next, { ...fieldsOf(rule, n), ...condition.fields }, signal, hear);
        if (!found.scores.n) throw unscored(model, next, found.scores.errors);
        if (next.sheet && next.count !== found.scores.n + found.scores.errors.length) Object.assign(next, { sheet: null, unread: true });
        next.fitted = found.fitted;
        if (next.sheet && found.decimal) next.sheet.decimal = found.decimal;
        return found;
      } catch (error) {
        if (error.name === "AbortError") throw error;
        const told = worded(error, next.name);
        if (!(error instanceof InputError || isOfFile(error))) throw told;
        refuse(told);  // the same file fails again, so there is no retry
        return null;
      }
    }, found => keep(found && next, found));
  };
  const read = work => {
    refuse(null);
    task.run(async () => {
      try { return await work(); } catch (error) { refuse(error); return null; }  // an unreadable file is not a failure of the service: it has no retry
    }, next => next && start(next));
  };
  const examples = () => {
    again.current = examples;
    refuse(null);
    keep(null, null);
    addressOf({ made: true });
    task.run(signal => examplesOf(model, signal), start);
  };
  useEffect(() => {
    if (source && result && last.condition === conditionId) addressOf(source);
    else if (source) start(source);
    else if (address.examples) examples();
  }, [conditionId]);

  return html`<div class="anomaly">
    <p>Drop ${pictureType(model.data) ? `${many}` : "a CSV, Parquet or JSON file"} to find the ${many} that are unlike the normal data of this model.</p>
    <${Input} model=${model} take=${files => read(() => fromFiles(model, files))} paste=${text => read(async () => fromText(model, text))} examples=${examples}
      condition=${condition} />
    ${invalid && html`<${Failure} error=${{ message: invalid.message, advice: invalid.advice ?? "Choose another file." }} />`}
    <section class="panel" aria-label="Decision"><${RuleControls} rule=${rule} set=${setRule} wrong=${wrong} n=${n} total=${scores?.n ?? 0} costRate=${costRate} />
      ${scores?.n > 0 && html`<div class="split"><${ScoreHistogram} scores=${scores} decision=${decision} rule=${rule} set=${setRule} n=${n} many=${many} />
        <${Effect} model=${model} source=${source} open=${open} scores=${scores} decision=${decision} rule=${rule} n=${n} many=${many} info=${info} task=${checking}
          costRate=${costRate} /></div>`}
    </section>
    ${task.error ? html`<${Failure} error=${task.error} retry=${() => again.current()} />` : html`<${Busy} task=${task}
      text=${source ? `${count(done)}${source.count ? ` of ${count(source.count)}` : ""} ${many} scored…` : "Working…"} />`}
    ${source && !result && !task.running && !task.error && html`<p class="note">Scoring was cancelled. <button type="button"
      onClick=${() => start(source)}>Score ${source.name} again</button></p>`}
    ${(opened || named) && !address.examples && !source && !result && !invalid && !task.running && !task.error && html`<p class="note">
      ${opened ? `This link shows ${one} ${opened} of ${named ?? "a file"}. ` : ""}${named === PASTED ? "Texts are not kept: paste the text again."
        : `Files are not kept: choose ${named ?? "the file"} again.`}</p>`}
    ${result && html`<${Results} key=${source} model=${model} manifest=${manifest} source=${source} result=${result} decision=${decision} n=${n} rule=${rule}
      open=${open} redraw=${() => redraw(k => k + 1)} explains=${explains} condition=${condition.fields} />`}
  </div>`;
}

/** Return {fields, form, set, wrong}: the class or the real values that items are scored with, from the address. */
function useCondition(model) {
  const [text, set] = useParam("condition", ""),
    reads = supports(model, "classify") || model.tasks.includes("score_codes");  // other conditional models score without a condition
  const form = !reads || !Object.keys(model.conditioned ?? {}).length ? null : model.classes ? "class" : model.conditions
    || Object.values(model.conditioned).some(each => each.size ?? each.names) ? "values" : null;
  const known = form === "class" ? [...model.classes, ...(hasNoClass(model) ? ["none"] : [])].includes(text) : true;
  const values = form === "values" && text ? text.split(",").map(Number) : null, wrong = !known || values?.some(each => !Number.isFinite(each));
  const fields = !form || !text || (wrong && text) ? {} : form === "class" ? { class: text } : { condition: values };
  return { fields, form, text, set: value => set(value, { push: true }), wrong: text && form && wrong
    ? `“${text}” is not ${form === "class" ? "a class of this model" : "a list of numbers"}. It is not used.` : null };
}

/** The places for input: files, examples, pasted text, and the class if the model scores with one. */
function Input({ model, take, paste, examples, condition }) {
  const pictures = pictureType(model.data), [text, set] = useState("");
  const canExample = model.files?.sheet || supports(model, "sample");
  return html`<${Drop} take=${take} multiple accept=${pictures ? "image/png,image/jpeg,image/webp" : ".csv,.tsv,.txt,.parquet,.json,.jsonl,.ndjson"}
    label=${pictures ? "Choose files, or drop them here" : "Choose a file, or drop it here"}>
      ${canExample && html` <button type="button" onClick=${examples}>Try with examples</button>`}
      <small class="kept">Files are scored by this service and not kept.</small>
      ${model.data.columns && html`<details><summary>Paste ${nouns(model).many}</summary>
        <label class="field wide"><span>CSV with a header, or JSON</span><textarea rows="5" spellcheck="false" placeholder=${templateOf(model)} value=${text}
          onInput=${event => set(event.target.value)}></textarea></label>
        <p><button type="button" onClick=${() => paste(text)}>Score this text</button></p></details>
        <${NeededColumns} model=${model} />`}
    <//>
    ${condition.form === "class" && html`<div class="controls"><${Field} label="Class of the items" hint="“any” averages over all classes"><${Select}
      value=${condition.text} set=${condition.set}
      options=${[["", "any"], ...model.classes.map(each => [each, each]), ...(hasNoClass(model) ? [["none", "none"]] : [])]} /><//></div>`}
    ${condition.form === "values" && html`<div class="controls"><${Field} label="Condition" hint="numbers, separated by commas"><input value=${condition.text}
      onChange=${event => condition.set(event.target.value)} /><//></div>`}
    ${condition.wrong && html`<p class="note" role="alert">${condition.wrong}</p>`}`;
}

/** The scored items: notes, downloads, the table, and the opened item. */
function Results({ model, manifest, source, result, decision, n, rule, open, redraw, explains, condition }) {
  const { scores } = result, { many, one } = nouns(model), { row: opened } = useAddress();
  const [order, key, down, choose] = useOrder(scores), [limit, setLimit] = useState(PAGE), [columns, setColumns] = useState(false);
  const explaining = useTask(), known = useMemo(() => new Set((model.data.columns ?? []).map(column => column.name)), [model]);
  const header = source.sheet?.header ?? [],
    shownColumns = columns ? header : [...header.filter(name => !known.has(name)), ...header.filter(name => known.has(name))].slice(0, FEW);
  const unused = header.filter(name => name && !known.has(name) && !Object.hasOwn(model.data.ignored ?? {}, name));
  const i = opened === undefined ? -1 : scores.find(Number(opened)), place = useMemo(() => (i < 0 ? -1 : order.indexOf(i)), [order, i]);
  const refused = opened !== undefined && i < 0 ? scores.errors.find(each => each.place === Number(opened)) : null;

  useEffect(() => {  // the reasons of the lines at the top of the list; of a file that cannot be read here, those of its most anomalous entries
    if (!explains || source.items || !scores.n) return;
    const list = Array.from(isOpen(source) ? order.slice(0, EXPLAIN) : scores.order.slice(0, EXPLAIN));
    if (list.some(each => !scores.reasons.has(each))) explaining.run(signal => explain(model, source, scores, list, condition, signal).then(redraw));
  }, [scores, order]);

  const step = (by, ask) => {
    const next = order[place + by];
    if (next === undefined) return false;
    if (!ask) change({ row: scores.numbers.place[next] }, { replace: true });
    return true;
  };
  const close = () => change({ row: null }, { replace: true });
  return html`
    <section aria-labelledby="scored"><h2 id="scored">${count(scores.n)} ${scores.n === 1 ? one : many} of ${source.name}${scores.errors.length ? `, ${count(scores.errors.length)} without a score` : ""}</h2>
      ${[source.note, source.sheet?.decimal === "," && "The numbers of this file have a decimal comma: 1,5 is one and a half.", source.unread && "The cells of this file cannot be matched with its scores, so its columns are not shown here.", ...(result.warnings ?? [])].filter(Boolean).map(text => html`<p class="note">${text}</p>`)}
      ${unused.length > 0 && html`<p class="quiet">The model does not use ${unused.length === 1 ? "the column" : `${unused.length} columns:`} ${unused.slice(0, 8).join(", ")}${unused.length > 8 ? ", …" : ""}. The download has all columns.</p>`}
      ${scores.errors.length > 0 && html`<details class="note" open=${scores.errors.length <= SHOWN_ERRORS}><summary>
        ${count(scores.errors.length)} ${scores.errors.length === 1 ? one : many} could not be scored</summary>
        <ul>${scores.errors.slice(0, 50).map(each => html`<li>${source.items ? "" : `${capital(one)} ${each.place}: `}${each.error}</li>`)}</ul>${scores.errors.length > 50
          && html`<p>The download lists all of them.</p>`}</details>`}
      ${opened !== undefined && i < 0 && html`<p class="note" role="alert">
        ${refused ? `${one} ${opened} could not be scored: ${refused.error}` : `There is no ${one} ${opened} in this input.`} <button type="button" class="plain"
        onClick=${close}>Remove it from the address</button></p>`}
      ${scores.n > 0 && html`<${Downloads} model=${model} source=${source} scores=${scores} decision=${decision} rule=${rule} explains=${explains}
        condition=${condition} />
        <${Progress} task=${explaining} text="The reasons of the most anomalous are computed…" />
        ${header.length > FEW && html`<p><label class="check"><input type="checkbox" checked=${columns}
          onChange=${event => setColumns(event.target.checked)} /> Show all ${header.length} columns of the file</label></p>`}
        <${ScoreTable} model=${model} scores=${scores} source=${source} decision=${decision} order=${order} sortKey=${key} down=${down} choose=${choose} open=${open}
          limit=${limit} more=${() => setLimit(limit + PAGE)} columns=${shownColumns} explains=${explains} known=${known} />
        <${Meanings} model=${model} n=${n} explains=${explains} />`}
    </section>
    ${i >= 0 && html`<${Detail} key=${i} model=${model} manifest=${manifest} source=${source} scores=${scores} decision=${decision} i=${i} n=${n} fields=${condition}
      explains=${explains} close=${close} step=${step} />`}`;
}

/** The buttons that save the decisions. Missing reasons of flagged items are requested first. */
function Downloads({ model, source, scores, decision, rule, explains, condition }) {
  const task = useTask(), [told, tell] = useState("");
  const name = source.name.replace(/\.[^.]+$/, "").replace(/[^\w.-]+/g, "-"), mark = rule.by === "rate" ? `-${rule.rate}` : "";
  const download = (write, suffix) => task.run(async signal => {
    tell("The file is written…");
    if (explains && !source.items) await explainFlagged(model, source, scores, decision, condition, signal, (done,
      total) => tell(`${count(done)} of ${count(total)} reasons…`));
    save(await write(model, source, scores, decision), `${name}-scored${mark}.${suffix}`);
    tell("");
  });
  return html`<div class="controls downloads"><button type="button" class="main" disabled=${decision.pending}
    onClick=${() => download(csvOf, "csv")}>Download scores as CSV</button>
    <button type="button" disabled=${decision.pending} onClick=${() => download(linesOf, "ndjson")}>Download as NDJSON</button>
    ${explains && decision.flagged > EXPLAINED && !source.items && html`<small>with the reasons of the ${count(EXPLAINED)} most anomalous</small>`}
    ${!source.items && !source.sheet && html`<small>The page cannot read the columns of this file: the download has row numbers, ids and scores.</small>`}
    <${Progress} task=${task} text=${told} /></div>`;
}
