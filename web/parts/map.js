/** The t-SNE of a traversal's latents: a scatter to zoom, colour, select from and export. */
import { Cloud } from './cloud.js'
import { contextOf, make } from './elements.js'
import { copySeeds, downloadPicture, downloadTable } from './map_files.js'
import { drawDots, drawOver } from './map_paint.js'
import { Raster } from './raster.js'
import { GREY, categorical, diverging, fromHex, sequential, toCSS, toPixel } from './scales.js'
import { predictions, probabilityOf } from './server.js'
import { Sheets } from './sheets.js'

export { css } from './map_paint.js'

/** @import { MapFile, CFRTFile } from '../types/views' */
/** @import { Host, MapState } from '../types/widgets' */

const REACH = 10,
  CLOSEST = 40
/** From here on, a map that moves is drawn coarse on fine screens. */
const MANY = 10_000

export class LatentMapView {
  /** @type {{view: MapFile, cloud: Cloud, sheets: Sheets | null} | undefined} the file on show */
  opened
  raster = new Raster()
  /** the row under the pointer, -1 for none */
  hovered = -1
  /** @type {[number, number][]} corners of the lasso, in the scaled square */
  lasso = []
  lassoing = false
  /**
   * @type {{lasso: boolean, from: [number, number]} | undefined} what the pressed pointer does, and where it
   * began
   */
  gesture
  /** @type {Set<string>} names of attributes that are not drawn */
  hidden = new Set()
  /** @type {boolean[]} of each attribute whether it is drawn */
  visible = []
  /** what the dots are coloured by */
  colour = 'attribute'
  /** the pixel of each row */
  colours = new Uint32Array()
  /** @type {Float32Array | undefined} change of each row's probability, where a classifier has judged */
  delta
  zoom = 1
  /** @type {[number, number]} the middle of the canvas, in the scaled square */
  pan = [0, 0]
  /** CSS pixels of the canvas, and of the scaled square's side */
  width = 0
  height = 0
  scale = 1
  /** whether the dots must be drawn anew */
  stale = true
  frame = 0
  saving = 0

  /** @param {Host<MapState>} host */
  constructor(host) {
    this.host = host
    this.canvas = make('canvas', { 'aria-hidden': 'true' })
    this.tipPicture = make('canvas', { width: 96, height: 96 })
    this.tipText = make('div')
    this.tip = make('div', { class: 'mt-map-tip', hidden: true }, this.tipPicture, this.tipText)
    this.plot = make('div', { class: 'mt-map-plot' }, this.canvas, this.tip)
    const { t } = host
    this.choice = make('select', { title: t('Colour the dots by'), 'aria-label': t('Colour the dots by') })
    for (const [value, text] of [
      ['attribute', 'attribute'],
      ['lambda', 'λ'],
      ['patient', 'patient'],
      ['delta', 'Δ probability'],
    ])
      this.choice.append(make('option', { value }, t(text)))
    this.lassoButton = this.#button(
      'Lasso',
      'Draw round dots to list their seeds (L, or shift and drag)',
      () => this.#toggleLasso(),
    )
    this.lassoButton.setAttribute('aria-pressed', 'false')
    this.legend = make('span', {
      class: 'mt-map-bar mt-map-legend',
      role: 'group',
      'aria-label': t('Attributes shown'),
    })
    this.seedsBox = make('textarea', { readOnly: true, 'aria-label': t('Seeds inside the lasso') })
    this.picked = make(
      'div',
      { class: 'mt-map-bar mt-map-picked', hidden: true },
      this.seedsBox,
      this.#button('Copy', 'Copy the seeds', () => copySeeds(this)),
    )
    this.said = make('div', { class: 'mt-map-said', role: 'status', 'aria-live': 'polite' })
    const bar = make(
      'div',
      { class: 'mt-map-bar' },
      this.choice,
      this.lassoButton,
      this.#button('Reset', 'Show the whole map (0)', () => this.#reset()),
      this.#button('CSV', 'Download the coordinates', () => downloadTable(this)),
      this.#button('PNG', 'Download this picture', () => downloadPicture(this)),
      this.legend,
    )
    this.element = make(
      'div',
      {
        class: 'mt-map',
        tabIndex: 0,
        role: 'group',
        'aria-label': t(
          't-SNE map of latents. Arrows pan, plus and minus zoom, 0 shows all, L draws a lasso, Enter names the dot in the middle.',
        ),
      },
      bar,
      this.plot,
      this.picked,
      this.said,
    )
    this.#listen()
    this.onPredictions = () => this.opened && this.#recolour()
    predictions.addEventListener('change', this.onPredictions)
    this.observer = new ResizeObserver(() => this.invalidate())
    this.observer.observe(this.plot)
  }

  get state() {
    return this.host.state
  }
  get view() {
    return this.#file().view
  }
  get cloud() {
    return this.#file().cloud
  }

  #file() {
    if (!this.opened) throw new Error('no file is on show')
    return this.opened
  }

  /** @param {string} text @param {string} title @param {() => void} onclick */
  #button(text, title, onclick) {
    const { t } = this.host
    return make('button', { type: 'button', title: t(title), onclick }, t(text))
  }

  #listen() {
    this.choice.onchange = () => {
      this.state.colour = this.choice.value
      this.host.save()
      this.#recolour()
    }
    this.element.addEventListener('pointerdown', (event) => event.button === 0 && event.stopPropagation())
    this.element.addEventListener('dblclick', (event) => event.stopPropagation())
    this.element.addEventListener('keydown', (event) => this.#key(event))
    this.canvas.addEventListener('wheel', (event) => this.#wheel(event), { passive: false })
    this.canvas.addEventListener('pointerdown', (event) => this.#press(event))
    this.canvas.addEventListener('pointermove', (event) => this.#move(event))
    this.canvas.addEventListener('pointerup', (event) => this.#release(event))
    this.canvas.addEventListener('pointercancel', (event) => this.#release(event))
    this.canvas.addEventListener('pointerleave', () => this.gesture || this.#hover(-1))
    this.canvas.addEventListener('dblclick', () => this.#reset())
  }

  /** @param {MapFile} view */
  show(view) {
    this.opened = { view, cloud: new Cloud(view), sheets: view.sheets && new Sheets(view.sheets) }
    this.zoom = Math.min(CLOSEST, Math.max(0.5, Number(this.state.zoom) || 1))
    this.pan = [Number(this.state.pan?.[0]) || 0, Number(this.state.pan?.[1]) || 0]
    this.hidden = new Set(Array.isArray(this.state.hidden) ? this.state.hidden : [])
    this.lasso = []
    this.picked.hidden = true
    this.said.textContent = ''
    this.#hover(-1)
    this.legend.replaceChildren(
      ...view.attributes.map((attribute) => {
        const swatch = make('i')
        swatch.style.background = toCSS(fromHex(attribute.colour))
        const toggle = make('button', { type: 'button' }, swatch, attribute.name)
        toggle.onclick = () => this.#toggle(attribute.name, toggle)
        toggle.setAttribute('aria-pressed', String(!this.hidden.has(attribute.name)))
        return toggle
      }),
    )
    this.#recolour()
  }

  dispose() {
    predictions.removeEventListener('change', this.onPredictions)
    this.observer.disconnect()
    cancelAnimationFrame(this.frame)
    clearTimeout(this.saving)
    this.opened = undefined
  }

  /** @param {string} name @param {HTMLElement} button */
  #toggle(name, button) {
    if (!this.hidden.delete(name)) this.hidden.add(name)
    button.setAttribute('aria-pressed', String(!this.hidden.has(name)))
    this.state.hidden = [...this.hidden]
    this.host.save()
    this.invalidate()
  }

  /**
   * Change of the attribute's first label from the patient's point 0, -1 to 1; NaN where it is not known.
   * @param {CFRTFile | undefined} judged @param {number} row
   */
  #delta(judged, row) {
    const { cloud, view } = this,
      a = cloud.attribute[row],
      seed = view.seeds[cloud.patient[row]]
    if (!judged || cloud.patient[row] < 0) return NaN
    if (a < 0) return 0
    const { name } = view.attributes[a],
      labels = judged.attributes.find((attribute) => attribute.name === name)?.labels ?? [],
      label = judged.labels.indexOf(labels[0])
    const here = probabilityOf(judged, seed, name, view.points[cloud.point[row]]),
      start = probabilityOf(judged, seed, name, view.points[0])
    return here && start && label >= 0 ? here[label] - start[label] : NaN
  }

  #recolour() {
    const { cloud, view, state } = this,
      judged = predictions.find(view.key)
    for (const option of this.choice.options) option.disabled = option.value === 'delta' && !judged
    this.colour = ['lambda', 'patient', 'delta'].includes(state.colour) ? state.colour : 'attribute'
    this.choice.value = this.colour
    const attributes = view.attributes.map((attribute) => toPixel(fromHex(attribute.colour)))
    const patients = view.seeds.map((_, p) => toPixel(categorical(p)))
    const steps = view.points.map((_, n) => toPixel(sequential(n / Math.max(1, cloud.steps - 1))))
    this.delta = judged && Float32Array.from({ length: cloud.count }, (_, row) => this.#delta(judged, row))
    this.colours = Uint32Array.from({ length: cloud.count }, (_, row) => {
      if (this.colour === 'patient') return patients[cloud.patient[row]] ?? 0
      if (this.colour === 'lambda') return steps[cloud.point[row]]
      if (this.colour === 'delta') return toPixel(this.delta ? diverging(this.delta[row]) : GREY)
      return attributes[cloud.attribute[row]] ?? toPixel(GREY)
    })
    this.invalidate()
  }

  /** Ask for one frame. @param {boolean} [stale] false when only what lies over the dots has changed */
  invalidate(stale = true) {
    this.stale ||= stale
    this.frame ||= requestAnimationFrame(() => {
      this.frame = 0
      this.draw()
    })
  }

  /** A row is shown while its attribute is; a shared one while any is. @param {number} row */
  shown(row) {
    const a = this.cloud.attribute[row]
    return this.cloud.patient[row] >= 0 && (a < 0 ? this.visible.includes(true) : this.visible[a])
  }

  #measure() {
    this.width = this.canvas.clientWidth
    this.height = this.canvas.clientHeight
    this.scale = 0.92 * Math.max(1, Math.min(this.width, this.height - 20)) * this.zoom
  }

  /** @param {number} x @param {number} y @returns {[number, number]} CSS pixels */
  place(x, y) {
    return [this.width / 2 + (x - this.pan[0]) * this.scale, this.height / 2 + (y - this.pan[1]) * this.scale]
  }

  /** @param {MouseEvent} event @returns {[number, number]} in the scaled square */
  #at(event) {
    this.#measure()
    const box = this.canvas.getBoundingClientRect(),
      shrunk = this.width / (box.width || 1)
    return [
      ((event.clientX - box.left) * shrunk - this.width / 2) / this.scale + this.pan[0],
      ((event.clientY - box.top) * shrunk - this.height / 2) / this.scale + this.pan[1],
    ]
  }

  draw() {
    const context = contextOf(this.canvas, true)
    const coarse = this.saving && this.opened && this.cloud.count > MANY
    const ratio = Math.min(coarse ? 1 : 2, window.devicePixelRatio || 1)
    this.#measure()
    const width = Math.round(this.width * ratio),
      height = Math.round(this.height * ratio)
    if (!width || !height) return
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height })
      this.stale = true
    }
    if (!this.opened) return context.clearRect(0, 0, width, height)
    this.visible = this.view.attributes.map(({ name }) => !this.hidden.has(name))
    if (this.stale) drawDots(this, context, ratio)
    this.stale = false
    context.putImageData(this.raster.image, 0, 0)
    context.setTransform(ratio, 0, 0, ratio, 0, 0)
    drawOver(this, context)
    context.setTransform(1, 0, 0, 1, 0, 0)
  }

  /** @param {number} row @returns {string[]} what there is to say of a dot */
  #words(row) {
    const { cloud, view } = this,
      t = this.host.t,
      point = view.points[cloud.point[row]],
      a = cloud.attribute[row]
    const said = [
      `${t('seed')} ${view.seeds[cloud.patient[row]]}`,
      a < 0 ? view.neutral || t('neutral') : view.attributes[a].name,
    ]
    if (view.kind === 'curve') said.push(`${t('point')} ${point}`)
    else if (cloud.point[row]) said.push(`λ ${point}`)
    if (this.delta && Number.isFinite(this.delta[row])) said.push(`Δ ${this.delta[row].toFixed(3)}`)
    return said
  }

  /** @param {number} row -1 for none */
  #hover(row) {
    if (row === this.hovered) return
    this.hovered = row
    this.tip.hidden = row < 0
    this.invalidate(false)
    if (row < 0) return
    const { tipPicture, tip } = this,
      { sheets } = this.#file(),
      words = this.#words(row)
    this.tipText.textContent = words.join('\n')
    this.said.textContent = words.join(', ')
    tipPicture.hidden = !sheets
    contextOf(tipPicture).clearRect(0, 0, 96, 96)
    sheets
      ?.draw(row, tipPicture, () => this.hovered === row)
      .catch(() => {
        if (this.hovered === row) tipPicture.hidden = true
      })
    const [x, y] = this.place(this.cloud.x[row], this.cloud.y[row]),
      { offsetWidth, offsetHeight } = tip
    tip.style.left = `${Math.max(0, x + 14 + offsetWidth > this.width ? x - 14 - offsetWidth : x + 14)}px`
    tip.style.top = `${Math.max(0, Math.min(y - 10, this.height - offsetHeight))}px`
  }

  /** @param {number} x @param {number} y @param {number} reach in CSS pixels */
  #near(x, y, reach) {
    return this.opened ? this.cloud.nearest(x, y, reach / this.scale, (row) => this.shown(row)) : -1
  }

  #moved() {
    this.#hover(-1)
    this.invalidate()
    clearTimeout(this.saving)
    this.saving = setTimeout(() => {
      this.saving = 0
      this.invalidate()
      Object.assign(this.state, { zoom: this.zoom, pan: [...this.pan] })
      this.host.save()
    }, 300)
  }

  /** @param {number} factor @param {[number, number]} at in the scaled square */
  #zoomAt(factor, [x, y]) {
    const zoom = Math.min(CLOSEST, Math.max(0.5, this.zoom * factor)),
      kept = this.zoom / zoom
    this.pan = [x + (this.pan[0] - x) * kept, y + (this.pan[1] - y) * kept]
    this.zoom = zoom
    this.#moved()
  }

  #reset() {
    if (!this.opened) return
    this.zoom = 1
    this.pan = [0, 0]
    this.#moved()
  }

  #toggleLasso(on = !this.lassoing) {
    this.lassoing = on
    this.lassoButton.setAttribute('aria-pressed', String(on))
    this.plot.classList.toggle('mt-lasso', on)
  }

  /** @param {WheelEvent} event */
  #wheel(event) {
    event.preventDefault()
    event.stopPropagation()
    if (this.opened)
      this.#zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), this.#at(event))
  }

  /** @param {PointerEvent} event */
  #press(event) {
    if (event.button !== 0 || !this.opened) return
    this.element.focus({ preventScroll: true })
    this.canvas.setPointerCapture(event.pointerId)
    this.gesture = { lasso: this.lassoing || event.shiftKey, from: this.#at(event) }
    if (this.gesture.lasso) this.lasso = [this.gesture.from]
    this.#hover(-1)
  }

  /** @param {PointerEvent} event */
  #move(event) {
    if (!this.opened) return
    const at = this.#at(event)
    if (!this.gesture) return this.#hover(this.#near(...at, REACH))
    event.stopPropagation()
    if (this.gesture.lasso) {
      this.lasso.push(at)
      return this.invalidate(false)
    }
    const { from } = this.gesture
    this.pan = [this.pan[0] + from[0] - at[0], this.pan[1] + from[1] - at[1]]
    this.#moved()
  }

  /** @param {PointerEvent} event */
  #release(event) {
    if (!this.gesture) return
    event.stopPropagation()
    const { lasso } = this.gesture
    this.gesture = undefined
    if (this.canvas.hasPointerCapture(event.pointerId)) this.canvas.releasePointerCapture(event.pointerId)
    if (lasso && this.opened) this.#pick()
  }

  #pick() {
    const rows = this.lasso.length > 2 ? this.cloud.inside(this.lasso, (row) => this.shown(row)) : []
    const seeds = [...new Set(rows.map((row) => this.view.seeds[this.cloud.patient[row]]))]
    if (!rows.length) this.lasso = []
    this.seedsBox.value = seeds.join(', ')
    this.picked.hidden = !rows.length
    const t = this.host.t
    this.said.textContent = `${t('Inside the lasso')}: ${rows.length} ${t('dots')}, ${seeds.length} ${t('seeds')}`
    this.#toggleLasso(false)
    this.invalidate(false)
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.target === this.seedsBox || event.target === this.choice) return event.stopPropagation()
    if (
      !this.opened ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      (event.key === 'Enter' && event.target !== this.element)
    )
      return
    const step = 60 / (this.scale || 1)
    /** @type {Record<string, [number, number]>} */
    const pans = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
    /** @type {Record<string, () => void>} */
    const acts = {
      '+': () => this.#zoomAt(1.25, this.pan),
      '=': () => this.#zoomAt(1.25, this.pan),
      '-': () => this.#zoomAt(0.8, this.pan),
      0: () => this.#reset(),
      l: () => this.#toggleLasso(),
      L: () => this.#toggleLasso(),
      Enter: () => this.#hover(this.#near(...this.pan, Math.max(this.width, this.height))),
      Escape: () => {
        this.lasso = []
        this.picked.hidden = true
        this.#toggleLasso(false)
        this.#hover(-1)
        this.invalidate(false)
      },
    }
    const does = acts[event.key],
      way = pans[event.key]
    if (!does && !way) return
    event.preventDefault()
    event.stopPropagation()
    if (does) return does()
    this.pan = [this.pan[0] + step * way[0], this.pan[1] + step * way[1]]
    this.#moved()
  }
}
