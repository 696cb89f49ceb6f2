// Scores of many items in typed arrays, and the decisions on them, which follow from p-values exactly as the service decides (runtime/scores/decisions.py).

export const BANDS = ["allow", "review", "block"];
export const DEFAULT_RATE = 0.01;
const BLOCKED = 0.1;  // default rate of the band `block`, as a share of the rate

/** Scores that are added one by one. After close() they can be ranked and decided. Missing numbers are NaN. */
export class Scores {
  constructor() {
    this.n = 0;
    this.size = 1024;
    this.numbers = { place: new Float64Array(this.size), score: new Float64Array(this.size), p: new Float64Array(this.size), risk: new Float64Array(this.size) };
    this.states = [];
    this.warnings = new Map();
    this.carried = new Map();  // {id, passed} of items that have them
    this.errors = [];  // {place, error} of items that could not be scored
    this.explanations = new Map();
    this.reasons = new Map();  // the main reasons of more items than have an explanation here
    this.parts = [];
  }

  /** Add an entry of a response. `place` is the number of the item, from 1. */
  add(entry, place) {
    if (entry.error !== undefined && entry.score === undefined) { this.errors.push({ place, error: entry.error }); return; }
    if (this.n === this.size) this.grow();
    const i = this.n++, { numbers } = this;
    numbers.place[i] = place;
    numbers.score[i] = entry.score;
    numbers.p[i] = entry.p_value ?? NaN;
    numbers.risk[i] = entry.risk ?? NaN;
    this.states.push(entry.state);
    if (entry.warnings.length) this.warnings.set(i, entry.warnings);
    if ("id" in entry || entry.passed) this.carried.set(i, { id: entry.id, passed: entry.passed });
    if (entry.explanation) this.explanations.set(i, entry.explanation);
    if (!i) this.parts = Object.keys(entry.parts);
    for (const name of this.parts) {
      const { value, p_value } = entry.parts[name];
      (numbers[`${name}.value`] ??= new Float64Array(this.size))[i] = value;
      (numbers[`${name}.p`] ??= new Float64Array(this.size))[i] = p_value ?? NaN;
    }
  }

  grow() {
    this.size *= 2;
    for (const [name, old] of Object.entries(this.numbers)) { this.numbers[name] = new Float64Array(this.size); this.numbers[name].set(old); }
  }

  /** Rank the items by score, the most anomalous first; earlier items come first among equal ones. */
  close() {
    const { score, p } = this.numbers;
    this.order = Uint32Array.from({ length: this.n }, (_, i) => i).sort((a, b) => score[b] - score[a] || a - b);
    this.rank = new Uint32Array(this.n);
    this.order.forEach((i, rank) => { this.rank[i] = rank; });
    this.sorted = p.slice(0, this.n).sort();
    return this;
  }

  /** Return how many p-values are at most `limit`. */
  atMost(limit) {
    let low = 0, high = this.n;
    while (low < high) { const middle = (low + high) >> 1; if (this.sorted[middle] <= limit) low = middle + 1; else high = middle; }
    return low;
  }

  /** Return the index of the item with this number; -1 if it has no score. */
  find(place) {
    const { place: places } = this.numbers;
    let low = 0, high = this.n;
    while (low < high) { const middle = (low + high) >> 1; if (places[middle] < place) low = middle + 1; else high = middle; }
    return low < this.n && places[low] === place ? low : -1;
  }

  /** Return the terms of an item's score: [{name, value, p}]. */
  partsOf(i) {
    return this.parts.map(name => ({ name, value: this.numbers[`${name}.value`][i], p: this.numbers[`${name}.p`][i] }));
  }
}

/** Return the p-value of the threshold for a rate, with n calibration items; null if they do not resolve it. */
function line(n, rate) {
  const k = Math.floor((n + 1) * rate * (1 + 1e-12));
  return k < 1 || k > n ? null : k / (n + 1);
}

/**
 * Return the rates of a rule: that of flagged items, and that of blocked ones. `rule` is {by, rate, budget, costs, discovery, block}; `costRate` the rate that costs amount
 * to, null if it is not yet known.
 */
export function rates(rule, costRate) {
  const review = rule.by === "costs" ? costRate : ["budget", "discovery"].includes(rule.by) ? DEFAULT_RATE : rule.rate;
  return { review, block: rule.block ?? review * BLOCKED };
}

/**
 * Return the largest p-value that is flagged at a false discovery rate, by the procedure of Benjamini and Hochberg (1995); null if none is, or if there is no
 * calibration.
 */
function discoveries(scores, rate, n) {
  if (!n) return null;
  for (let k = scores.n; k >= 1; k--) {
    const rank = Math.round(scores.sorted[k - 1] * (n + 1));
    if (rank * scores.n <= rate * k * (n + 1) * (1 + 1e-12)) return rank / (n + 1);
  }
  return null;
}

/**
 * Return the decisions on scores by a rule, with n calibration items (0 if there is no calibration): {isAnomaly(i), band(i), flagged, blocked, undecided,
 * review, block, pending}. With `pending`, the rate that costs amount to is not yet known and everything is undecided. `isAnomaly` and `band` are null if undecided. `review` and `block` are the p-values of the thresholds, null if there is none.
 */
export function decide(scores, rule, n, costRate) {
  if (rule.by === "costs" && costRate === null) {
    return { isAnomaly: () => null, band: () => null, flagged: 0, blocked: 0, undecided: scores.n, review: null, block: null, pending: true };
  }
  const { p } = scores.numbers, rate = rates(rule, costRate), budget = rule.by === "budget";
  const discovery = rule.by === "discovery";
  const review = discovery ? discoveries(scores, rule.discovery, n) : n ? line(n, rate.review) : null, block = n ? line(n, rate.block) : null;
  const open = !budget && !discovery && (n === 0 || Math.floor((n + 1) * rate.review * (1 + 1e-12)) < 1);  // the rule decides nothing, or only that items are normal
  const undecided = i => open && (n === 0 || p[i] <= 1 / (n + 1));
  const isFlagged = i => (budget ? scores.rank[i] < rule.budget : review !== null && p[i] <= review);
  const isAnomaly = i => (undecided(i) ? null : isFlagged(i));
  const flagged = budget ? Math.min(rule.budget, scores.n) : review === null ? 0 : scores.atMost(review);
  return {
    isAnomaly, flagged, review: budget ? (flagged && n ? p[scores.order[flagged - 1]] : null) : review, block,
    band: i => (n === 0 || undecided(i) ? null : !isFlagged(i) ? BANDS[0] : block !== null && p[i] <= block ? BANDS[2] : BANDS[1]),
    blocked: block === null ? 0 : Math.min(flagged, scores.atMost(block)),
    undecided: open ? (n === 0 ? scores.n : scores.atMost(1 / (n + 1))) : 0, pending: false,
  };
}

/** Return the fields of a rule in a request. A model without a calibration accepts only a budget. */
export function fieldsOf(rule, n) {
  if (rule.by === "budget") return { budget: rule.budget, ...(n && rule.block !== null && { block_rate: rule.block }) };
  if (!n) return {};
  if (rule.by === "discovery") return { false_discovery_rate: rule.discovery, ...(rule.block !== null && { block_rate: rule.block }) };
  return { ...(rule.by === "costs" ? { costs: rule.costs } : { false_positive_rate: rule.rate }), ...(rule.block !== null && { block_rate: rule.block }) };
}

/** Return the main reasons of an explanation, as `manifold score` chooses them: [{column, value, expected, share}]. */
export function mainReasons(explanation) {
  const found = (explanation?.columns ?? []).slice(0, 3).filter(reason => reason.share);
  return found.filter((reason, place) => place === 0 || reason.share >= 0.05).map(({ column, value, expected, share, direction }) => ({ column, value, expected, share,
    direction }));
}

/** Return indices of the scores, sorted by a key: "rank", "place", "score", "p", "risk" or "warnings". */
export function sorted(scores, key, down) {
  const { numbers, order, warnings } = scores;
  if (key === "rank" || key === "score") return down === (key === "score") ? order : order.slice().reverse();
  if (key === "place") return Uint32Array.from({ length: scores.n }, (_, i) => (down ? scores.n - 1 - i : i));
  const value = key === "warnings" ? i => warnings.get(i)?.length ?? 0 : i => (Number.isNaN(numbers[key][i]) ? Infinity : numbers[key][i]);
  return order.slice().sort((a, b) => (down ? value(b) - value(a) : value(a) - value(b)) || scores.rank[a] - scores.rank[b]);
}
