// A request in progress: one at a time, which can be cancelled, and whose failure is shown.
import { useEffect, useRef, useState } from "./preact.js";

const SLOW = 500;  // ms after which a request shows that it runs, and can be cancelled

/**
 * Return a task: {run, cancel, retry, running, slow, error, clear}.
 *
 * run(work) cancels what runs and calls `work(signal)`. It returns what `work` returns, or undefined if it failed or was replaced: `error`
 * is set then, unless it was cancelled. `slow` is true if it has run for more than half a second. The work ends with the component.
 */
export function useTask() {
  const [state, set] = useState({ running: false, slow: false, error: null });
  const now = useRef(null), last = useRef(null);

  const cancel = () => {
    now.current?.abort();
    now.current = null;
    set(before => ({ ...before, running: false, slow: false }));
  };
  const run = async work => {
    now.current?.abort();
    const control = (now.current = new AbortController());
    last.current = work;
    set({ running: true, slow: false, error: null });
    const timer = setTimeout(() => now.current === control && set({ running: true, slow: true, error: null }), SLOW);
    try {
      const result = await work(control.signal);
      if (now.current !== control) return undefined;
      set({ running: false, slow: false, error: null });
      return result;
    } catch (error) {
      if (now.current === control && error.name !== "AbortError") set({ running: false, slow: false, error });
      return undefined;
    } finally {
      clearTimeout(timer);
      if (now.current === control) now.current = null;
    }
  };
  useEffect(() => () => { now.current?.abort(); now.current = null; }, []);
  return { ...state, run, cancel, retry: () => last.current && run(last.current), clear: () => set({ running: false, slow: false, error: null }) };
}

/** Return [value, task]: the result of `work(signal)`, computed again whenever one of `deps` changes. The value is undefined before. */
export function useLoaded(work, deps) {
  const task = useTask();
  const [loaded, set] = useState({ value: undefined });
  useEffect(() => {
    let current = true;
    set({ value: undefined });
    task.run(work).then(value => { if (current && value !== undefined) set({ value }); });
    return () => { current = false; };
  }, deps);
  return [loaded.value, task];
}
