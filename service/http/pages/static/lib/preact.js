// Preact, its hooks, and `html`, which writes elements as tagged templates. All other modules import them from here.
import { Fragment, createContext, h, render } from "preact";
import { useCallback, useContext, useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
import htm from "htm";

const html = htm.bind(h);
export { Fragment, createContext, h, html, render, useCallback, useContext, useEffect, useErrorBoundary, useId, useLayoutEffect, useMemo, useReducer, useRef, useState };
