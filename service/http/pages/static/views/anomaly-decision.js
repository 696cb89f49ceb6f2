// The decision on scored items: a rate, a number, or costs; the threshold, its effect on these items, and what is known about its false alarms.
import { html, useEffect, useMemo, useRef, useState } from "../lib/preact.js";
import { change, useAddress } from "../lib/address.js";
import { Histogram } from "../lib/charts.js";
import { brief } from "../lib/numbers.js";
import { Choice, Failure, Field, Slider } from "../lib/ui.js";
import { nouns } from "../lib/models.js";
import { count, percent, reasonText } from "./anomaly-words.js";
import { DEFAULT_RATE, fieldsOf, rates } from "./anomaly-scores.js";
import { thresholdOf } from "./anomaly-request.js";
import { useTask } from "../lib/tasks.js";

const NAMES = { allow: "allow", review: "review", block: "block", open: "undecided" };
const COSTS = { false_positive: 1, false_negative: 50, prevalence: 0.01 };
const COSTED = [["false_positive", "Cost of a false alarm", Infinity, 1], ["false_negative", "Cost of a missed anomaly", Infinity, 1], ["prevalence",
  "Anomalies, % of all", 100, 100]];
const BINS = 48, WAIT = 250, DISCOVERY = 0.1;

/** Return {rule, wrong} of the parameters of the address: `wrong` says what is invalid, and the default is used instead. */
function readRule({ rate, budget, costs, discovery, block }, n) {
  const wrong = [], inside = value => Number.isFinite(value) && value > 0 && value < 1;
  const rule = { by: budget !== undefined || !n ? "budget" : costs !== undefined ? "costs" : discovery !== undefined ? "discovery" : "rate", rate: DEFAULT_RATE,
    budget: 10, costs: COSTS, discovery: DISCOVERY, block: null };
  if (rate !== undefined && inside(Number(rate))) rule.rate = Number(rate);
  else if (rate !== undefined) wrong.push(`“${rate}” is not a rate between 0 and 1. ${percent(DEFAULT_RATE)} is used.`);
  if (budget !== undefined && /^[1-9]\d{0,9}$/.test(budget)) rule.budget = Number(budget);
  else if (budget !== undefined) wrong.push(`“${budget}” is not a whole number from 1. 10 is used.`);
  if (discovery !== undefined && inside(Number(discovery))) rule.discovery = Number(discovery);
  else if (discovery !== undefined) wrong.push(`“${discovery}” is not a share between 0 and 1. ${percent(DISCOVERY)} is used.`);
  if (costs !== undefined) {
    const [positive, negative, share] = costs.split(",").map(Number);
    if (positive > 0 && negative > 0 && inside(share) && Number.isFinite(positive * negative)) rule.costs = { false_positive: positive, false_negative: negative,
      prevalence: share };
    else wrong.push("The costs in the address are not two numbers above 0 and a share between 0 and 1. The default is used.");
  }
  if (block !== undefined && inside(Number(block)) && (rule.by !== "rate" || Number(block) <= rule.rate)) rule.block = Number(block);
  else if (block !== undefined) wrong.push(`The block rate must be above 0 and at most ${rule.by === "rate" ? `the false alarm rate, ${percent(rule.rate)}` : "1"}. A tenth of the rate is used.`);
  return { rule, wrong };
}

const writeRule = rule => ({
  rate: rule.by === "rate" && rule.rate !== DEFAULT_RATE ? rule.rate : null, budget: rule.by === "budget" ? rule.budget : null, block: rule.block,
  costs: rule.by === "costs" ? `${rule.costs.false_positive},${rule.costs.false_negative},${rule.costs.prevalence}` : null,
  discovery: rule.by === "discovery" ? rule.discovery : null,
});

const NAMED = ["rate", "budget", "costs", "discovery", "block"];  // the parameters of the address

/** Return [rule, set, wrong]. The rule changes at once, and the address a moment later. `n` is the number of calibration items. */
export function useRule(n) {
  const params = useAddress(), textOf = each => JSON.stringify(NAMED.map(name => each[name] ?? null)), text = textOf(params);
  const [state, set] = useState(() => readRule(params, n)), timer = useRef(0), written = useRef(text), latest = useRef(state.rule);
  useEffect(() => {
    if (text === written.current) return;
    written.current = text;
    clearTimeout(timer.current);
    const found = readRule(params, n);
    latest.current = found.rule;
    set(found);
  }, [text]);
  useEffect(() => () => clearTimeout(timer.current), []);
  const use = changes => {
    const rule = { ...latest.current, ...changes };
    if (rule.by === "rate" && rule.block !== null && rule.block > rule.rate) rule.block = null;
    latest.current = rule;
    set({ rule, wrong: [] });
    clearTimeout(timer.current);
    timer.current = setTimeout(() => {
      const next = writeRule(rule);
      written.current = textOf(Object.fromEntries(NAMED.map(name => [name, next[name] === null ? null : String(next[name])])));
      change(next, { replace: true });
    }, WAIT);
  };
  return [state.rule, use, state.wrong];
}

/**
 * Return [info, task, costRate]: the response about the threshold of a rule, requested shortly after the last change, and the rate that its costs amount to.
 * Both are null before they are known.
 */
export function useThreshold(model, source, scores, rule, n, condition) {
  const task = useTask(), [known, set] = useState({ id: "", info: null, costs: "" }), costs = JSON.stringify([rule.by, rule.costs]),
    id = JSON.stringify([rule, condition]);
  useEffect(() => {
    if (!scores?.n || !n || ["budget", "discovery"].includes(rule.by)) return undefined;
    const timer = setTimeout(() => task.run(signal => thresholdOf(model, source, scores, { ...fieldsOf(rule, n), ...condition }, signal).then(info => set({ id, info,
      costs }))), WAIT);
    return () => clearTimeout(timer);
  }, [scores, id]);
  return [known.id === id ? known.info : null, task, rule.by === "costs" && known.costs === costs ? known.info.threshold.false_positive_rate : null];
}

/** A number that is taken when it is complete: on Enter, or when the focus leaves. `take(text)` returns whether it is valid; an invalid text stays. */
function Amount({ value, take, ...rest }) {
  const [draft, set] = useState(null), done = event => { if (event.target.value !== "" || draft !== null) set(take(event.target.value) ? null : event.target.value); };
  return html`<input type="number" min="0" step="any" value=${draft ?? (value === null ? "" : Number(value.toPrecision(10)))}
    onInput=${event => set(event.target.value)} onChange=${done} onKeyDown=${event => event.key === "Enter" && done(event)} ...${rest} />`;
}

/** The controls of the rule. They also work before anything is scored. */
export function RuleControls({ rule, set, wrong, n, total, costRate }) {
  const [problem, tell] = useState("");
  const number = (name, low, high, use, why) => text => {
    const value = Number(text);
    if (text.trim() === "" || !Number.isFinite(value) || value <= low
      || value >= high) { tell(`${name}: ${text === "" ? "the field is empty" : `“${text}” is not ${why}`}.`); return false; }
    tell("");
    return use(value) ?? true;
  };
  const blocking = number("Block rate", 0, rule.by === "rate" ? 100 * rule.rate * (1 + 1e-9) : 100, value => set({ block: fraction(value) }),
    "above 0 and at most the false alarm rate");
  const arrows = event => {
    const by = { ArrowRight: -1, ArrowUp: -1, ArrowLeft: 1, ArrowDown: 1 }[event.key];
    if (by) { event.preventDefault(); set({ budget: Math.max(1, rule.budget + by) }); }
  };
  const fraction = value => Number((value / 100).toPrecision(12));
  const options = n ? [["rate", "False alarm rate"], ["budget", "Number to flag"], ["discovery", "False discovery rate"], ["costs", "Costs"]] : [["budget", "Number to flag"]];
  const high = Math.log10((n || 1) + 1), most = Math.max(10, total || 1000);
  return html`<div class="rule">
    <div class="controls">
      <div class="field"><span id="decide">Flag by</span><${Choice} label="Flag by" value=${rule.by} options=${options}
        set=${by => { tell(""); set({ by, block: null }); }} /></div>
      ${rule.by === "rate" && html`<${Field} label="False alarm rate, %" hint="share of normal items that are flagged"><${Amount} value=${100 * rule.rate} max="100"
        take=${number("False alarm rate", 0, 100, value => set({ rate: fraction(value) }), "a percentage between 0 and 100")} /><//>`}
      ${rule.by === "discovery" && html`<${Field} label="False discovery rate, %" hint="largest expected share of normal items among the flagged ones"><${Amount}
        value=${100 * rule.discovery} max="100" take=${number("False discovery rate", 0, 100, value => set({ discovery: fraction(value) }), "a percentage between 0 and 100")} /><//>`}
      ${rule.by === "budget" && html`<${Field} label="Number to flag" hint="the most anomalous ones"><${Amount} value=${rule.budget} step="1"
        take=${number("Number to flag", 0, 1e10, value => (Number.isInteger(value) ? set({ budget: value }) : (tell("Number to flag: give a whole number."), false)), "a whole number from 1")} /><//>`}
      ${rule.by === "costs" && COSTED.map(([name, label, high, scale]) => html`<${Field} key=${name} label=${label}><${Amount} value=${scale * rule.costs[name]}
        take=${number(label, 0, high, value => set({ costs: { ...rule.costs, [name]: scale === 1 ? value : fraction(value) } }), `a number above 0${high < Infinity ? ` and below ${high}` : ""}`)} /><//>`)}
      ${n > 0 && html`<details class="more" open=${rule.block !== null}><summary>Block rate</summary>
        <${Field} label="Block rate, %" hint="normal items in the band “block”; empty: a tenth of the rate"><${Amount}
        value=${rule.block === null ? null : 100 * rule.block} max="100"
        take=${text => (text === "" ? (tell(""), set({ block: null }), true) : blocking(text))} /><//></details>`}
    </div>
    ${[...wrong, problem].filter(Boolean).map(text => html`<p class="note" role="alert">${text}</p>`)}
    ${rule.by === "budget" ? total > 1 && html`<${Slider} label="Threshold" title="To the right, fewer are flagged" aria-label="Threshold: number to flag"
      aria-valuetext=${count(rule.budget)} min=${-Math.log10(most)} max="0" step="0.005" value=${-Math.log10(Math.min(rule.budget, most))}
      format=${() => count(rule.budget)} set=${value => set({ budget: Math.round(10 ** -value) })} onKeyDown=${arrows} />`
      : rule.by === "rate" && html`<${Slider} label="Threshold" title="To the right, fewer are flagged" aria-label="Threshold: false alarm rate"
        aria-valuetext=${percent(rule.rate)} min=${-Math.log10(0.5)} max=${high} step="0.02" value=${-Math.log10(Math.min(rule.rate, 0.5))}
        format=${() => percent(rule.rate)} set=${value => set({ rate: Number((10 ** -value).toPrecision(3)) })} />`}
    ${rule.by === "costs" && costRate && html`<p>These costs amount to a false alarm rate of ${percent(costRate)}.</p>`}
  </div>`;
}

/**
 * The bins of the histogram: of −log10 p, or of the scores of a model without a calibration. Both are monotone in the rank, and so are all decisions: the
 * counts of a bin follow from the ranks at its ends.
 */
function binsOf(scores, decision, n) {
  const value = rank => (n ? -Math.log10(scores.numbers.p[scores.order[rank]]) : scores.numbers.score[scores.order[rank]]);
  let low = 0, high = Math.log10(n + 1);
  if (!n) { low = value(scores.n - 1); high = value(0); if (low === high) { low -= 1; high += 1; } }
  const above = x => {  // number of items with at least this value
    let least = 0, most = scores.n;
    while (least < most) { const middle = (least + most) >> 1; if (value(middle) >= x) least = middle + 1; else most = middle; }
    return least;
  };
  const size = (high - low) / BINS, edges = Array.from({ length: BINS + 1 }, (_, k) => low + k * size),
    ranks = edges.map((x, k) => (k === 0 ? scores.n : k === BINS ? 0 : above(x)));
  return Array.from({ length: BINS }, (_, k) => {
    const first = ranks[k + 1], last = ranks[k], upTo = limit => Math.max(0, Math.min(limit, last) - first), { flagged, blocked, undecided } = decision;
    const parts = { allow: last - first - upTo(Math.max(flagged, undecided)), review: upTo(flagged) - upTo(blocked), block: upTo(blocked), open: upTo(undecided) };
    return { from: edges[k], to: edges[k + 1], usual: n ? scores.n * (10 ** -edges[k] - 10 ** -edges[k + 1]) : undefined, parts: Object.entries(parts).map(([kind,
      each]) => ({ band: kind, count: each })) };
  });
}

/** The histogram of the scores with the threshold. `set` changes the rule. */
export function ScoreHistogram({ scores, decision, rule, set, n, many }) {
  const bins = useMemo(() => binsOf(scores, decision, n), [scores, decision, n]);
  const marks = n ? Array.from({ length: Math.floor(Math.log10(n + 1)) + 1 }, (_, i) => ({ at: i, text: i ? brief(10 ** -i) : "1" })) : [0, 0.5,
    1].map(share => { const at = bins[0].from + share * (bins.at(-1).to - bins[0].from); return { at, text: brief(at, 3) }; });
  const least = decision.flagged && scores.numbers.score[scores.order[decision.flagged - 1]];
  const line = n ? (decision.review === null ? null : -Math.log10(decision.review)) : decision.flagged ? least : null;
  const kinds = Object.fromEntries(Object.entries(NAMES).filter(([kind]) => (kind === "open" ? decision.undecided > 0 : n || kind !== "block")).map(([kind,
    name]) => [kind, n || kind !== "review" ? name : "flagged"]));
  const move = x => {
    const rate = 10 ** -x;
    if (rule.by === "budget") set({ budget: Math.max(1, n ? scores.atMost(rate) : scores.order.filter(i => scores.numbers.score[i] >= x).length) });
    else set({ rate: Number(Math.min(0.5, Math.max(rate, 1 / (n + 1))).toPrecision(2)) });
  };
  return html`<${Histogram} bins=${bins} marks=${marks} line=${line} set=${["costs", "discovery"].includes(rule.by) ? null : move} kinds=${kinds}
    title=${`Number of ${many} by ${n ? "p-value" : "score"}`} yTitle=${`number of ${many}`}
    xTitle=${n ? "p-value (anomalous to the right)" : "score (anomalous to the right)"} usual=${n ? `if all ${many} were normal` : null} />`;
}

/** What the rule does to these items, in sentences. */
export function Effect({ model, source, open, scores, decision, rule, n, many, info, task, costRate }) {
  const rate = rates(rule, costRate).review, share = scores.n ? decision.flagged / scores.n : 0, limit = ["budget", "discovery"].includes(rule.by) ? null : decision.review ?? rate;
  const threshold = info?.threshold, measured = threshold?.measured, top = scores.order[0], number = scores.numbers.place[top], item = source.items?.[number - 1],
    why = scores.reasons.get(top), lost = scores.errors.length;
  if (decision.pending) {
    return html`<div class="effect"><p class="counts" role="status">The service works out the rate that these costs amount to…</p>
      ${task.error && html`<${Failure} error=${task.error} retry=${task.retry} />`}</div>`;
  }
  return html`<div class="effect">
    <p class="counts" role="status"><strong>${count(decision.flagged)} of ${count(scores.n)} ${many} flagged</strong> (${percent(share)})${n > 0 && html`:
      <span class="band block">${count(decision.blocked)} block</span> <span class="band review">
        ${count(decision.flagged - decision.blocked)} review</span> <span class="band allow">${count(scores.n - decision.flagged - decision.undecided)} allow</span>`}
      ${decision.undecided > 0 && html` <span class="band open">${count(decision.undecided)} undecided</span>`}
      ${lost > 0 && html`<br /><span class="lost">${count(lost)} of ${count(scores.n + lost)} ${many} could not be scored: see below</span>`}</p>
    ${scores.n > 1 && html`<p class="top-one">${item && html`<img class="pixels"
      src=${item.url} alt="" width="32" /> `}Most anomalous: <button type="button" class="plain" onClick=${() => open(top)}>
      ${item ? item.name : `${nouns(model).one} ${number}`}</button>
      ${why?.length > 0 && html` because ${reasonText(why[0])} (${percent(why[0].share)} of what is unusual)`}</p>`}
    <ul>
      ${n > 0 && limit !== null && html`<li>If all ${many} were normal, about <b>
        ${scores.n * limit < 10 ? brief(scores.n * limit, 2) : count(Math.round(scores.n * limit))}</b> would be flagged.</li>`}
      ${rule.by === "discovery" && html`<li>${decision.flagged ? `At most about ${brief(rule.discovery * decision.flagged, 2)} of the ${count(decision.flagged)} flagged are expected to be normal.`
        : rule.discovery * (n + 1) < 1 ? `No item can be flagged at this rate: the smallest p-value is ${brief(1 / (n + 1))}.`
          : `No item is flagged. Those with the smallest p-value, ${brief(1 / (n + 1))}, are flagged if there are at least ${count(Math.max(1, Math.ceil(scores.n / (rule.discovery * (n + 1)))))}.`}</li>`}
      ${n === 0 && html`<li>This model has no calibration: it ranks, but has no p-values and no bands. Choose how many ${many} to flag.</li>`}
      ${decision.undecided > 0 && n > 0 && html`<li>The calibration has ${count(n)} items and cannot resolve a rate below ${percent(1 / (n + 1))}. Use a higher rate, or a number to flag.</li>`}
      ${threshold?.interval && html`<li>For data like the calibration items, the true false alarm rate is ${percent(threshold.interval[0])} to ${percent(threshold.interval[1])} (95% interval).</li>`}
      ${measured && html`<li>Measured on ${count(measured.n)} normal test items: ${percent(measured.measured)} were flagged at a rate of ${percent(measured.requested)}${measured.interval ? ` (expected: ${percent(measured.interval[0])} to ${percent(measured.interval[1])})` : ""}.</li>`}
      ${threshold?.shift && html`<li>Note: ${threshold.shift}, so the measured rate may differ from the requested one.</li>`}
    </ul>
    ${task.error && html`<${Failure} error=${task.error} retry=${task.retry} />`}
  </div>`;
}
