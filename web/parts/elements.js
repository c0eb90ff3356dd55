/** How every widget makes its elements and fills in its texts. */

/**
 * An element with what is given: as its property where it has one of that name, as an attribute elsewhere.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, unknown>} [given]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function make(tag, given = {}, ...children) {
  const made = document.createElement(tag)
  for (const [name, value] of Object.entries(given)) {
    if (name in made) Object.assign(made, { [name]: value })
    else made.setAttribute(name, String(value))
  }
  made.append(...children)
  return made
}

/**
 * Put an element on a node, as a widget that only shows something: it is no part of a saved workflow.
 * @param {import('../types/comfy').ComfyNode} node
 * @param {string} name
 * @param {HTMLElement} box
 * @param {() => number} least its least height
 * @param {{most?: () => number, hideOnZoom?: boolean}} [given]
 */
export function place(node, name, box, least, { most = () => 4096, hideOnZoom = false } = {}) {
  const options = { serialize: false, hideOnZoom, getMinHeight: least, getMaxHeight: most }
  const widget = node.addDOMWidget(name, name.toUpperCase(), box, options)
  widget.serialize = false
  return widget
}

/**
 * What draws on a canvas; `often` where its pixels are read back again and again.
 * @param {HTMLCanvasElement} canvas
 * @param {boolean} [often]
 */
export function contextOf(canvas, often = false) {
  const context = canvas.getContext('2d', { willReadFrequently: often })
  if (!context) throw new Error('this browser draws nothing more: too many canvases, or too large')
  return context
}

/**
 * A canvas of that size and what draws on it.
 * @param {number} width
 * @param {number} height
 * @returns {[HTMLCanvasElement, CanvasRenderingContext2D]}
 */
export function sheet(width, height) {
  const canvas = make('canvas', { width, height })
  return [canvas, contextOf(canvas, true)]
}

/**
 * A text with its {names} filled in.
 * @param {string} text
 * @param {Record<string, string | number>} values
 */
export const filled = (text, values) =>
  text.replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole))
