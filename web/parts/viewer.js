/** Trajectory viewer: one patient, attributes side by side, a slider over λ or over the curve. */
import { contextOf, make, sheet } from './elements.js'
import { Decoded, Pictures, difference } from './pictures.js'
import { decoded, predictions, probabilityOf } from './server.js'

/** @import { CFRTFile, TrajectoryFile } from '../types/views' */
/** @import { Host, Place, ViewerState } from '../types/widgets' */

export const css = `
.mt-viewer { display: flex; flex-direction: column; gap: 4px; padding: 6px; }
.mt-viewer .mt-bar { display: flex; flex-wrap: wrap; gap: 4px; align-items: center; flex: none; }
.mt-viewer .mt-bar label { display: flex; gap: 4px; align-items: center; }
.mt-viewer .mt-bar input[type=range] { flex: 1; min-width: 80px;
  accent-color: var(--p-primary-color, #64b5f6); }
.mt-viewer output { min-width: 5.5em; font-variant-numeric: tabular-nums; }
.mt-viewer .mt-stage { flex: 1; min-height: 40px; position: relative; }
.mt-viewer .mt-stage canvas { position: absolute; inset: 0; width: 100%; height: 100%; cursor: pointer; }
.mt-viewer .mt-note { flex: none; color: var(--descrip-text, #999); font-size: 11px; white-space: nowrap;
  overflow: hidden; text-overflow: ellipsis; }
`
const CURVES = 72
const LABEL = 18
// How much larger cells must become by a further row.
const MORE_ROWS = 1.5
const SPEED = { swap: 2.5, curve: 14 }
const STYLES = [[], [6, 3], [2, 3], [8, 3, 2, 3], [1, 4], [12, 4]]

/**
 * The decoded view if it holds the same patients, attributes and points.
 * @param {TrajectoryFile | undefined} other
 * @param {TrajectoryFile} view
 */
function sameTrajectory(other, view) {
  const said = (/** @type {TrajectoryFile} */ { seeds, attributes, points }) =>
    JSON.stringify([seeds, attributes, points])
  return other && said(other) === said(view) ? other : undefined
}

/**
 * What the canvas shows of one point.
 * @typedef {object} Cell
 * @property {Place} place
 * @property {string} label
 * @property {number} row
 * @property {number} neutral row of its neutral point
 * @property {string} colour "" for a neutral point
 */

export class TrajectoryView {
  /**
   * @type {{view: TrajectoryFile, pictures: Pictures, decoder?: Decoded, gone?: boolean} | undefined} the file on
   * show
   */
  opened
  /** counts what was asked for, so that what comes late is left */
  turn = 0
  /** the animation's frame, 0 while nothing plays */
  timer = 0
  /**
   * @type {{x: number, y: number, width: number, height: number, place: Place}[]} where the cells lie on the
   * canvas
   */
  placed = []

  /** @param {Host<ViewerState>} host */
  constructor(host) {
    this.host = host
    const { t } = host
    this.patient = make('select', { 'aria-label': t('Patient') })
    this.patient.onchange = () => this.set({ patient: this.patient.selectedIndex }, true)
    this.attribute = make('select', { 'aria-label': t('Attribute') })
    this.attribute.onchange = () => this.set({ attribute: this.attribute.value }, true)
    this.slider = make('input', { type: 'range', min: '0', value: '0', 'aria-label': 'λ' })
    this.slider.oninput = () => this.set({ point: Number(this.slider.value) }, false)
    this.slider.onchange = () => this.host.save()
    this.value = make('output')
    this.play = this.button('▶', `${t('Play')} (Space)`, () => this.toggle(), true)
    this.loop = this.button('⟲', t('Loop'), () => this.set({ loop: !this.state.loop }, true), true)
    this.diff = this.button(
      t('Difference'),
      `${t('Difference')} (D)`,
      () => this.set({ difference: !this.state.difference }, true),
      true,
    )
    this.unpin = this.button(t('Clear pins'), t('Clear pins'), () => this.set({ pins: [] }, true))
    this.canvas = make('canvas', {
      role: 'img',
      onclick: (/** @type {MouseEvent} */ event) => this.click(event),
    })
    this.note = make('div', { class: 'mt-note' })
    this.element = make(
      'div',
      { class: 'mt-viewer', tabIndex: 0, role: 'group', 'aria-label': 'MedTraverse' },
      make(
        'div',
        { class: 'mt-bar' },
        make('label', {}, t('Patient'), this.patient),
        make('label', {}, t('Attribute'), this.attribute),
        this.diff,
        this.button(t('Pin'), `${t('Pin')} (P)`, () => this.pin()),
        this.unpin,
        this.button(t('Copy image'), t('Copy image'), () => this.copy()),
        this.button(t('Download strip'), t('Download strip'), () => this.download()),
      ),
      make('div', { class: 'mt-stage' }, this.canvas),
      make('div', { class: 'mt-bar' }, this.play, this.loop, this.slider, this.value),
      this.note,
    )
    this.element.addEventListener('keydown', (event) => this.key(event))
    for (const kind of ['pointerdown', 'pointermove', 'pointerup', 'dblclick', 'contextmenu', 'keyup'])
      this.element.addEventListener(kind, (event) => event.stopPropagation())
    this.resized = new ResizeObserver(() => this.draw())
    this.resized.observe(this.canvas)
    this.judged = () => this.draw()
    predictions.addEventListener('change', this.judged)
    this.found = () => this.opened?.view.approximate && decoded.find(this.view.key) && this.show(this.view)
    decoded.addEventListener('change', this.found)
  }

  /**
   * @param {string} text
   * @param {string} label
   * @param {() => void} onclick
   * @param {boolean} [pressed] whether it stays pressed
   */
  button(text, label, onclick, pressed = false) {
    const state = pressed ? { 'aria-pressed': 'false' } : {}
    return make('button', { type: 'button', title: label, 'aria-label': label, onclick, ...state }, text)
  }

  #file() {
    if (!this.opened) throw new Error('no file is on show')
    return this.opened
  }

  get view() {
    return this.#file().view
  }

  get pictures() {
    return this.#file().pictures
  }

  /** Where the user is; whole once a file is on show. */
  get state() {
    return this.host.state
  }

  /** @param {TrajectoryFile} view */
  show(view) {
    this.stop()
    // Latents whose images another node has decoded are shown by those.
    if (view.approximate) view = sameTrajectory(decoded.find(view.key), view) ?? view
    else decoded.add(view)
    this.close()
    const { t } = this.host
    const decoder =
      view.decoder === undefined
        ? undefined
        : new Decoded(view.decoder, () => {
            this.sayWhatItIs()
            this.draw()
          })
    this.opened = { view, pictures: new Pictures(view), decoder }
    this.patient.replaceChildren(...view.seeds.map((seed) => make('option', {}, `${t('seed')} ${seed}`)))
    const names = view.attributes.map((attribute) => attribute.name)
    this.attribute.replaceChildren(
      make('option', { value: '' }, t('All attributes')),
      ...names.map((name) => make('option', { value: name }, name)),
    )
    const { patient, attribute, point, pins } = this.state
    const last = view.points.length - 1
    Object.assign(this.state, {
      patient: patient < view.seeds.length ? patient : 0,
      attribute: names.includes(attribute) ? attribute : '',
      point: point <= last ? point : last,
      loop: this.state.loop ?? true,
      pins: (pins ?? []).filter(([p, a, n]) => p < view.seeds.length && a < names.length && n <= last),
    })
    this.slider.max = String(last)
    this.sayWhatItIs()
    this.set({}, false)
  }

  /** The line below: what the images are, and which are left out. */
  sayWhatItIs() {
    const { view, decoder, gone } = this.#file()
    const { t } = this.host
    const said = [view.notice]
    if (gone) said.unshift(t('The files of this run are gone; run again.'))
    else if (decoder && !decoder.ended) {
      if (!this.onShow().every((row) => decoder.at(row)))
        said.unshift(t('Rough colours until the images are decoded.'))
    } else if (view.approximate)
      said.unshift(t('Rough preview of latents; Trajectory Grid shows the decoded images.'))
    if (view.left_out)
      said.unshift(t('{patients} more patients are not shown.').replace('{patients}', String(view.left_out)))
    this.note.textContent = this.note.title = said.join(' ')
  }

  /** Rows of what is on show: neutral, attributes and pins, each with its own neutral. */
  onShow() {
    const { view } = this
    const { patient, point, pins } = this.state
    const columns = this.columns()
    return [
      view.index[patient][columns[0]][0],
      ...columns.map((a) => view.index[patient][a][point]),
      ...pins.map(([p, a, n]) => view.index[p][a][n]),
      ...pins.map(([p, a]) => view.index[p][a][0]),
    ]
  }

  /** @param {Partial<ViewerState>} change @param {boolean} save */
  set(change, save) {
    Object.assign(this.state, change)
    if (save) this.host.save()
    if (!this.opened) return
    const { patient, attribute, point, loop, pins } = this.state
    this.patient.selectedIndex = patient
    this.attribute.value = attribute
    this.slider.value = String(point)
    this.value.textContent = this.slider.ariaValueText = this.pointName(point)
    this.diff.setAttribute('aria-pressed', String(!!this.state.difference))
    this.loop.setAttribute('aria-pressed', String(!!loop))
    this.unpin.disabled = !pins.length
    this.fetchAround()
    if (this.opened.decoder) {
      this.sayWhatItIs()
      this.opened.decoder.want([...new Set(this.onShow())])
    }
    this.draw()
  }

  /** @param {number} n */
  pointName(n) {
    const point = this.view.points[n]
    if (this.view.kind === 'curve') return `${this.host.t('frame')} ${point}`
    return n ? `λ = ${point}` : this.host.t('neutral')
  }

  /** Indices of the attributes side by side. */
  columns() {
    const all = this.view.attributes.map((_, a) => a)
    return this.state.attribute
      ? all.filter((a) => this.view.attributes[a].name === this.state.attribute)
      : all
  }

  /** Load what is shown first, then the rest of this patient's trajectory from here outwards. */
  async fetchAround() {
    const { view, pictures } = this
    const { patient, point } = this.state
    const turn = ++this.turn
    const columns = this.columns()
    const get = (/** @type {number[]} */ rows) =>
      Promise.all([...new Set(rows)].map((row) => pictures.load(row)))
    try {
      await get(this.onShow())
      if (turn === this.turn) this.draw()
      const most = Math.floor(pictures.most / 2 / columns.length)
      const near = view.points
        .map((_, n) => n)
        .sort((a, b) => Math.abs(a - point) - Math.abs(b - point))
        .slice(0, most)
      for (let i = 0; i < near.length && turn === this.turn; i += 2)
        await get(near.slice(i, i + 2).flatMap((n) => columns.map((a) => view.index[patient][a][n])))
    } catch {
      if (pictures !== this.opened?.pictures) return
      this.opened.gone = true
      this.sayWhatItIs()
    }
  }

  /** The neutral point, the attributes and the pins. @returns {Cell[]} */
  cells() {
    const { view } = this
    const { patient: p, point: n, pins } = this.state
    /** @type {(p: number, a: number, n: number, label: string) => Cell} */
    const cellOf = (p, a, n, label) => ({
      place: [p, a, n],
      label,
      row: view.index[p][a][n],
      neutral: view.index[p][a][0],
      colour: n ? view.attributes[a].colour : '',
    })
    const columns = this.columns()
    return [
      cellOf(p, columns[0], 0, view.kind === 'curve' ? `${this.host.t('frame')} 0` : this.host.t('neutral')),
      ...columns.map((a) => cellOf(p, a, n, view.attributes[a].name)),
      ...pins.map(([p, a, n], i) =>
        cellOf(p, a, n, `${'AB'[i]}: ${view.seeds[p]} ${view.attributes[a].name} ${this.pointName(n)}`),
      ),
    ]
  }

  draw() {
    if (!this.opened || !this.canvas.clientWidth) return
    const ratio = Math.min(devicePixelRatio || 1, 2)
    const width = this.canvas.clientWidth,
      height = this.canvas.clientHeight
    if (
      this.canvas.width !== Math.round(width * ratio) ||
      this.canvas.height !== Math.round(height * ratio)
    ) {
      this.canvas.width = Math.round(width * ratio)
      this.canvas.height = Math.round(height * ratio)
    }
    const context = contextOf(this.canvas)
    context.setTransform(ratio, 0, 0, ratio, 0, 0)
    context.clearRect(0, 0, width, height)
    const judge = predictions.find(this.view.key)
    const room = height - (judge ? CURVES : 0)
    const cells = this.cells()
    const style = getComputedStyle(this.element)
    const ink = style.getPropertyValue('--input-text').trim() || '#ddd'
    const [w, h] = this.view.size
    // One row, unless more of them make the cells much larger: side by side they are compared best.
    let best = { scale: 0, across: cells.length }
    for (let across = cells.length; across >= 1; across--) {
      const down = Math.ceil(cells.length / across)
      const scale = Math.min((width / across - 4) / w, (room / down - LABEL - 2) / h)
      if (scale > best.scale * MORE_ROWS) best = { scale, across }
    }
    const { scale, across } = best
    this.placed = []
    context.font = '11px system-ui, sans-serif'
    context.imageSmoothingEnabled = scale < 3 || this.view.approximate
    const left = (width - across * (w * scale + 4)) / 2
    cells.forEach((cell, i) => {
      const x = left + (i % across) * (w * scale + 4) + 2
      const y = Math.floor(i / across) * (h * scale + LABEL + 2)
      const picture = this.picture(cell)
      if (picture) context.drawImage(picture, x, y, w * scale, h * scale)
      if (cell.colour) {
        context.strokeStyle = cell.colour
        context.lineWidth = 2
        context.strokeRect(x, y, w * scale, h * scale)
      }
      context.fillStyle = ink
      context.fillText(cell.label, x, y + h * scale + 13, w * scale)
      this.placed.push({ x, y, width: w * scale, height: h * scale, place: cell.place })
    })
    if (judge) this.curves(context, judge, room, width, ink)
    this.canvas.ariaLabel = `${this.view.seeds[this.state.patient]}, ${this.pointName(this.state.point)}: ${cells.map((cell) => cell.label).join(', ')}`
  }

  /** @param {{row: number, neutral: number}} cell @returns {ImageBitmap | HTMLCanvasElement | undefined} */
  picture({ row, neutral }) {
    const { pictures, decoder } = this.#file()
    if (!this.state.difference || row === neutral) return decoder?.at(row) ?? pictures.at(row)
    // Both decoded or both rough: their difference is no change of the patient.
    const source = decoder?.at(row) && decoder.at(neutral) ? decoder : pictures
    const image = source.at(row),
      before = source.at(neutral)
    return image && before && difference(image, before)
  }

  /**
   * Probability of every label along the trajectory, the current point marked.
   * @param {CanvasRenderingContext2D} context
   * @param {CFRTFile} judge
   * @param {number} top
   * @param {number} width
   * @param {string} ink
   */
  curves(context, judge, top, width, ink) {
    const { view } = this
    const seed = view.seeds[this.state.patient],
      last = view.points.length - 1
    const columns = this.columns()
    const each = width / columns.length
    columns.forEach((a, i) => {
      const { name } = view.attributes[a]
      const x = (/** @type {number} */ n) => i * each + 26 + (n / last) * (each - 36)
      const y = (/** @type {number} */ value) => top + 16 + (1 - value) * (CURVES - 22)
      context.strokeStyle = context.fillStyle = ink
      context.globalAlpha = 0.35
      context.lineWidth = 1
      context.setLineDash([])
      context.strokeRect(x(0), y(1), x(last) - x(0), y(0) - y(1))
      context.beginPath()
      context.moveTo(x(this.state.point), y(1))
      context.lineTo(x(this.state.point), y(0))
      context.stroke()
      context.globalAlpha = 1
      context.fillText('1', x(0) - 10, y(1) + 8)
      context.fillText('0', x(0) - 10, y(0))
      const values = view.points.map((point) => probabilityOf(judge, seed, name, point))
      const shown = /** @type {string[]} */ ([])
      judge.labels.forEach((label, b) => {
        // The judge's file has the labels as the classifier writes them.
        const named = judge.attributes.find((attribute) => attribute.labels.includes(label))?.name
        const own = view.attributes.findIndex((attribute) => attribute.name === named)
        context.strokeStyle = context.fillStyle = own < 0 ? ink : view.attributes[own].colour
        context.lineWidth = own === a ? 2.5 : 1.3
        context.setLineDash(STYLES[b % STYLES.length])
        context.beginPath()
        let open = false
        values.forEach((row, n) => {
          if (!row) return
          open ? context.lineTo(x(n), y(row[b])) : context.moveTo(x(n), y(row[b]))
          open = true
        })
        context.stroke()
        const now = values[this.state.point]?.[b]
        if (now === undefined) return
        context.fillRect(x(this.state.point) - 2.5, y(now) - 2.5, 5, 5)
        shown.push(`${label} ${now.toFixed(2)}`)
      })
      context.setLineDash([])
      context.fillStyle = ink
      context.fillText(shown.join('  '), x(0), top + 12, each - 36)
    })
  }

  toggle() {
    if (!this.opened) return
    if (this.timer) {
      this.stop()
      return this.host.save()
    }
    const { points, kind } = this.view
    if (this.state.point >= points.length - 1) this.set({ point: 0 }, false)
    this.play.setAttribute('aria-pressed', 'true')
    this.play.textContent = '⏸'
    this.play.title = this.play.ariaLabel = `${this.host.t('Pause')} (Space)`
    let begun = performance.now()
    const advance = (/** @type {number} */ now) => {
      if (!this.timer) return
      if (!this.element.isConnected) return this.stop()
      if (now - begun >= 1000 / (kind === 'curve' ? SPEED.curve : SPEED.swap)) {
        begun = now
        const next = this.state.point + 1
        if (next < points.length) this.set({ point: next }, false)
        else if (this.state.loop) this.set({ point: 0 }, false)
        else return this.stop()
      }
      this.timer = requestAnimationFrame(advance)
    }
    this.timer = requestAnimationFrame(advance)
  }

  stop() {
    cancelAnimationFrame(this.timer)
    this.timer = 0
    this.play.setAttribute('aria-pressed', 'false')
    this.play.textContent = '▶'
    this.play.title = this.play.ariaLabel = `${this.host.t('Play')} (Space)`
  }

  /**
   * Pin a point, by its place or the first attribute's at the slider; a third one takes the place of the
   * first.
   * @param {Place} [place]
   */
  pin(place) {
    /** @type {Place} */
    const here = place ?? [this.state.patient, this.columns()[0], this.state.point]
    this.set({ pins: [...this.state.pins, here].slice(-2) }, true)
  }

  /** @param {MouseEvent} event */
  click({ offsetX, offsetY }) {
    const hit = this.placed.find(
      ({ x, y, width, height }) =>
        offsetX >= x && offsetX <= x + width && offsetY >= y && offsetY <= y + height,
    )
    if (hit) this.pin(hit.place)
  }

  /** @param {KeyboardEvent} event */
  key(event) {
    event.stopPropagation()
    if (
      !this.opened ||
      event.ctrlKey ||
      event.metaKey ||
      event.altKey ||
      event.target instanceof HTMLSelectElement
    )
      return
    if (event.key === ' ' && event.target instanceof HTMLButtonElement) return
    const { point, patient } = this.state
    const clamp = (/** @type {number} */ value, /** @type {number} */ last) =>
      Math.max(0, Math.min(last, value))
    const lastPoint = this.view.points.length - 1,
      lastPatient = this.view.seeds.length - 1
    /** @type {Record<string, () => void>} */
    const keys = {
      ArrowLeft: () => this.set({ point: clamp(point - 1, lastPoint) }, true),
      ArrowRight: () => this.set({ point: clamp(point + 1, lastPoint) }, true),
      ArrowUp: () => this.set({ patient: clamp(patient - 1, lastPatient) }, true),
      ArrowDown: () => this.set({ patient: clamp(patient + 1, lastPatient) }, true),
      Home: () => this.set({ point: 0 }, true),
      End: () => this.set({ point: lastPoint }, true),
      ' ': () => this.toggle(),
      d: () => this.diff.click(),
      p: () => this.pin(),
      l: () => this.loop.click(),
    }
    const act = keys[event.key] ?? keys[event.key.toLowerCase()]
    if (!act) return
    event.preventDefault()
    act()
  }

  async copy() {
    const cell = this.cells()[1]
    const image = this.picture(cell)
    if (!image) return
    const [canvas, context] = sheet(image.width, image.height)
    context.drawImage(image, 0, 0)
    const blob = await new Promise((/** @type {(blob: Blob | null) => void} */ done) => canvas.toBlob(done))
    try {
      if (blob) await navigator.clipboard.write([new ClipboardItem({ 'image/png': blob })])
      this.note.textContent = `${cell.label}, ${this.pointName(this.state.point)}: ✓ ${this.view.notice}`
    } catch {
      this.note.textContent = this.host.t(
        'The browser does not let this page copy images; use Download strip.',
      )
    }
  }

  /** The patient's trajectory as one PNG: a row an attribute, a column a point, the notice below. */
  async download() {
    const { view, pictures, decoder } = this.#file()
    const { patient } = this.state
    const columns = this.columns()
    const points = this.sampled()
    let [w, h] = view.size
    for (const row of new Set(columns.flatMap((a) => [0, ...points].map((n) => view.index[patient][a][n])))) {
      await pictures.load(row)
      const image = await decoder?.load(row)
      if (image) [w, h] = [image.width, image.height]
    }
    const [canvas, context] = sheet(w * points.length, (h + LABEL) * columns.length + LABEL)
    context.fillStyle = '#fff'
    context.fillRect(0, 0, canvas.width, canvas.height)
    context.font = '12px system-ui, sans-serif'
    for (const [i, a] of columns.entries())
      for (const [k, n] of points.entries()) {
        const image = this.picture({ row: view.index[patient][a][n], neutral: view.index[patient][a][0] })
        if (image) context.drawImage(image, k * w, i * (h + LABEL), w, h)
        context.fillStyle = '#000'
        context.fillText(
          `${k ? '' : `${view.attributes[a].name}, ${this.host.t('seed')} ${view.seeds[patient]}: `}${this.pointName(n)}`,
          k * w + 3,
          i * (h + LABEL) + h + 13,
          w - 6,
        )
      }
    context.fillText(view.notice, 3, canvas.height - 5)
    const link = make('a', {
      href: canvas.toDataURL('image/png'),
      download: `trajectory-seed-${view.seeds[patient]}.png`,
    })
    link.click()
  }

  /** All points of a swap; of a curve at most twelve, ends included. */
  sampled() {
    const last = this.view.points.length - 1
    const count = Math.min(last + 1, 12)
    return Array.from({ length: count }, (_, i) => Math.round((i * last) / (count - 1)))
  }

  dispose() {
    this.stop()
    this.resized.disconnect()
    predictions.removeEventListener('change', this.judged)
    decoded.removeEventListener('change', this.found)
    this.close()
  }

  close() {
    this.opened?.pictures.dispose()
    this.opened?.decoder?.dispose()
  }
}
