// The state of the page, which is in its address (`/?model=NAME&view=sample&seed=7`), so that links and the back button work.
import { useEffect, useState } from "./preact.js";

const heard = new Set();
const tell = () => heard.forEach(hear => hear());

addEventListener("popstate", tell);

/** Return the parameters of the address as an object of texts. */
export const read = () => Object.fromEntries(new URLSearchParams(location.search));

/** Return a link to the page with exactly these parameters. Those that are null, undefined or empty are left out. */
export function href(params) {
  const kept = Object.entries(params).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const text = new URLSearchParams(kept.map(([name, value]) => [name, String(value)])).toString();
  return text ? `?${text}` : location.pathname;
}

/** Go to the page with exactly these parameters. `replace` changes the address without a new step for the back button. */
export function go(params, { replace = false } = {}) {
  const to = href(params);
  if (to === (location.search || location.pathname)) return;
  history[replace ? "replaceState" : "pushState"](null, "", to);
  tell();
}

/** Change some parameters of the address and keep the others. */
export const change = (changes, options) => go({ ...read(), ...changes }, options);

/** Return the parameters of the address. The component is drawn again when they change. */
export function useAddress() {
  const [params, set] = useState(read);
  useEffect(() => {
    const hear = () => set(read());
    heard.add(hear);
    hear();
    return () => heard.delete(hear);
  }, []);
  return params;
}

/**
 * Return [value, set] of one parameter. `fallback` is its value if it is absent, and is left out of the address.
 * set(value) replaces the address; set(value, {push: true}) makes a step for the back button.
 */
export function useParam(name, fallback = "") {
  const value = useAddress()[name] ?? fallback;
  const set = (next, { push = false } = {}) => change({ [name]: String(next) === String(fallback) ? null : next }, { replace: !push });
  return [value, set];
}

/** Follow links within the page without loading it again. */
export function follow(event) {
  const link = event.target.closest?.("a[href]"), to = link?.getAttribute("href");
  if (!link || !(to.startsWith("?") || to === location.pathname) || event.defaultPrevented || event.button || event.ctrlKey || event.metaKey || event.shiftKey || link.target) return;
  event.preventDefault();
  go(Object.fromEntries(new URLSearchParams(to.startsWith("?") ? to : "")));
}
