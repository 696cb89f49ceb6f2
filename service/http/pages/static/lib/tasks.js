// A request in progress: one at a time, which can be cancelled, and whose failure is shown.
import { useEffect, useRef, useState } from "./preact.js";

const SLOW = 500;  // ms after which a request shows that it runs, and can be cancelled
const LONG = 15_000;  // ms after which it says that it takes long

const REST = { running: false, slow: false, long: false, error: null, cancelled: false };

/**
 * Return a task: {run, cancel, retry, clear, running, slow, long, error, cancelled}.
 *
 * run(work, use) cancels what runs and calls `work(signal)`. When it succeeds, `use(result)` is called, also after a retry. The returned promise
 * has the result, or undefined if the work failed, was cancelled or was replaced. `error` is set if it failed. `slow` is true if it has run for more
 * than half a second, `long` after a quarter of a minute. clear() ends the work too, but without the note that it was cancelled. The work ends with the component.
 */
export function useTask() {
  const [state, set] = useState(REST);
  const now = useRef(null), last = useRef(null);

  const cancel = () => {
    now.current?.abort();
    now.current = null;
    set({ ...REST, cancelled: true });
  };
  const clear = () => {
    now.current?.abort();
    now.current = null;
    set(REST);
  };
  const run = async (work, use) => {
    now.current?.abort();
    const control = (now.current = new AbortController());
    last.current = [work, use];
    set({ ...REST, running: true });
    const timer = setTimeout(() => now.current === control && set({ ...REST, running: true, slow: true }), SLOW), late = setTimeout(() => now.current === control && set({ ...REST, running: true, slow: true, long: true }), LONG);
    try {
      const result = await work(control.signal);
      if (now.current !== control) return undefined;
      set(REST);
      use?.(result);
      return result;
    } catch (error) {
      // a request that another component started and ended is aborted too, although this task was not cancelled
      if (now.current === control) set(error.name === "AbortError" ? { ...REST, cancelled: true } : { ...REST, error });
      return undefined;
    } finally {
      clearTimeout(timer);
      clearTimeout(late);
      if (now.current === control) now.current = null;
    }
  };
  useEffect(() => () => { now.current?.abort(); now.current = null; }, []);
  return { ...state, run, cancel, retry: () => last.current && run(...last.current), clear };
}

/** Return [value, task]: the result of `work(signal)`, computed again whenever one of `deps` changes. The value is undefined before. */
export function useLoaded(work, deps) {
  const task = useTask();
  const [loaded, set] = useState({ value: undefined });
  useEffect(() => {
    let current = true;
    set({ value: undefined });
    task.run(work, value => { if (current) set({ value }); });
    return () => { current = false; };
  }, deps);
  return [loaded.value, task];
}

/** Return a value that follows `value` when this has not changed for `delay` ms, so that a slider or a drawing sends few requests. */
export function useSettled(value, delay = 150) {
  const [settled, set] = useState(value);
  useEffect(() => {
    if (value === settled) return undefined;
    const timer = setTimeout(() => set(value), delay);
    return () => clearTimeout(timer);
  }, [value]);
  return settled;
}
