/** The t-SNE of a traversal's latents: a scatter to zoom, colour, select from and export. */
import { Cloud } from './cloud.js'
import { copySeeds, downloadPicture, downloadTable } from './map_files.js'
import { drawDots, drawOver } from './map_paint.js'
import { Raster } from './raster.js'
import { GREY, categorical, diverging, fromHex, sequential, toCSS, toPixel } from './scales.js'
import { predictions, probabilityOf } from './server.js'
import { Sheets } from './sheets.js'

export { css } from './map_paint.js'

const REACH = 10, CLOSEST = 40
/** From here on, a map that moves is drawn coarse on fine screens. */
const MANY = 10_000

/** @param {string} tag @param {object} [fields] @param {...(Node|string)} children @returns {any} */
function make(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields)
  made.append(...children)
  return made
}

export class LatentMapView {
  /** @param {{state: any, save(): void, t(text: string): string}} host */
  constructor(host) {
    this.host = host
    this.raster = new Raster()
    this.hovered = -1
    /** @type {number[][]} corners of the lasso, in the scaled square */
    this.lasso = []
    this.#build()
    this.onPredictions = () => this.view && this.#recolour()
    predictions.addEventListener('change', this.onPredictions)
    this.observer = new ResizeObserver(() => this.invalidate())
    this.observer.observe(this.plot)
  }

  get state() { return this.host.state }

  #build() {
    const t = this.host.t
    this.canvas = make('canvas')
    this.canvas.setAttribute('aria-hidden', 'true')
    this.tip = make('div', { className: 'mt-map-tip', hidden: true }, make('canvas', { width: 96, height: 96 }), make('div'))
    this.plot = make('div', { className: 'mt-map-plot' }, this.canvas, this.tip)
    this.choice = make('select', { title: t('Colour the dots by') })
    this.choice.setAttribute('aria-label', t('Colour the dots by'))
    for (const [value, text] of [['attribute', 'attribute'], ['lambda', 'λ'], ['patient', 'patient'], ['delta', 'Δ probability']])
      this.choice.append(make('option', { value, textContent: t(text) }))
    this.choice.onchange = () => {
      this.state.colour = this.choice.value
      this.host.save()
      this.#recolour()
    }
    const button = (text, title, onclick) => make('button', { type: 'button', textContent: t(text), title: t(title), onclick })
    this.lassoButton = button('Lasso', 'Draw round dots to list their seeds (L, or shift and drag)', () => this.#toggleLasso())
    this.lassoButton.setAttribute('aria-pressed', 'false')
    this.legend = make('span', { className: 'mt-map-bar mt-map-legend' })
    this.legend.setAttribute('role', 'group')
    this.legend.setAttribute('aria-label', t('Attributes shown'))
    const bar = make('div', { className: 'mt-map-bar' }, this.choice, this.lassoButton,
      button('Reset', 'Show the whole map (0)', () => this.#reset()), button('CSV', 'Download the coordinates', () => downloadTable(this)),
      button('PNG', 'Download this picture', () => downloadPicture(this)), this.legend)
    this.seedsBox = make('textarea', { readOnly: true })
    this.seedsBox.setAttribute('aria-label', t('Seeds inside the lasso'))
    const copy = button('Copy', 'Copy the seeds', () => copySeeds(this))
    this.picked = make('div', { className: 'mt-map-bar mt-map-picked', hidden: true }, this.seedsBox, copy)
    this.said = make('div', { className: 'mt-map-said' })
    this.said.setAttribute('role', 'status')
    this.said.setAttribute('aria-live', 'polite')
    this.element = make('div', { className: 'mt-map', tabIndex: 0 }, bar, this.plot, this.picked, this.said)
    this.element.setAttribute('role', 'group')
    this.element.setAttribute('aria-label', t('t-SNE map of latents. Arrows pan, plus and minus zoom, 0 shows all, L draws a lasso, Enter names the dot in the middle.'))
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

  /** @param {any} view a "map" view */
  show(view) {
    try {
      this.cloud = new Cloud(view)
      this.view = view
    } catch {
      this.view = undefined
      this.said.textContent = this.host.t('The files of this run are gone; run again.')
      return this.invalidate()
    }
    this.sheets = view.sheets && new Sheets(view.sheets)
    this.zoom = Math.min(CLOSEST, Math.max(0.5, Number(this.state.zoom) || 1))
    this.pan = [0, 1].map((i) => Number(this.state.pan?.[i]) || 0)
    this.hidden = new Set(Array.isArray(this.state.hidden) ? this.state.hidden : [])
    this.lasso = []
    this.picked.hidden = true
    this.said.textContent = ''
    this.#hover(-1)
    this.legend.replaceChildren(...view.attributes.map((attribute) => {
      const swatch = make('i')
      swatch.style.background = toCSS(fromHex(attribute.colour))
      const toggle = make('button', { type: 'button', onclick: () => this.#toggle(attribute.name, toggle) }, swatch, attribute.name)
      toggle.setAttribute('aria-pressed', String(!this.hidden.has(attribute.name)))
      return toggle
    }))
    this.#recolour()
  }

  dispose() {
    predictions.removeEventListener('change', this.onPredictions)
    this.observer.disconnect()
    cancelAnimationFrame(this.frame)
    clearTimeout(this.saving)
    this.view = undefined
  }

  #toggle(name, button) {
    if (!this.hidden.delete(name)) this.hidden.add(name)
    button.setAttribute('aria-pressed', String(!this.hidden.has(name)))
    this.state.hidden = [...this.hidden]
    this.host.save()
    this.invalidate()
  }

  /** Change of the attribute's first label from the patient's point 0, -1 to 1; NaN where it is not known. */
  #delta(judged, row) {
    const { cloud, view } = this, a = cloud.attribute[row], seed = view.seeds[cloud.patient[row]]
    if (!judged || cloud.patient[row] < 0) return NaN
    if (a < 0) return 0
    const { name, labels } = view.attributes[a], label = judged.labels.indexOf(labels[0])
    const here = probabilityOf(judged, seed, name, view.points[cloud.point[row]]), start = probabilityOf(judged, seed, name, view.points[0])
    return here && start && label >= 0 ? here[label] - start[label] : NaN
  }

  #recolour() {
    const { cloud, view, state } = this, judged = predictions.find(view.key)
    this.choice.querySelector('[value=delta]').disabled = !judged
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

  /** A row is shown while its attribute is; a shared one while any is. */
  shown(row) {
    const a = this.cloud.attribute[row]
    return this.cloud.patient[row] >= 0 && (a < 0 ? this.visible.includes(true) : this.visible[a])
  }

  #measure() {
    this.width = this.canvas.clientWidth
    this.height = this.canvas.clientHeight
    this.scale = 0.92 * Math.max(1, Math.min(this.width, this.height - 20)) * this.zoom
  }

  /** @returns {[number, number]} CSS pixels */
  place(x, y) {
    return [this.width / 2 + (x - this.pan[0]) * this.scale, this.height / 2 + (y - this.pan[1]) * this.scale]
  }

  /** @param {MouseEvent} event @returns {[number, number]} in the scaled square */
  #at(event) {
    this.#measure()
    const box = this.canvas.getBoundingClientRect(), shrunk = this.width / (box.width || 1)
    return [((event.clientX - box.left) * shrunk - this.width / 2) / this.scale + this.pan[0],
      ((event.clientY - box.top) * shrunk - this.height / 2) / this.scale + this.pan[1]]
  }

  draw() {
    const context = this.canvas.getContext('2d', { willReadFrequently: true })
    const ratio = Math.min(this.saving && this.cloud.count > MANY ? 1 : 2, window.devicePixelRatio || 1)
    this.#measure()
    const width = Math.round(this.width * ratio), height = Math.round(this.height * ratio)
    if (!width || !height) return
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height })
      this.stale = true
    }
    if (!this.view) return context.clearRect(0, 0, width, height)
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
    const { cloud, view } = this, t = this.host.t, point = view.points[cloud.point[row]], a = cloud.attribute[row]
    const said = [`${t('seed')} ${view.seeds[cloud.patient[row]]}`, a < 0 ? view.neutral || t('neutral') : view.attributes[a].name]
    if (view.kind === 'curve') said.push(`${t('point')} ${point}`)
    else if (cloud.point[row]) said.push(`λ ${point}`)
    if (this.delta && Number.isFinite(this.delta[row])) said.push(`Δ ${this.delta[row].toFixed(3)}`)
    return said
  }

  #hover(row) {
    if (row === this.hovered) return
    this.hovered = row
    this.tip.hidden = row < 0
    this.invalidate(false)
    if (row < 0) return
    const [picture, text] = this.tip.children, words = this.#words(row)
    text.textContent = words.join('\n')
    this.said.textContent = words.join(', ')
    picture.hidden = !this.sheets
    picture.getContext('2d').clearRect(0, 0, 96, 96)
    this.sheets?.draw(row, picture, () => this.hovered === row).catch(() => {
      if (this.hovered === row) picture.hidden = true
    })
    const [x, y] = this.place(this.cloud.x[row], this.cloud.y[row]), { offsetWidth, offsetHeight } = this.tip
    this.tip.style.left = `${Math.max(0, x + 14 + offsetWidth > this.width ? x - 14 - offsetWidth : x + 14)}px`
    this.tip.style.top = `${Math.max(0, Math.min(y - 10, this.height - offsetHeight))}px`
  }

  #near(x, y, reach) {
    return this.visible ? this.cloud.nearest(x, y, reach / this.scale, (row) => this.shown(row)) : -1
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

  #zoomAt(factor, [x, y]) {
    const zoom = Math.min(CLOSEST, Math.max(0.5, this.zoom * factor)), kept = this.zoom / zoom
    this.pan = [x + (this.pan[0] - x) * kept, y + (this.pan[1] - y) * kept]
    this.zoom = zoom
    this.#moved()
  }

  #reset() {
    if (!this.view) return
    this.zoom = 1
    this.pan = [0, 0]
    this.#moved()
  }

  #toggleLasso(on = !this.lassoing) {
    this.lassoing = on
    this.lassoButton.setAttribute('aria-pressed', String(on))
    this.plot.classList.toggle('mt-lasso', on)
  }

  #wheel(event) {
    event.preventDefault()
    event.stopPropagation()
    if (this.view) this.#zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), this.#at(event))
  }

  #press(event) {
    if (event.button !== 0 || !this.view) return
    this.element.focus({ preventScroll: true })
    this.canvas.setPointerCapture(event.pointerId)
    this.gesture = { lasso: this.lassoing || event.shiftKey, from: this.#at(event) }
    if (this.gesture.lasso) this.lasso = [this.gesture.from]
    this.#hover(-1)
  }

  #move(event) {
    if (!this.view) return
    const at = this.#at(event)
    if (!this.gesture) return this.#hover(this.#near(...at, REACH))
    event.stopPropagation()
    if (this.gesture.lasso) {
      this.lasso.push(at)
      return this.invalidate(false)
    }
    this.pan = this.pan.map((v, i) => v + this.gesture.from[i] - at[i])
    this.#moved()
  }

  #release(event) {
    if (!this.gesture) return
    event.stopPropagation()
    const { lasso } = this.gesture
    this.gesture = undefined
    if (this.canvas.hasPointerCapture(event.pointerId)) this.canvas.releasePointerCapture(event.pointerId)
    if (lasso && this.view) this.#pick()
  }

  #pick() {
    const rows = this.lasso.length > 2 && this.visible ? this.cloud.inside(this.lasso, (row) => this.shown(row)) : []
    const seeds = [...new Set(rows.map((row) => this.view.seeds[this.cloud.patient[row]]))]
    if (!rows.length) this.lasso = []
    this.seedsBox.value = seeds.join(', ')
    this.picked.hidden = !rows.length
    const t = this.host.t
    this.said.textContent = `${t('Inside the lasso')}: ${rows.length} ${t('dots')}, ${seeds.length} ${t('seeds')}`
    this.#toggleLasso(false)
    this.invalidate(false)
  }

  #key(event) {
    if (event.target === this.seedsBox || event.target === this.choice) return event.stopPropagation()
    if (!this.view || event.ctrlKey || event.metaKey || event.altKey || (event.key === 'Enter' && event.target !== this.element)) return
    const step = 60 / (this.scale || 1), pans = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }
    const does = {
      '+': () => this.#zoomAt(1.25, this.pan), '=': () => this.#zoomAt(1.25, this.pan), '-': () => this.#zoomAt(0.8, this.pan),
      0: () => this.#reset(), l: () => this.#toggleLasso(), L: () => this.#toggleLasso(),
      Enter: () => this.#hover(this.#near(...this.pan, Math.max(this.width, this.height))),
      Escape: () => {
        this.lasso = []
        this.picked.hidden = true
        this.#toggleLasso(false)
        this.#hover(-1)
        this.invalidate(false)
      },
    }[event.key]
    if (!does && !pans[event.key]) return
    event.preventDefault()
    event.stopPropagation()
    if (does) return does()
    this.pan = this.pan.map((v, i) => v + step * pans[event.key][i])
    this.#moved()
  }
}
