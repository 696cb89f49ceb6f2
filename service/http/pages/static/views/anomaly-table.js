// The table of scored items. 100 lines are drawn at a time; typed arrays are sorted.
import { html, useMemo } from "../lib/preact.js";
import { useParam } from "../lib/address.js";
import { nouns } from "../lib/models.js";
import { brief } from "../lib/numbers.js";
import { sorted } from "./anomaly-scores.js";
import { capital, count, percent, reasonText, shown } from "./anomaly-words.js";

export const PAGE = 100;
const TITLES = {
  rank: ["Rank", "1 is the most anomalous"], place: ["", "number in the input, from 1"], score: ["Score", "higher is more anomalous"],
  p: ["p-value", "share of normal items with a score at least as high"], risk: ["Risk", "0 to 999, a fixed function of the p-value: 0.1 gives 600, 0.001 gives 980"],
  warnings: ["Warnings", "number of warnings"],
};
const BANDS = "allow: not flagged; review: flagged; block: flagged, and below the threshold of the block rate";
const NOTES = { below_resolution: "more anomalous than all calibration items", unknown: "has unknown or missing values", uncalibrated: "no calibration" };

/** A band as text with a colour; without bands, whether the item is flagged. */
export function Band({ band, isAnomaly }) {
  const name = band ?? (isAnomaly === null ? "open" : isAnomaly ? "review" : "allow");
  return html`<span class=${`band ${name}`}>${band ?? (isAnomaly === null ? "undecided" : isAnomaly ? "flagged" : "not flagged")}</span>`;
}

/** Return [order, key, down, choose] of the sort in the address: `order` are indices of the scores. */
export function useOrder(scores) {
  const [text, set] = useParam("sort", "rank"), key = text.replace(/^-/, ""), valid = key in TITLES ? key : "rank", down = text.startsWith("-");
  const order = useMemo(() => scores && sorted(scores, valid, down), [scores, valid, down]);
  const choose = name => set(name !== valid ? (name === "rank" || name === "place" || name === "p" ? name : `-${name}`) : down ? name : `-${name}`, { push: true });
  return [order, valid, down, choose];
}

/** The table. `decision` gives bands; `open(i)` shows an item; `shownColumns` are the names of the file's columns to show. */
export function ScoreTable({ model, scores, source, decision, order, sortKey, down, choose, open, limit, more, columns, explains, known }) {
  const { numbers } = scores, { one } = nouns(model), pictures = source.items !== undefined,
    ids = scores.carried.size > 0 && [...scores.carried.values()].some(each => each.id !== undefined);
  const places = columns.map(name => source.sheet.header.indexOf(name));
  const head = name => html`<th scope="col" class=${name === "warnings" ? "" : "number"} aria-sort=${sortKey === name ? (down ? "descending" : "ascending") : undefined}>
    <button type="button" class="plain" title=${TITLES[name][1]} onClick=${() => choose(name)}>
      ${TITLES[name][0] || capital(one)}${sortKey === name ? (down ? " ▼" : " ▲") : ""}</button></th>`;
  const list = Array.from(order.slice(0, limit));
  return html`<div class="scroll" tabindex="0" role="region" aria-label="Scores"><table class="scores">
    <caption class="hidden">Scores</caption>
    <thead><tr>${head("rank")}${head("place")}${pictures && html`<th scope="col">Item</th>`}${ids
      && html`<th scope="col">Id</th>`}${head("score")}${head("p")}<th scope="col" title=${BANDS}>Band</th>${head("risk")}
      ${explains && !pictures && html`<th scope="col">Main reasons</th>`}${head("warnings")}${columns.map(name => html`<th scope="col"
        class=${known.has(name) ? "" : "other"} title=${known.has(name) ? undefined : "The model does not use this column"}>${name || "(no name)"}</th>`)}</tr></thead>
    <tbody>${list.map(i => {
      const cells = places.length ? source.sheet.cells(numbers.place[i] - 1) : [], number = numbers.place[i], reasons = scores.reasons.get(i),
        warnings = scores.warnings.get(i) ?? [];
      const name = pictures ? source.items[number - 1].name : number;
      return html`<tr key=${i} class=${decision.isAnomaly(i) ? "flagged" : ""} onClick=${() => open(i)}>
        <td class="number">${scores.rank[i] + 1}</td>
        <td class="number"><button type="button" class="plain open" aria-label=${`Open ${one} ${number}${pictures ? `, ${name}` : ""}`}
          onClick=${event => { event.stopPropagation(); open(i); }}>${number}</button></td>
        ${pictures && html`<td class="thumb"><img class="pixels" src=${source.items[number - 1].url} alt="" width="40" /> <span>${name}</span></td>`}
        ${ids && html`<td>${shown(scores.carried.get(i)?.id)}</td>`}
        <td class="number">${brief(numbers.score[i])}</td>
        <td class="number" title=${NOTES[scores.states[i]] ?? ""}>
          ${Number.isNaN(numbers.p[i]) ? "–" : `${scores.states[i] === "below_resolution" ? "≤ " : ""}${brief(numbers.p[i], 2)}`}</td>
        <td><${Band} band=${decision.band(i)} isAnomaly=${decision.isAnomaly(i)} /></td>
        <td class="number">${Number.isNaN(numbers.risk[i]) ? "–" : numbers.risk[i]}</td>
        ${explains && !pictures && html`<td class="why">${reasons ? (reasons.length ? reasons.slice(0, 2).map(reason => html`<div>${reasonText(reason)} <small>
          ${percent(reason.share)}</small></div>`) : "no single column") : html`<small>open it to see them</small>`}</td>`}
        <td title=${warnings.join("\n")}>${warnings.length ? html`${warnings[0].length > 40 ? `${warnings[0].slice(0, 39)}…` : warnings[0]}${warnings.length > 1
          ? html` <small>and ${warnings.length - 1} more</small>` : ""}` : ""}</td>
        ${places.map(place => html`<td>${cells[place] ?? ""}</td>`)}
      </tr>`;
    })}</tbody>
  </table></div>
  ${scores.n > limit && html`<p><button type="button" onClick=${more}>Show ${PAGE} more</button> <small>${count(limit)} of ${count(scores.n)} are shown</small></p>`}`;
}
