// Requests that follow a pointer or a slider: one at a time, and of those that wait, the latest one is sent next.
import { html, useEffect, useRef, useState } from "./preact.js";

const PAUSE = 300;  // ms without a result after which the measurement of the rate starts again

/**
 * Return {ask, error, rate, slow, cancel}. ask(input) calls `work(input, signal)`, then `show(result, input)`. While a request is in flight only the latest
 * input is kept. `rate` is the number of results per second while inputs follow each other, null before it is known.
 */
export function useLive(work, show) {
  const [state, set] = useState({ error: null, rate: null, slow: false });
  const live = useRef({ waiting: null, control: null, times: [], told: 0 }).current;
  Object.assign(live, { work, show });

  const count = () => {
    const now = performance.now(), { times } = live;
    if (times.length && now - times.at(-1) > PAUSE) times.length = 0;
    times.push(now);
    if (times.length > 60) times.shift();
    if (times.length >= 10 && now - live.told > 250) {
      live.told = now;
      set(before => ({ ...before, rate: (1000 * (times.length - 1)) / (now - times[0]) }));
    }
  };
  const run = async () => {
    const control = (live.control = new AbortController());
    while (live.waiting && live.control === control) {
      const [input] = live.waiting;
      live.waiting = null;
      const timer = setTimeout(() => set(before => ({ ...before, slow: true })), 500);
      try {
        const result = await live.work(input, control.signal);
        if (live.control !== control) return;
        live.show(result, input);
        count();
        set(before => (before.error || before.slow ? { ...before, error: null, slow: false } : before));
      } catch (error) {
        if (live.control !== control) return;
        if (error.name !== "AbortError") set(before => ({ ...before, error, slow: false }));
      } finally {
        clearTimeout(timer);
      }
    }
    if (live.control === control) live.control = null;
  };
  const ask = input => {
    live.last = input;
    live.waiting = [input];
    if (!live.control) run();
  };
  const cancel = () => {
    live.control?.abort();
    live.control = live.waiting = null;
    set(before => ({ ...before, slow: false }));
  };
  useEffect(() => cancel, []);
  return { ...state, ask, cancel, running: state.slow, retry: () => ask(live.last) };
}

/** The measured rate of live results, such as "42 images/s". A test reads it from the attribute data-fps. */
export const Rate = ({ live, noun }) => html`<small class="rate" data-fps=${live.rate?.toFixed(1)}>${live.rate ? `${Math.round(live.rate)} ${noun}/s` : ""}</small>`;

/** Return [shown, show]: the value, but while it changes quickly only every `pause` ms, for what is slow to draw. show(value) shows one at once. */
export function useCalm(value, pause = 120) {
  const [shown, show] = useState(value), state = useRef({ value, timer: 0 }).current;
  useEffect(() => {
    state.value = value;
    state.timer ||= setTimeout(() => { state.timer = 0; show(state.value); }, pause);
  }, [value]);
  useEffect(() => () => clearTimeout(state.timer), []);
  return [shown, show];
}
