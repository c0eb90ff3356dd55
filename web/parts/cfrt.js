/**
 * The CFRT Evaluator's panel: for each attribute a bar of its CFRT, with its 95 % interval and the published
 * value, one of its flip rate, and behind them the patients that failed.
 */

import { filled, make } from './elements.js'

/** @import { CFRTFile, FlipRate, Result } from '../types/views' */
/** @import { Host, PanelState } from '../types/widgets' */

const ROWS_AT_A_TIME = 100
const NARROW = 470
// What a table needs beside its labels, and for each of them, before it turns into cards.
const SIDE_COLUMNS = 290
const LABEL_COLUMN = 84
// Delete and Backspace too: they would delete the node while somebody reads its table.
const KEYS = new Set([
  'Enter',
  ' ',
  'Tab',
  'ArrowUp',
  'ArrowDown',
  'PageUp',
  'PageDown',
  'Home',
  'End',
  'Delete',
  'Backspace',
])

let panels = 0

export class CFRTView {
  /** @param {Host<PanelState>} host */
  constructor(host) {
    this.host = host
    this.id = `mt-cfrt-${++panels}`
    /** @type {CFRTFile | undefined} */
    this.view = undefined
    this.element = make('div', { class: 'mt-cfrt' })
    this.resized = new ResizeObserver(() => this.fit())
    this.resized.observe(this.element, { box: 'border-box' })
    this.keepEvents()
  }

  get state() {
    return this.host.state
  }

  /** @param {CFRTFile} view */
  show(view) {
    this.view = view
    this.element.replaceChildren()
    if (!view?.results?.length) {
      this.element.append(make('p', { class: 'mt-cfrt-line' }, this.t('No result to show.')))
      return
    }
    this.element.append(this.head(view), this.scale())
    view.results.forEach((result, number) => this.element.append(this.section(view, result, number)))
    this.element.append(make('p', { class: 'mt-cfrt-notice' }, view.notice))
    this.fit()
    this.expand()
  }

  dispose() {
    this.resized.disconnect()
    this.element.remove()
  }

  /**
   * The text in the user's language, its {names} filled in.
   * @param {string} text
   * @param {Record<string, string | number>} values
   */
  t(text, values = {}) {
    return filled(this.host.t(text), values)
  }

  /** The canvas would move, zoom, copy or delete nodes on what is meant for the panel. */
  keepEvents() {
    const { element } = this
    for (const type of /** @type {const} */ (['pointerdown', 'mousedown', 'click', 'dblclick'])) {
      // The middle button still moves the canvas.
      element.addEventListener(type, (event) => event.button === 0 && event.stopPropagation())
    }
    element.addEventListener('wheel', (event) => {
      const scrolls = element.scrollHeight > element.clientHeight || element.scrollWidth > element.clientWidth
      if (scrolls && !event.ctrlKey) event.stopPropagation()
    })
    for (const type of /** @type {const} */ (['keydown', 'keyup'])) {
      element.addEventListener(
        type,
        (event) => KEYS.has(event.key) && !event.ctrlKey && !event.metaKey && event.stopPropagation(),
      )
    }
    element.addEventListener('copy', (event) => String(document.getSelection()) && event.stopPropagation())
  }

  fit() {
    const width = this.element.offsetWidth
    this.element.classList.toggle('mt-narrow', width < NARROW)
    this.element.classList.toggle(
      'mt-cards',
      width < SIDE_COLUMNS + LABEL_COLUMN * (this.view?.labels.length ?? 0),
    )
  }

  /** @param {CFRTFile} view */
  head(view) {
    const far =
      view.kind === 'curve'
        ? this.t('frames {first}–{last}', { first: view.far[0], last: view.far[view.far.length - 1] })
        : `λ = ${view.far.join(', ')}`
    const legend = make(
      'span',
      { class: 'mt-cfrt-legend' },
      make('i', { class: 'mt-cfrt-sample' }),
      this.t('95 % interval'),
    )
    if (view.results.some((result) => result.published !== null)) {
      const title = this.t('From the paper: real data, other models.')
      legend.append(make('span', { title }, make('i', { class: 'mt-cfrt-diamond' }), this.t('published')))
    }
    return make('div', { class: 'mt-cfrt-head' }, make('b', {}, 'CFRT'), make('span', {}, far), legend)
  }

  scale() {
    const numbers = ['0', '0.25', '0.5', '0.75', '1'].map((number) =>
      placed(make('span', {}, number), Number(number)),
    )
    return make(
      'div',
      { class: 'mt-cfrt-scale mt-cfrt-grid', 'aria-hidden': 'true' },
      make('span', { class: 'mt-cfrt-track' }, ...numbers),
    )
  }

  /**
   * @param {CFRTFile} view
   * @param {Result} result
   * @param {number} number
   */
  section(view, result, number) {
    const fill = make('i', { class: 'mt-cfrt-fill' })
    fill.style.width = percent(result.cfrt)
    fill.style.backgroundColor = view.attributes.find(({ name }) => name === result.attribute)?.colour ?? ''
    const whisker = placed(make('i', { class: 'mt-cfrt-whisker' }), result.low)
    whisker.style.width = percent(result.high - result.low)
    const track = make('span', { class: 'mt-cfrt-track' }, fill, whisker)
    const { attribute, successes, patients } = result
    const [cfrt, low, high, published] = [result.cfrt, result.low, result.high, result.published ?? 0].map(
      (value) => value.toFixed(3),
    )
    const values = { attribute, successes, patients, cfrt, low, high, published }
    let label = this.t(
      '{attribute}: CFRT {cfrt}, 95 % interval {low} to {high}, {successes} of {patients} patients',
      values,
    )
    let more = `${low}–${high}`
    if (result.published !== null) {
      track.append(
        placed(
          make('i', { class: 'mt-cfrt-published' }, make('i', { class: 'mt-cfrt-diamond' })),
          result.published,
        ),
      )
      label += this.t(', published {published}', values)
      more += ` · ${this.t('published')} ${published}`
    }
    const rows = [this.line(attribute, track, cfrt, this.t('{successes} of {patients}', values), more)]
    if (result.flip_rate) {
      const [row, said] = this.flipLine(view, result.flip_rate)
      rows.push(row)
      label += said
    }
    const id = `${this.id}-${number}`
    const roles = { 'aria-label': label, 'aria-expanded': 'false', 'aria-controls': id }
    const bar = make('button', { type: 'button', class: 'mt-cfrt-bar', ...roles }, ...rows)
    bar.addEventListener('click', () => {
      this.host.state.open = this.host.state.open === result.attribute ? null : result.attribute
      this.expand()
      this.host.save()
    })
    const detail = make('div', {
      id,
      class: 'mt-cfrt-detail',
      role: 'region',
      'aria-label': this.t('Patients of {attribute}', values),
      hidden: true,
    })
    const section = make('div', { class: 'mt-cfrt-result' }, bar, detail)
    section.dataset.attribute = result.attribute
    return section
  }

  /**
   * One share as a line of the panel: its name, its bar, its number and counts, and what else is known of it.
   * @param {string} name
   * @param {HTMLElement} track
   * @param {string} share
   * @param {string} counts
   * @param {string} more
   */
  line(name, track, share, counts, more) {
    return make(
      'span',
      { class: 'mt-cfrt-grid' },
      make('span', { class: 'mt-cfrt-name', title: name }, name),
      track,
      make('span', { class: 'mt-cfrt-value' }, make('b', {}, share), ' ', counts),
      make('span', { class: 'mt-cfrt-more' }, more),
    )
  }

  /**
   * The flip rate's line below CFRT's, and what a screen reader says of it.
   * @param {CFRTFile} view
   * @param {FlipRate} flips
   * @returns {[HTMLElement, string]}
   */
  flipLine(view, flips) {
    const track = make('span', { class: 'mt-cfrt-track' })
    let [rate, more, said] = ['–', this.t('none could flip'), this.t('; flip rate: none could flip')]
    if (flips.rate !== null && flips.interval) {
      const fill = make('i', { class: 'mt-cfrt-fill' })
      fill.style.width = percent(flips.rate)
      const whisker = placed(make('i', { class: 'mt-cfrt-whisker' }), flips.interval[0])
      whisker.style.width = percent(flips.interval[1] - flips.interval[0])
      track.append(fill, whisker)
      const [low, high] = flips.interval.map((value) => value.toFixed(3))
      rate = flips.rate.toFixed(3)
      more = `${low}–${high}`
      said = this.t('; flip rate {rate}, 95 % interval {low} to {high}, {flipped} of {able} patients', {
        rate,
        low,
        high,
        flipped: flips.flipped,
        able: flips.could_flip,
      })
      if (flips.median_first_point !== null) {
        const first = this.t('first {point}', { point: this.point(view, flips.median_first_point) })
        more += ` · ${first}`
        said += `, ${first}`
      }
    }
    const counts = this.t('{successes} of {patients}', {
      successes: flips.flipped,
      patients: flips.could_flip,
    })
    const line = this.line(this.t('flip rate'), track, rate, counts, more)
    line.classList.add('mt-cfrt-flip')
    line.title = this.t('The target passes {threshold} along the trajectory. First: where half of them had.', {
      threshold: flips.threshold,
    })
    return [line, said]
  }

  /**
   * A point's name, as the viewer has it.
   * @param {CFRTFile} view
   * @param {string} point
   */
  point(view, point) {
    return view.kind === 'curve' ? `${this.t('frame')} ${point}` : `λ = ${point}`
  }

  /** Open the attribute of the state and close the others. */
  expand() {
    for (const section of /** @type {NodeListOf<HTMLElement>} */ (
      this.element.querySelectorAll('.mt-cfrt-result')
    )) {
      const [bar, detail] = /** @type {HTMLElement[]} */ ([...section.children])
      const result = this.view?.results.find(({ attribute }) => attribute === section.dataset.attribute)
      const open = section.dataset.attribute === this.host.state.open
      bar.setAttribute('aria-expanded', String(open))
      detail.hidden = !open
      detail.replaceChildren()
      if (open && this.view && result) this.patients(this.view, result, detail)
    }
  }

  /**
   * @param {CFRTFile} view
   * @param {Result} result
   * @param {HTMLElement} detail
   */
  patients(view, result, detail) {
    const all = this.host.state.all === true
    const listed = sorted(result).filter((patient) => all || !result.success[patient])
    const tick = make('input', { type: 'checkbox' })
    tick.checked = all
    tick.addEventListener('change', () => {
      this.host.state.all = tick.checked
      detail.replaceChildren()
      this.patients(view, result, detail)
      detail.querySelector('input')?.focus()
      this.host.save()
    })
    const tools = make('div', { class: 'mt-cfrt-tools' }, make('label', {}, tick, this.t('all patients')))
    detail.append(make('p', { class: 'mt-cfrt-line' }, this.summary(view, result)))
    if (result.flip_rate)
      detail.append(make('p', { class: 'mt-cfrt-line' }, this.flipSummary(view, result.flip_rate)))
    detail.append(tools)
    if (!listed.length) return
    tools.append(
      this.copyButton(this.t('Copy seeds'), listed.map((patient) => view.seeds[patient]).join(', ')),
    )
    detail.append(this.table(view, result, listed))
  }

  /**
   * @param {CFRTFile} view
   * @param {Result} result
   */
  summary(view, result) {
    const failed = result.patients - result.successes
    if (!failed) return this.t('No patient failed.')
    /** @type {Map<number, number>} */
    const counts = new Map()
    for (const label of result.leaked) if (label >= 0) counts.set(label, (counts.get(label) ?? 0) + 1)
    const leaks = [...counts]
      .sort((a, b) => b[1] - a[1])
      .map(([label, count]) => `${view.labels[label]} ${count}`)
      .join(', ')
    return this.t('{failed} of {patients} patients failed. Leaked: {leaks}.', {
      failed,
      patients: result.patients,
      leaks,
    })
  }

  /**
   * Who flipped, and how many at which point first.
   * @param {CFRTFile} view
   * @param {FlipRate} flips
   */
  flipSummary(view, flips) {
    const counts = { flipped: flips.flipped, able: flips.could_flip, already: flips.already_above }
    const said = this.t('Flip rate: the target passes {threshold} in {flipped} of {able} patients.', {
      ...counts,
      threshold: flips.threshold,
    })
    const first = view.points
      .filter((point) => flips.patients_by_first_point[point])
      .map((point) => `${this.point(view, point)} (${flips.patients_by_first_point[point]})`)
      .join(', ')
    return [
      said,
      first && this.t('First at {points}.', { points: first }),
      counts.already && this.t('{already} passed already on the neutral image and are not counted.', counts),
    ]
      .filter(Boolean)
      .join(' ')
  }

  /**
   * @param {CFRTFile} view
   * @param {Result} result
   * @param {number[]} listed
   */
  table(view, result, listed) {
    const labels = [result.target, ...view.labels.keys()].filter(
      (label, place) => place === 0 || label !== result.target,
    )
    const largest = Math.max(0.001, ...result.deltas.map((row) => Math.max(...row.map(Math.abs))))
    const heads = [
      this.t('Seed'),
      this.t('Leaked'),
      this.t('Margin'),
      ...labels.map((label) =>
        label === result.target
          ? this.t('Δ {label} (target)', { label: view.labels[label] })
          : `Δ ${view.labels[label]}`,
      ),
    ]
    // The roles stay when the styles turn rows into cards.
    const head = make(
      'tr',
      { role: 'row' },
      ...heads.map((text) => make('th', { role: 'columnheader', scope: 'col', title: text }, text)),
    )
    const body = make('tbody', { role: 'rowgroup' })
    const table = make('table', { role: 'table' }, make('thead', { role: 'rowgroup' }, head), body)
    const more = make('button', { type: 'button', class: 'mt-cfrt-button' })
    const extend = () => {
      const start = body.children.length
      for (const patient of listed.slice(start, start + ROWS_AT_A_TIME))
        body.append(this.row(view, result, patient, labels, heads, largest))
      more.hidden = body.children.length === listed.length
      more.textContent = this.t('Show more ({shown} of {patients})', {
        shown: body.children.length,
        patients: listed.length,
      })
      return /** @type {HTMLElement | null} */ (body.children[start]?.querySelector('button'))
    }
    more.addEventListener('click', () => extend()?.focus({ preventScroll: true }))
    extend()
    return make('div', {}, table, more)
  }

  /**
   * @param {CFRTFile} view
   * @param {Result} result
   * @param {number} patient
   * @param {number[]} labels in the order of the columns
   * @param {string[]} heads
   * @param {number} largest change of the table
   */
  row(view, result, patient, labels, heads, largest) {
    const seed = String(view.seeds[patient])
    const leaked = result.leaked[patient]
    const copying = this.copyButton(this.t('Copy'), seed, this.t('Copy seed {seed}', { seed }))
    const cells = [
      make('td', { class: 'mt-cfrt-seed' }, make('span', {}, seed), ' ', copying),
      make('td', {}, leaked < 0 ? this.t('none') : view.labels[leaked]),
      make('td', { class: 'mt-cfrt-number' }, signed(margin(result, patient))),
    ]
    for (const label of labels) {
      const change = result.deltas[patient][label]
      const bar = placed(make('i', {}), 0.5 + Math.min(0, change / largest) / 2)
      bar.style.width = percent(Math.abs(change) / largest / 2)
      bar.style.backgroundColor = colourOf(view, view.labels[label])
      cells.push(
        make(
          'td',
          { class: label === leaked ? 'mt-cfrt-change mt-leak' : 'mt-cfrt-change' },
          make('span', { class: 'mt-cfrt-signed', 'aria-hidden': 'true' }, bar),
          make('span', { class: 'mt-cfrt-number' }, signed(change)),
        ),
      )
    }
    cells.forEach((cell, column) => {
      cell.setAttribute('role', 'cell')
      cell.dataset.head = heads[column]
      cell.title = heads[column]
    })
    return make('tr', { role: 'row', class: leaked < 0 ? 'mt-success' : '' }, ...cells)
  }

  /**
   * @param {string} text
   * @param {string} copied
   * @param {string} label
   */
  copyButton(text, copied, label = text) {
    const button = make('button', { type: 'button', class: 'mt-cfrt-button', 'aria-label': label }, text)
    button.addEventListener('click', async () => {
      const answer = this.t((await copy(copied)) ? 'Copied' : 'Not copied')
      button.focus({ preventScroll: true })
      button.textContent = answer
      button.setAttribute('aria-label', answer)
      setTimeout(() => {
        button.textContent = text
        button.setAttribute('aria-label', label)
      }, 1500)
    })
    return button
  }
}

/**
 * The colour of the attribute that stands for a label, none where it has no attribute of its own.
 * @param {CFRTFile} view
 * @param {string} label
 */
function colourOf({ attributes }, label) {
  const own = attributes.find(({ name, labels }) =>
    labels.length ? labels.length === 1 && labels[0] === label : name === label,
  )
  return own?.colour ?? ''
}

/** @param {number} share */
const percent = (share) => `${share * 100}%`

/**
 * The element, moved to a share of its parent's width.
 * @param {HTMLElement} element
 * @param {number} share
 */
function placed(element, share) {
  element.style.left = percent(share)
  return element
}

/** @param {number} value */
const signed = (value) => (value < 0 ? '−' : '+') + Math.abs(value).toFixed(3)

/**
 * How far the target rose above the other that rose most.
 * @param {Result} result
 * @param {number} patient
 */
function margin({ deltas, target }, patient) {
  return deltas[patient][target] - Math.max(...deltas[patient].filter((_, label) => label !== target))
}

/**
 * Patients by margin, the worst first; failures before successes, which a tie's rounding could mix.
 * @param {Result} result
 */
function sorted(result) {
  return [...result.deltas.keys()].sort(
    (a, b) =>
      Number(result.success[a]) - Number(result.success[b]) || margin(result, a) - margin(result, b) || a - b,
  )
}

/**
 * @param {string} text
 * @returns {Promise<boolean>} whether it is on the clipboard
 */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text)
    return true
  } catch {
    // A page that is not served over https, other than this machine's own, has no clipboard.
    const field = make('textarea', {})
    field.value = text
    document.body.append(field)
    field.select()
    const done = document.execCommand('copy')
    field.remove()
    return done
  }
}

export const css = `
.mt-cfrt { --mt-line: color-mix(in srgb, var(--fg-color, #fff) 22%, transparent); box-sizing: border-box;
  width: 100%; height: 100%; overflow: auto; padding: 8px 10px; font: 12px/1.35 system-ui, sans-serif;
  text-align: left; color: var(--fg-color, #fff); background: var(--comfy-menu-bg, #353535);
  user-select: text; }
.mt-cfrt *, .mt-cfrt *::before { box-sizing: border-box; }
.mt-cfrt p { margin: 0; }
.mt-cfrt-head { display: flex; flex-wrap: wrap; gap: 2px 8px; align-items: baseline; }
.mt-cfrt-legend { display: flex; flex-wrap: wrap; gap: 0 12px; margin-left: auto; align-items: center;
  color: var(--descrip-text, #999); }
.mt-narrow .mt-cfrt-legend { margin-left: 0; }
.mt-cfrt-legend i { margin-right: 6px; }
.mt-cfrt-sample { display: inline-block; width: 18px; height: 9px; border: solid var(--fg-color, #fff);
  border-width: 0 2px; vertical-align: -1px;
  background: linear-gradient(var(--fg-color, #fff) 0 0) center / 100% 2px no-repeat; }
.mt-cfrt-diamond { display: inline-block; width: 8px; height: 8px; background: var(--comfy-menu-bg, #353535);
  border: 2px solid var(--fg-color, #fff); transform: rotate(45deg); }
.mt-cfrt-grid { display: grid;
  grid-template: "name track value" auto "name track more" auto / minmax(70px, 20%) 1fr 176px;
  column-gap: 12px; width: 100%; padding: 3px 6px; align-items: center; }
.mt-narrow .mt-cfrt-grid { grid-template: "name value" auto "track track" auto "more more" auto / 1fr auto;
  row-gap: 2px; }
.mt-narrow .mt-cfrt-bar .mt-cfrt-track { margin-top: 7px; }
.mt-cfrt .mt-cfrt-flip { padding-top: 0; }
.mt-narrow .mt-cfrt-bar .mt-cfrt-flip .mt-cfrt-track { margin-top: 0; }
.mt-cfrt-flip .mt-cfrt-track { height: 10px; }
.mt-cfrt-flip .mt-cfrt-name, .mt-cfrt-flip .mt-cfrt-value { font-size: 11px; color: var(--descrip-text, #999); }
.mt-cfrt-flip .mt-cfrt-value b { font-size: 11px; }
.mt-cfrt-flip .mt-cfrt-name::before { visibility: hidden; }
.mt-cfrt-flip .mt-cfrt-whisker { top: 1px; bottom: 1px; }
.mt-cfrt-scale { height: 18px; margin-top: 4px; font-size: 10px; color: var(--descrip-text, #999); }
.mt-cfrt-scale .mt-cfrt-track { background: none; height: 12px; }
.mt-cfrt-scale .mt-cfrt-track span { position: absolute; transform: translateX(-50%); }
.mt-cfrt-bar { display: block; width: 100%; padding: 0; border: 1px solid transparent; border-radius: 4px;
  background: none;
  color: inherit; font: inherit; text-align: left; cursor: pointer; }
.mt-cfrt-bar:hover { background: color-mix(in srgb, var(--fg-color, #fff) 8%, transparent); }
.mt-cfrt-bar[aria-expanded=true] { border-color: var(--border-color, #4e4e4e); }
.mt-cfrt :focus-visible { outline: 2px solid var(--p-primary-color, #4a9eff); outline-offset: 1px; }
.mt-cfrt-name { grid-area: name; min-width: 0; overflow-wrap: anywhere; }
.mt-cfrt-name::before { content: "▸"; display: inline-block; width: 12px; color: var(--descrip-text, #999); }
[aria-expanded=true] .mt-cfrt-name::before { content: "▾"; }
.mt-cfrt-value { grid-area: value; white-space: nowrap; }
.mt-cfrt-value b { font-size: 13px; margin-right: 4px; }
.mt-cfrt-more { grid-area: more; white-space: nowrap; font-size: 11px; color: var(--descrip-text, #999); }
.mt-cfrt-track { grid-area: track; position: relative; display: block; height: 18px;
  background: repeating-linear-gradient(to right, var(--mt-line) 0 1px, transparent 1px 25%) 0 0 / 100% 100%;
  border-right: 1px solid var(--mt-line); }
.mt-cfrt-fill { position: absolute; inset: 2px auto 2px 0; background: var(--descrip-text, #999);
  box-shadow: inset 0 0 0 1px var(--mt-line); }
.mt-cfrt-whisker { position: absolute; top: 4px; bottom: 4px; border: solid var(--fg-color, #fff);
  border-width: 0 2px; filter: drop-shadow(0 0 1px var(--comfy-menu-bg, #353535));
  background: linear-gradient(var(--fg-color, #fff) 0 0) center / 100% 2px no-repeat; }
.mt-cfrt-published { position: absolute; top: -3px; bottom: -3px; width: 0;
  border-left: 2px solid var(--fg-color, #fff); margin-left: -1px;
  filter: drop-shadow(0 0 1px var(--comfy-menu-bg, #353535)); }
.mt-cfrt-published .mt-cfrt-diamond { position: absolute; left: -5px; top: -4px; }
.mt-cfrt-detail { padding: 4px 6px 12px 18px; }
.mt-narrow .mt-cfrt-detail { padding-left: 6px; }
.mt-cfrt-tools { display: flex; flex-wrap: wrap; gap: 4px 12px; align-items: center; margin: 4px 0; }
.mt-cfrt-tools label { display: inline-flex; gap: 5px; align-items: center; cursor: pointer; }
.mt-cfrt-tools input { margin: 0; accent-color: var(--p-primary-color, #4a9eff); }
.mt-cfrt-button { padding: 1px 7px; border: 1px solid var(--border-color, #4e4e4e); border-radius: 4px;
  background: var(--comfy-input-bg, #222); color: var(--input-text, #ddd); font: inherit; font-size: 11px;
  cursor: pointer; }
.mt-cfrt-button:hover { border-color: var(--fg-color, #fff); }
.mt-cfrt table { width: 100%; border-collapse: separate; border-spacing: 0; margin-bottom: 6px; }
.mt-cfrt th { position: sticky; top: -8px; z-index: 1; background: var(--comfy-menu-bg, #353535);
  font-weight: normal; color: var(--descrip-text, #999); vertical-align: bottom; }
.mt-cfrt th, .mt-cfrt td { padding: 3px 10px 3px 0; border-bottom: 1px solid var(--mt-line); text-align: left;
  overflow-wrap: anywhere; }
.mt-cfrt-seed { white-space: nowrap; font-variant-numeric: tabular-nums; }
.mt-cfrt-number { white-space: nowrap; font-variant-numeric: tabular-nums; }
.mt-cfrt-signed { position: relative; display: block; min-width: 56px; height: 7px;
  background: linear-gradient(var(--descrip-text, #999) 0 0) center / 1px 100% no-repeat; }
.mt-cfrt-signed i { position: absolute; top: 1px; bottom: 1px; background: var(--descrip-text, #999);
  box-shadow: inset 0 0 0 1px var(--mt-line); }
.mt-cfrt .mt-leak .mt-cfrt-number { font-weight: bold; padding: 0 3px; margin-left: -4px;
  border: 1px solid var(--error-text, #ff4444); border-radius: 3px; }
.mt-success { opacity: .75; }
.mt-cards thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
.mt-cards table, .mt-cards tbody { display: block; }
.mt-cards tr { display: grid; grid-template-columns: repeat(auto-fill, minmax(78px, 1fr)); gap: 4px 10px;
  padding: 6px 0; border-bottom: 1px solid var(--mt-line); }
.mt-cards thead tr { display: block; }
.mt-cards td { display: block; padding: 0; border: 0; min-width: 0; }
.mt-cards td.mt-cfrt-seed { grid-column: 1 / -1; }
.mt-cards td::before { content: attr(data-head); display: block; font-size: 10px;
  color: var(--descrip-text, #999); overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.mt-cards td.mt-cfrt-seed::before { display: inline; margin-right: 6px; }
.mt-cfrt p.mt-cfrt-notice { margin-top: 8px; font-size: 10px; color: var(--descrip-text, #999); }
`
