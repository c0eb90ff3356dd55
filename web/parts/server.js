/** What the widgets read from ComfyUI's server: files of a run by `/view`, translations, and the probabilities that a CFRT Evaluator has published. */
import { api } from '/scripts/api.js'

/** @typedef {{filename: string, subfolder: string, type: string}} File */

/** @param {File} file @returns {string} */
export function fileURL({ filename, subfolder, type }) {
  return api.apiURL(`/view?${new URLSearchParams({ filename, subfolder, type })}`)
}

/** @type {Map<string, Promise<any>>} */
const views = new Map()

/**
 * The JSON file of a view; kept, a failure is not.
 * @param {File} file
 * @returns {Promise<any>}
 */
export function readView(file) {
  const url = fileURL(file)
  let found = views.get(url)
  if (!found) {
    found = fetch(url).then((answer) => {
      if (!answer.ok) throw new Error(`${answer.status}`)
      return answer.json()
    })
    found.catch(() => views.delete(url))
    views.set(url, found)
    if (views.size > 24) views.delete(/** @type {string} */ (views.keys().next().value))
  }
  return found
}

/** Views by the key of their trajectory, the last ones; says "change" when one comes in. */
class Register extends EventTarget {
  /** @type {Map<string, any>} */
  #views = new Map()

  /** @param {string} key */
  find(key) {
    return this.#views.get(key)
  }

  /** @param {any} view */
  add(view) {
    this.#views.delete(view.key)
    this.#views.set(view.key, view)
    if (this.#views.size > 24) this.#views.delete(/** @type {string} */ (this.#views.keys().next().value))
    this.dispatchEvent(new Event('change'))
  }
}

/** Trajectories whose images a node has decoded. */
export const decoded = new Register()

/** What a CFRT Evaluator has judged. */
class Predictions extends Register {
  /** @param {any} view */
  add(view) {
    const rows = new Map()
    view.seeds.forEach((/** @type {number} */ seed, /** @type {number} */ p) =>
      view.attributes.forEach((/** @type {{name: string}} */ attribute, /** @type {number} */ a) =>
        view.points.forEach((/** @type {string} */ point, /** @type {number} */ n) =>
          rows.set(`${seed}|${attribute.name}|${point}`, view.index[p][a][n]))))
    super.add({ ...view, rows })
  }
}
export const predictions = new Predictions()

/**
 * One probability per classifier label, where the evaluator has judged that point.
 * @param {any} view a view that `predictions.find` returned
 * @param {number} seed @param {string} attribute @param {string} point
 * @returns {number[] | undefined}
 */
export function probabilityOf(view, seed, attribute, point) {
  const row = view?.rows.get(`${seed}|${attribute}|${point}`)
  return row === undefined ? undefined : view.probabilities[row]
}

/** @type {Record<string, string>} */
let words = {}

/** Fetch the translations of the page's language, once. @param {string} language */
export async function readWords(language) {
  try {
    const all = await (await api.fetchApi('/i18n')).json()
    words = all[language]?.medtraverse ?? all[language.split('-')[0]]?.medtraverse ?? {}
  } catch {
    words = {}
  }
}

/** @param {string} text English @returns {string} */
export const translate = (text) => words[text] ?? text
