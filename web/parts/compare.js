/**
 * Compare viewer: an image, its counterfactual and their difference, side by side or one over the other with a
 * slider. All panels share zoom and place; grey images have window and level, as a radiologist's viewer.
 */
import { contextOf, filled, make } from './elements.js'
import { diverging } from './scales.js'
import { fileURL } from './server.js'

/** @import { CompareFile } from '../types/views' */
/** @import { CompareState, Host } from '../types/widgets' */

export const css = `
.mt-compare { display: flex; flex-direction: column; gap: 4px; padding: 6px; }
.mt-compare .mt-bar { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; flex: none; }
.mt-compare .mt-bar label { display: flex; gap: 4px; align-items: center; }
.mt-compare output { min-width: 9em; font-variant-numeric: tabular-nums; margin-left: auto; text-align: right; }
.mt-compare .mt-stage { flex: 1; min-height: 60px; position: relative; }
.mt-compare .mt-stage canvas { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none;
  cursor: crosshair; }
.mt-compare .mt-facts { flex: none; max-height: 5.4em; overflow: auto; font-size: 11px; white-space: pre-line; }
.mt-compare .mt-note { flex: none; color: var(--descrip-text, #999); font-size: 11px; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
`
const LABEL = 16
const GAP = 6
const MOST_ZOOM = 32
/** @type {Readonly<CompareState>} */
const FRESH = { pair: 0, layout: 'side', split: 0.5, zoom: 1, centre: [0.5, 0.5], level: 0.5, width: 1 }

/**
 * An image's values, as they are before any window.
 * @typedef {object} Values
 * @property {Float32Array[]} channels one for a grey image, else three; 0 to 1
 * @property {number} width
 * @property {number} height
 */

/**
 * @param {string} url
 * @param {boolean} deep
 * @returns {Promise<Values>}
 */
async function readValues(url, deep) {
  const answer = await fetch(url)
  if (!answer.ok) throw new Error(`${answer.status}`)
  // Numbers, not colours: no profile may touch them.
  const bitmap = await createImageBitmap(await answer.blob(), {
    colorSpaceConversion: 'none',
    premultiplyAlpha: 'none',
  })
  const { width, height } = bitmap
  const context = contextOf(make('canvas', { width, height }), true)
  context.drawImage(bitmap, 0, 0)
  bitmap.close()
  const { data } = context.getImageData(0, 0, width, height)
  const channels = (deep ? [0] : [0, 1, 2]).map((channel) => {
    const values = new Float32Array(width * height)
    for (let i = 0; i < values.length; i++)
      values[i] = deep ? (data[4 * i] * 256 + data[4 * i + 1]) / 65535 : data[4 * i + channel] / 255
    return values
  })
  return { channels, width, height }
}

/** @param {Values} values @param {number} i @returns {number} brightness of a pixel */
const brightness = ({ channels }, i) =>
  channels.length === 1 ? channels[0][i] : 0.299 * channels[0][i] + 0.587 * channels[1][i] + 0.114 * channels[2][i]

export class CompareView {
  /** @type {CompareFile | undefined} */
  view
  /** @type {Map<number, Promise<Values>>} */
  kept = new Map()
  /** the panels on show: a heading, and a canvas with the image at its own size
   * @type {{name: string, sheet: HTMLCanvasElement}[]}
   */
  panels = []
  /** counts what was asked for, so that what comes late is left */
  turn = 0
  /** @type {{x: number, y: number, kind: string, from: CompareState} | undefined} */
  drag

  /** @param {Host<CompareState>} host */
  constructor(host) {
    this.host = host
    const { t } = host
    this.pair = make('select', { 'aria-label': t('Pair') })
    this.pair.onchange = () => this.set({ pair: this.pair.selectedIndex }, true)
    this.slider = make(
      'button',
      {
        type: 'button',
        title: `${t('Slider')} (S)`,
        'aria-pressed': 'false',
        onclick: () => this.set({ layout: this.state.layout === 'slider' ? 'side' : 'slider' }, true),
      },
      t('Slider'),
    )
    const reset = make(
      'button',
      { type: 'button', title: `${t('Reset')} (0)`, onclick: () => this.reset() },
      t('Reset'),
    )
    this.said = make('output')
    this.canvas = make('canvas', { role: 'img' })
    this.facts = make('div', { class: 'mt-facts' })
    this.note = make('div', { class: 'mt-note' })
    this.element = make(
      'div',
      // Nodes 2.0 takes the wheel for its canvas from all others.
      {
        class: 'mt-compare',
        tabIndex: 0,
        role: 'group',
        'aria-label': 'MedTraverse',
        'data-capture-wheel': 'true',
      },
      make('div', { class: 'mt-bar' }, make('label', {}, t('Pair'), this.pair), this.slider, reset, this.said),
      make('div', { class: 'mt-stage' }, this.canvas),
      this.facts,
      this.note,
    )
    this.canvas.addEventListener('pointerdown', (event) => this.down(event))
    this.canvas.addEventListener('pointermove', (event) => this.move(event))
    for (const end of /** @type {const} */ (['pointerup', 'pointercancel']))
      this.canvas.addEventListener(end, () => {
        if (this.drag) this.host.save()
        this.drag = undefined
      })
    this.canvas.addEventListener('dblclick', () => this.reset())
    this.canvas.addEventListener('wheel', (event) => this.wheel(event), { passive: false })
    this.element.addEventListener('keydown', (event) => this.key(event))
    for (const kind of ['pointerdown', 'pointermove', 'pointerup', 'dblclick', 'contextmenu', 'wheel', 'keyup'])
      this.element.addEventListener(kind, (event) => {
        if (kind === 'contextmenu') event.preventDefault()
        event.stopPropagation()
      })
    this.resized = new ResizeObserver(() => this.draw())
    this.resized.observe(this.canvas)
  }

  get state() {
    return this.host.state
  }

  /** @param {CompareFile} view */
  show(view) {
    this.view = view
    this.kept.clear()
    this.panels = []
    this.pair.replaceChildren(...view.pairs.map(({ title }) => make('option', {}, title)))
    const { pair = 0 } = this.state
    Object.assign(this.state, { ...FRESH, ...this.state, pair: pair < view.pairs.length ? pair : 0 })
    const { t } = this.host
    const more = view.left_out ? [filled(t('{pairs} more pairs are not shown.'), { pairs: view.left_out })] : []
    this.note.textContent = this.note.title = [view.notice, ...more].join(' ')
    this.set({}, false)
  }

  /** @param {Partial<CompareState>} change @param {boolean} save */
  set(change, save) {
    Object.assign(this.state, change)
    if (save) this.host.save()
    if (!this.view) return
    const { pair, layout } = this.state
    this.pair.selectedIndex = pair
    this.slider.setAttribute('aria-pressed', String(layout === 'slider'))
    this.facts.textContent = this.view.pairs[pair]?.facts.join('\n') ?? ''
    void this.paint()
  }

  reset() {
    const { zoom, centre, level, width, split } = FRESH
    this.set({ zoom, centre: [centre[0], centre[1]], level, width, split }, true)
  }

  /** @param {number} row */
  values(row) {
    let found = this.kept.get(row)
    if (!found && this.view) {
      const { prefix, suffix, subfolder, type } = this.view.images
      found = readValues(fileURL({ filename: `${prefix}${row}${suffix}`, subfolder, type }), this.view.deep)
      found.catch(() => this.kept.delete(row))
      this.kept.set(row, found)
      if (this.kept.size > 24) this.kept.delete(/** @type {number} */ (this.kept.keys().next().value))
    }
    return /** @type {Promise<Values>} */ (found)
  }

  /** Make the panels of the pair that is on show, with the window as it stands. */
  async paint() {
    const view = this.view
    const pair = view?.pairs[this.state.pair]
    if (!view || !pair) return
    const turn = ++this.turn
    try {
      const rows = [pair.before, pair.after, ...(pair.truth === undefined ? [] : [pair.truth])]
      const [before, after, truth] = await Promise.all(rows.map((row) => this.values(row)))
      if (turn !== this.turn) return
      const { t } = this.host
      this.panels = [
        { name: t('original'), sheet: this.windowed(before) },
        { name: t('counterfactual'), sheet: this.windowed(after) },
        { name: t('Difference'), sheet: this.difference(before, after) },
        ...(truth ? [{ name: t('true counterfactual'), sheet: this.windowed(truth) }] : []),
      ]
      this.draw()
    } catch {
      if (turn === this.turn)
        this.note.textContent = this.host.t('The files of this run are gone; run again.')
    }
  }

  /** @param {Values} values */
  windowed(values) {
    const { level, width } = this.view?.deep ? this.state : FRESH
    return this.sheet(values, (i, out) => {
      for (let c = 0; c < 3; c++) {
        const value = values.channels[values.channels.length === 1 ? 0 : c][i]
        out[c] = ((value - level) / width + 0.5) * 255
      }
    })
  }

  /** Signed difference of brightness over the original in grey. @param {Values} before @param {Values} after */
  difference(before, after) {
    return this.sheet(before, (i, out) => {
      const grey = brightness(before, i)
      const change = brightness(after, i) - grey
      const share = Math.min(1, Math.abs(change) * 3)
      const colour = diverging(Math.max(-1, Math.min(1, change * 2)))
      for (let c = 0; c < 3; c++) out[c] = grey * 255 * 0.6 * (1 - share) + colour[c] * share
    })
  }

  /** @param {Values} values @param {(i: number, out: number[]) => void} colour */
  sheet({ width, height }, colour) {
    const made = make('canvas', { width, height })
    const context = contextOf(made)
    const pixels = context.createImageData(width, height)
    const out = [0, 0, 0]
    for (let i = 0; i < width * height; i++) {
      colour(i, out)
      for (let c = 0; c < 3; c++) pixels.data[4 * i + c] = out[c]
      pixels.data[4 * i + 3] = 255
    }
    context.putImageData(pixels, 0, 0)
    return made
  }

  /** Where the panels lie on the canvas. */
  places() {
    const { clientWidth: wide, clientHeight: tall } = this.canvas
    const shown = this.state.layout === 'slider' ? this.panels.slice(1, 2) : this.panels
    const count = Math.max(1, shown.length)
    const [w, h] = this.view?.size ?? [1, 1]
    let best = { columns: count, side: 0 }
    for (let columns = 1; columns <= count; columns++) {
      const rows = Math.ceil(count / columns)
      const across = (wide - GAP * (columns - 1)) / columns
      const down = (tall - GAP * (rows - 1)) / rows - LABEL
      const side = Math.min(across / w, down / h)
      if (side > best.side) best = { columns, side }
    }
    const width = Math.max(1, best.side * w)
    const height = Math.max(1, best.side * h)
    const all = best.columns * width + (best.columns - 1) * GAP
    const left = Math.max(0, (wide - all) / 2)
    return shown.map((panel, n) => ({
      panel,
      x: left + (n % best.columns) * (width + GAP),
      y: Math.floor(n / best.columns) * (height + LABEL + GAP) + LABEL,
      width,
      height,
    }))
  }

  draw() {
    const { canvas } = this
    const ratio = window.devicePixelRatio || 1
    const wide = Math.round(canvas.clientWidth * ratio)
    const tall = Math.round(canvas.clientHeight * ratio)
    if (!wide || !tall) return
    if (canvas.width !== wide || canvas.height !== tall) Object.assign(canvas, { width: wide, height: tall })
    const context = contextOf(canvas)
    context.setTransform(ratio, 0, 0, ratio, 0, 0)
    context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight)
    if (!this.panels.length) return
    const { layout, split, zoom, level, width } = this.state
    const styles = getComputedStyle(this.element)
    context.font = `11px ${styles.fontFamily}`
    for (const place of this.places()) {
      const { panel, x, y } = place
      context.fillStyle = styles.color
      const name = layout === 'slider' ? `${this.panels[0].name} | ${panel.name}` : panel.name
      context.fillText(name, x, y - 4, place.width)
      this.image(context, panel.sheet, place, 0, 1)
      if (layout === 'slider') {
        this.image(context, this.panels[0].sheet, place, 0, split)
        context.fillStyle = '#fff'
        context.fillRect(x + split * place.width - 1, y, 2, place.height)
      }
    }
    const window_ = this.view?.deep ? `W ${(width * 100).toFixed(0)} L ${(level * 100).toFixed(0)}  ` : ''
    this.said.textContent = `${window_}×${zoom.toFixed(1)}`
    canvas.ariaLabel = this.panels.map(({ name }) => name).join(', ')
  }

  /**
   * Draw the part of an image that the zoom shows, between two shares of the panel's width.
   * @param {CanvasRenderingContext2D} context
   * @param {HTMLCanvasElement} sheet
   * @param {{x: number, y: number, width: number, height: number}} place
   * @param {number} from
   * @param {number} to
   */
  image(context, sheet, { x, y, width, height }, from, to) {
    const [left, top, span] = this.shown()
    context.save()
    context.beginPath()
    context.rect(x + from * width, y, (to - from) * width, height)
    context.clip()
    context.imageSmoothingEnabled = (width * this.state.zoom) / sheet.width < 3
    context.drawImage(
      sheet,
      left * sheet.width,
      top * sheet.height,
      span * sheet.width,
      span * sheet.height,
      x,
      y,
      width,
      height,
    )
    context.restore()
  }

  /** @returns {[number, number, number]} left, top and side of what the zoom shows, as shares of the image */
  shown() {
    const { zoom, centre } = this.state
    const span = 1 / zoom
    const edge = (/** @type {number} */ middle) => Math.min(1 - span, Math.max(0, middle - span / 2))
    return [edge(centre[0]), edge(centre[1]), span]
  }

  /** @param {PointerEvent} event */
  down(event) {
    if (!this.view) return
    const slides = this.state.layout === 'slider' && event.button === 0 && !event.shiftKey
    const pans = event.shiftKey || event.button === 1
    this.drag = {
      x: event.clientX,
      y: event.clientY,
      kind: slides ? 'split' : pans || !this.view.deep ? 'pan' : 'window',
      from: { ...this.state },
    }
    this.canvas.setPointerCapture(event.pointerId)
    event.preventDefault()
    this.element.focus()
    if (slides) this.move(event)
  }

  /** @param {PointerEvent} event */
  move(event) {
    const { drag } = this
    if (!drag) return
    const box = this.canvas.getBoundingClientRect()
    // The canvas of nodes is scaled as a whole.
    const scale = box.width / this.canvas.clientWidth || 1
    const [place] = this.places()
    if (!place) return
    const across = (event.clientX - drag.x) / scale / place.width
    const down = (event.clientY - drag.y) / scale / place.height
    const { from } = drag
    if (drag.kind === 'split') {
      const at = ((event.clientX - box.left) / scale - place.x) / place.width
      this.state.split = Math.min(1, Math.max(0, at))
      this.draw()
    } else if (drag.kind === 'pan') {
      this.state.centre = [
        Math.min(1, Math.max(0, from.centre[0] - across / from.zoom)),
        Math.min(1, Math.max(0, from.centre[1] - down / from.zoom)),
      ]
      this.draw()
    } else {
      // As in radiology: to the right wider, downwards brighter.
      const width = Math.min(2, Math.max(0.02, from.width * 4 ** across))
      const level = Math.min(1, Math.max(0, from.level - down * 0.5))
      this.set({ width, level }, false)
    }
  }

  /** @param {WheelEvent} event */
  wheel(event) {
    if (!this.view) return
    event.preventDefault()
    const box = this.canvas.getBoundingClientRect()
    const scale = box.width / this.canvas.clientWidth || 1
    const x = (event.clientX - box.left) / scale
    const y = (event.clientY - box.top) / scale
    const over = this.places().find(
      (place) => x >= place.x && x < place.x + place.width && y >= place.y && y < place.y + place.height,
    )
    const place = over ? [(x - over.x) / over.width, (y - over.y) / over.height] : [0.5, 0.5]
    this.zoom(event.deltaY < 0 ? 1.25 : 0.8, place)
  }

  /**
   * Zoom by a factor about a point of the panel, which stays where it is.
   * @param {number} factor
   * @param {number[]} about shares of the panel
   */
  zoom(factor, [x, y]) {
    const [left, top, span] = this.shown()
    const zoom = Math.min(MOST_ZOOM, Math.max(1, this.state.zoom * factor))
    const next = 1 / zoom
    this.state.centre = [left + x * span + (0.5 - x) * next, top + y * span + (0.5 - y) * next]
    this.state.zoom = zoom
    this.host.save()
    this.draw()
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    if (event.target instanceof HTMLSelectElement || !this.view) return
    const { split, pair } = this.state
    const last = this.view.pairs.length - 1
    /** @type {Record<string, () => void>} */
    const keys = {
      s: () => this.slider.click(),
      0: () => this.reset(),
      '+': () => this.zoom(1.25, [0.5, 0.5]),
      '-': () => this.zoom(0.8, [0.5, 0.5]),
      ArrowLeft: () => this.set({ split: Math.max(0, split - 0.02) }, true),
      ArrowRight: () => this.set({ split: Math.min(1, split + 0.02) }, true),
      ArrowUp: () => this.set({ pair: Math.max(0, pair - 1) }, true),
      ArrowDown: () => this.set({ pair: Math.min(last, pair + 1) }, true),
      // They would delete the node.
      Delete: () => {},
      Backspace: () => {},
    }
    const act = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key]
    if (!act) return
    act()
    event.preventDefault()
    event.stopPropagation()
  }

  dispose() {
    this.turn++
    this.resized.disconnect()
    this.kept.clear()
    this.panels = []
  }
}
