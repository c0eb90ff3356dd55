/** The t-SNE of a traversal's latents: a scatter to zoom, colour, select from and export. */
import { Cloud } from './cloud.js'
import { Raster } from './raster.js'
import { GREY, categorical, diverging, fromHex, sequential, toCSS, toPixel } from './scales.js'
import { predictions, probabilityOf } from './server.js'
import { Sheets } from './sheets.js'

export const css = `
.mt-map { display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%; min-height: 0; color: var(--fg-color, #ddd); font: 12px sans-serif; }
.mt-map:focus-visible, .mt-map :focus-visible { outline: 2px solid var(--p-primary-color, #4a9eff); outline-offset: -2px; }
.mt-map-bar { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; }
.mt-map-bar :is(button, select) { font: inherit; padding: 2px 6px; border: 1px solid var(--border-color, #555); border-radius: 4px;
  background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); cursor: pointer; }
.mt-map-bar button[aria-pressed=true] { border-color: var(--p-primary-color, #4a9eff); }
.mt-map-legend button[aria-pressed=false] { opacity: .5; text-decoration: line-through; }
.mt-map-legend i { display: inline-block; width: 9px; height: 9px; border-radius: 50%; margin-right: 4px; }
.mt-map-plot { position: relative; flex: 1; min-height: 80px; overflow: hidden; }
.mt-map-plot > canvas { position: absolute; inset: 0; width: 100%; height: 100%; touch-action: none; cursor: grab; }
.mt-map-plot.mt-lasso > canvas { cursor: crosshair; }
.mt-map-tip { position: absolute; pointer-events: none; padding: 4px; border: 1px solid var(--border-color, #555); border-radius: 4px;
  background: var(--comfy-menu-bg, #333); color: var(--fg-color, #ddd); white-space: pre-line; }
.mt-map-tip canvas { display: block; width: 96px; height: 96px; }
.mt-map-picked { display: flex; gap: 4px; }
.mt-map-picked textarea { flex: 1; height: 3em; resize: none; font: inherit; border: 1px solid var(--border-color, #555);
  background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); }
.mt-map [hidden] { display: none; }
.mt-map-said { color: var(--descrip-text, #999); min-height: 1.2em; }
`

const REACH = 10
const LONGEST = 40

/** @param {string} tag @param {object} [fields] @param {...(Node|string)} children @returns {any} */
function make(tag, fields = {}, ...children) {
  const made = Object.assign(document.createElement(tag), fields)
  made.append(...children)
  return made
}

/** @param {Blob} blob @param {string} name */
function download(blob, name) {
  const url = URL.createObjectURL(blob)
  make('a', { href: url, download: name }).click()
  setTimeout(() => URL.revokeObjectURL(url), 1000)
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

  get state() {
    return this.host.state
  }

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
    const bar = make('div', { className: 'mt-map-bar' }, this.choice, this.lassoButton, button('Reset', 'Show the whole map (0)', () => this.#reset()),
      button('CSV', 'Download the coordinates', () => this.#downloadTable()), button('PNG', 'Download this picture', () => this.#downloadPicture()), this.legend)
    this.seedsBox = make('textarea', { readOnly: true })
    this.seedsBox.setAttribute('aria-label', t('Seeds inside the lasso'))
    this.copyButton = button('Copy', 'Copy the seeds', () => this.#copy())
    this.picked = make('div', { className: 'mt-map-bar mt-map-picked', hidden: true }, this.seedsBox, this.copyButton)
    this.said = make('div', { className: 'mt-map-said' })
    this.said.setAttribute('role', 'status')
    this.said.setAttribute('aria-live', 'polite')
    this.element = make('div', { className: 'mt-map', tabIndex: 0 }, bar, this.plot, this.picked, this.said)
    this.element.setAttribute('role', 'group')
    this.element.setAttribute('aria-label', t('t-SNE map of latents. Arrows pan, plus and minus zoom, 0 shows all, L draws a lasso, Enter names the dot in the middle.'))
    for (const name of ['pointerdown', 'pointermove', 'pointerup', 'dblclick']) this.element.addEventListener(name, (event) => event.stopPropagation())
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
    this.zoom = Math.min(LONGEST, Math.max(0.5, Number(this.state.zoom) || 1))
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
  #shown(row) {
    const a = this.cloud.attribute[row]
    return this.cloud.patient[row] >= 0 && (a < 0 ? this.visible.includes(true) : this.visible[a])
  }

  #measure() {
    this.width = this.canvas.clientWidth
    this.height = this.canvas.clientHeight
    this.scale = 0.92 * Math.max(1, Math.min(this.width, this.height - 20)) * this.zoom
  }

  /** @returns {[number, number]} CSS pixels */
  #place(x, y) {
    return [this.width / 2 + (x - this.pan[0]) * this.scale, this.height / 2 + (y - this.pan[1]) * this.scale]
  }

  /** @param {MouseEvent} event @returns {[number, number]} in the scaled square */
  #at(event) {
    this.#measure()
    const box = this.canvas.getBoundingClientRect(), shrunk = this.width / (box.width || 1)
    return [((event.clientX - box.left) * shrunk - this.width / 2) / this.scale + this.pan[0],
      ((event.clientY - box.top) * shrunk - this.height / 2) / this.scale + this.pan[1]]
  }

  /** @param {string} name of a CSS variable @param {string} fallback */
  #theme(name, fallback) {
    return getComputedStyle(this.element).getPropertyValue(name).trim() || fallback
  }

  draw() {
    const context = this.canvas.getContext('2d', { willReadFrequently: true }), ratio = Math.min(2, window.devicePixelRatio || 1)
    this.#measure()
    const width = Math.round(this.width * ratio), height = Math.round(this.height * ratio)
    if (!width || !height) return
    if (this.canvas.width !== width || this.canvas.height !== height) {
      Object.assign(this.canvas, { width, height })
      this.stale = true
    }
    if (!this.view) return context.clearRect(0, 0, width, height)
    if (this.stale) this.#drawDots(context, width, height, ratio)
    this.stale = false
    context.putImageData(this.raster.image, 0, 0)
    context.setTransform(ratio, 0, 0, ratio, 0, 0)
    this.#drawOver(context)
    context.setTransform(1, 0, 0, 1, 0, 0)
  }

  #drawDots(context, width, height, ratio) {
    const { cloud, raster, colours } = this, { paths, steps, attributes } = cloud
    context.fillStyle = '#222'
    context.fillStyle = this.#theme('--comfy-input-bg', '#222')
    context.fillRect(0, 0, 1, 1)
    raster.clear(width, height, toPixel(context.getImageData(0, 0, 1, 1).data))
    this.visible = this.view.attributes.map(({ name }) => !this.hidden.has(name))
    const k = this.scale * ratio, left = width / 2 - this.pan[0] * k, top = height / 2 - this.pan[1] * k
    const faint = cloud.count > 5000 ? 40 : 110
    for (let at = 0; at < paths.length; at++) {
      const row = paths[at], before = at % steps ? paths[at - 1] : -1
      if (row < 0 || before < 0 || !this.visible[Math.floor(at / steps) % attributes]) continue
      raster.line(left + cloud.x[before] * k, top + cloud.y[before] * k, left + cloud.x[row] * k, top + cloud.y[row] * k, colours[row], faint)
    }
    const size = ratio * Math.min(2.5, this.zoom ** 0.3) * Math.min(1, Math.max(0.45, (2000 / cloud.count) ** 0.25))
    const radius = (n) => Math.max(0.8, size * (1.8 + (2.6 * n) / Math.max(1, steps - 1)))
    const stamps = this.view.points.map((_, n) => raster.stamp(radius(n), 0.9))
    const rims = this.colour === 'delta' ? this.view.points.map((_, n) => raster.stamp(radius(n) + 0.7 * ratio, 0.6)) : undefined
    const rim = toPixel(GREY)
    for (let row = 0; row < cloud.count; row++) {
      if (!this.#shown(row)) continue
      const x = left + cloud.x[row] * k, y = top + cloud.y[row] * k, n = cloud.point[row]
      if (rims) raster.dot(x, y, rims[n], rim)
      raster.dot(x, y, stamps[n], colours[row])
    }
  }

  /** The scale of the colours, the axes' names, the lasso and the dot under the pointer. */
  #drawOver(context) {
    const { view, cloud, width, height } = this
    const strong = this.#theme('--fg-color', '#ddd')
    context.font = '11px sans-serif'
    context.fillStyle = this.#theme('--descrip-text', '#999')
    context.fillText(`t-SNE 1 →   ↑ t-SNE 2   ${this.host.t('perplexity')} ${view.perplexity}, ${this.host.t('seed')} ${view.seed}`, 6, height - 6)
    if (this.colour === 'lambda' || this.colour === 'delta') this.#drawScale(context, width - 126, 8)
    context.strokeStyle = strong
    if (this.hovered >= 0) {
      const row = this.hovered, a = Math.max(0, cloud.attribute[row]), start = (cloud.patient[row] * cloud.attributes + a) * cloud.steps
      const path = [...cloud.paths.subarray(start, start + cloud.steps)].filter((r) => r >= 0)
      context.lineWidth = 1.5
      context.beginPath()
      if (cloud.attribute[row] >= 0) path.forEach((r) => context.lineTo(...this.#place(cloud.x[r], cloud.y[r])))
      context.stroke()
      context.beginPath()
      context.arc(...this.#place(cloud.x[row], cloud.y[row]), 7, 0, 2 * Math.PI)
      context.stroke()
    }
    if (this.lasso.length) {
      context.lineWidth = 1
      context.setLineDash([4, 3])
      context.beginPath()
      this.lasso.forEach(([x, y]) => context.lineTo(...this.#place(x, y)))
      context.closePath()
      context.stroke()
      context.setLineDash([])
    }
  }

  #drawScale(context, x, y) {
    const delta = this.colour === 'delta'
    for (let i = 0; i < 120; i++) {
      context.fillStyle = toCSS(delta ? (this.delta ? diverging(i / 59.5 - 1) : GREY) : sequential(i / 119))
      context.fillRect(x + i, y, 1.5, 8)
    }
    context.fillStyle = this.#theme('--fg-color', '#ddd')
    const names = delta ? ['-1', 'Δ', '+1'] : [this.view.points[0], 'λ', this.view.points.at(-1)]
    names.forEach((name, i) => {
      context.textAlign = ['left', 'center', 'right'][i]
      context.fillText(name, x + 60 * i, y + 20)
    })
    context.textAlign = 'left'
  }

  /** @param {number} row @returns {string[]} what there is to say of a dot */
  #words(row) {
    const { cloud, view } = this, t = this.host.t, point = view.points[cloud.point[row]], a = cloud.attribute[row]
    const said = [`${t('seed')} ${view.seeds[cloud.patient[row]]}`, a < 0 ? view.neutral || t('neutral') : view.attributes[a].name, `λ ${point}`]
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
    const [x, y] = this.#place(this.cloud.x[row], this.cloud.y[row]), { offsetWidth, offsetHeight } = this.tip
    this.tip.style.left = `${Math.max(0, x + 14 + offsetWidth > this.width ? x - 14 - offsetWidth : x + 14)}px`
    this.tip.style.top = `${Math.max(0, Math.min(y - 10, this.height - offsetHeight))}px`
  }

  #near(x, y, reach) {
    return this.visible ? this.cloud.nearest(x, y, reach / this.scale, (row) => this.#shown(row)) : -1
  }

  #moved() {
    this.#hover(-1)
    this.invalidate()
    clearTimeout(this.saving)
    this.saving = setTimeout(() => {
      Object.assign(this.state, { zoom: this.zoom, pan: [...this.pan] })
      this.host.save()
    }, 300)
  }

  #zoomAt(factor, [x, y]) {
    const zoom = Math.min(LONGEST, Math.max(0.5, this.zoom * factor)), kept = this.zoom / zoom
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
    if (this.gesture.lasso) {
      this.lasso.push(at)
      return this.invalidate(false)
    }
    this.pan = this.pan.map((v, i) => v + this.gesture.from[i] - at[i])
    this.#moved()
  }

  #release(event) {
    const lasso = this.gesture?.lasso
    this.gesture = undefined
    if (this.canvas.hasPointerCapture(event.pointerId)) this.canvas.releasePointerCapture(event.pointerId)
    if (lasso && this.view) this.#pick()
  }

  #pick() {
    const rows = this.lasso.length > 2 && this.visible ? this.cloud.inside(this.lasso, (row) => this.#shown(row)) : []
    const seeds = [...new Set(rows.map((row) => this.view.seeds[this.cloud.patient[row]]))]
    if (!rows.length) this.lasso = []
    this.seedsBox.value = seeds.join(', ')
    this.picked.hidden = !rows.length
    const t = this.host.t
    this.said.textContent = `${t('Inside the lasso')}: ${rows.length} ${t('dots')}, ${seeds.length} ${t('seeds')}`
    this.#toggleLasso(false)
    this.invalidate(false)
  }

  async #copy() {
    try {
      await navigator.clipboard.writeText(this.seedsBox.value)
      this.said.textContent = this.host.t('Copied.')
    } catch {
      this.seedsBox.focus()
      this.seedsBox.select()
      this.said.textContent = this.host.t('Press Ctrl+C to copy.')
    }
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

  #downloadTable() {
    if (!this.view) return
    const { cloud, view } = this, cell = (value) => (/[",\n\r]/.test(value) ? `"${String(value).replaceAll('"', '""')}"` : value)
    const lines = [['row', 'seed', 'attribute', 'point', 'x', 'y', 'delta']]
    for (let row = 0; row < cloud.count; row++) {
      if (cloud.patient[row] < 0) continue
      const delta = this.delta && Number.isFinite(this.delta[row]) ? this.delta[row].toFixed(6) : ''
      lines.push([row, view.seeds[cloud.patient[row]], view.attributes[cloud.attribute[row]]?.name ?? '', view.points[cloud.point[row]], view.x[row], view.y[row], delta])
    }
    lines.push([view.notice])
    download(new Blob([lines.map((line) => line.map(cell).join(',') + '\n').join('')], { type: 'text/csv' }), 'latent_map.csv')
  }

  #downloadPicture() {
    if (!this.view) return
    this.draw()
    const { canvas, width } = this, ratio = canvas.width / width, foot = 40
    const page = make('canvas', { width: canvas.width, height: canvas.height + foot * ratio }), context = page.getContext('2d')
    context.fillStyle = this.#theme('--comfy-input-bg', '#222')
    context.fillRect(0, 0, page.width, page.height)
    context.drawImage(canvas, 0, 0)
    context.scale(ratio, ratio)
    context.font = '12px sans-serif'
    let x = 6
    if (this.colour === 'attribute') for (const { name, colour } of this.view.attributes.filter((_, a) => this.visible[a])) {
      context.fillStyle = toCSS(fromHex(colour))
      context.fillText(`● ${name}`, x, this.height + 14)
      x += context.measureText(`● ${name}  `).width
    }
    context.fillStyle = this.#theme('--fg-color', '#ddd')
    context.fillText(this.view.notice, 6, this.height + 32, width - 12)
    page.toBlob((blob) => blob && download(blob, 'latent_map.png'))
  }
}
