/**
 * What the widgets read from ComfyUI's server: files of a run by `/view`, translations, and the probabilities that
 * a CFRT Evaluator has published.
 */
import { api } from '/scripts/api.js'

/** @import { CFRTFile, TrajectoryFile, ViewFile } from '../types/views' */
/** @typedef {{filename: string, subfolder: string, type: string}} File what ComfyUI serves under /view */

/** @type {ViewFile['format']} the only one that this page knows */
const FORMAT = 1

/** A file of a format that this page does not know. */
export class UnknownFormat extends Error {
  /** @param {unknown} format */
  constructor(format) {
    super(`format ${format}`)
    this.format = format
  }
}

/**
 * @param {File} file
 * @returns {string}
 */
export function fileURL({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
}

/** @type {Map<string, Promise<ViewFile>>} */
const views = new Map()

/**
 * The JSON file of a view; kept, a failure is not.
 * @param {File} file
 * @returns {Promise<ViewFile>}
 */
export function readView(file) {
  const url = fileURL(file)
  let found = views.get(url)
  if (!found) {
    found = fetchView(url)
    found.catch(() => views.delete(url))
    views.set(url, found)
    if (views.size > 24) views.delete(/** @type {string} */ (views.keys().next().value))
  }
  return found
}

/**
 * @param {string} url
 * @returns {Promise<ViewFile>}
 */
async function fetchView(url) {
  const answer = await fetch(url)
  if (!answer.ok) throw new Error(`${answer.status}`)
  const view = await answer.json()
  if (view?.format !== FORMAT) throw new UnknownFormat(view?.format)
  return view
}

/**
 * Views by the key of their trajectory, the last ones; says "change" when one comes in.
 * @template {TrajectoryFile | CFRTFile} V
 */
class Register extends EventTarget {
  /** @type {Map<string, V>} */
  #views = new Map()

  /** @param {string} key */
  find(key) {
    return this.#views.get(key)
  }

  /** @param {V} view */
  add(view) {
    this.#views.delete(view.key)
    this.#views.set(view.key, view)
    if (this.#views.size > 24) this.#views.delete(/** @type {string} */ (this.#views.keys().next().value))
    this.dispatchEvent(new Event('change'))
  }
}

/**
 * Trajectories whose images a node has decoded.
 * @type {Register<TrajectoryFile>}
 */
export const decoded = new Register()

/**
 * What a CFRT Evaluator has judged.
 * @type {Register<CFRTFile>}
 */
export const predictions = new Register()

/** @type {WeakMap<CFRTFile, Map<string, number>>} the row of each point of a judged view */
const judgedRows = new WeakMap()

/** @param {CFRTFile} view */
function rowsOf(view) {
  let rows = judgedRows.get(view)
  if (!rows) {
    rows = new Map()
    for (const [p, seed] of view.seeds.entries())
      for (const [a, { name }] of view.attributes.entries())
        for (const [n, point] of view.points.entries())
          rows.set(`${seed}|${name}|${point}`, view.index[p][a][n])
    judgedRows.set(view, rows)
  }
  return rows
}

/**
 * One probability per classifier label, where the evaluator has judged that point.
 * @param {CFRTFile | undefined} view what `predictions.find` returned
 * @param {number | string} seed
 * @param {string} attribute
 * @param {string} point
 * @returns {number[] | undefined}
 */
export function probabilityOf(view, seed, attribute, point) {
  const row = view && rowsOf(view).get(`${seed}|${attribute}|${point}`)
  return row === undefined ? undefined : view?.probabilities[row]
}

/** @type {Record<string, string>} */
let words = {}

/**
 * Fetch the translations of the page's language, once.
 * @param {string} language
 */
export async function readWords(language) {
  try {
    const all = await (await api.fetchApi('/i18n')).json()
    words = all[language]?.medtraverse ?? all[language.split('-')[0]]?.medtraverse ?? {}
  } catch {
    words = {}
  }
}

/**
 * @param {string} text English
 * @returns {string}
 */
export const translate = (text) => words[text] ?? text
